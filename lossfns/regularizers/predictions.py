"""Penalties on predicted distributions: entropy, consistency, and load balance of routers."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_classes,
    check_where,
    keep_rows,
    loss,
    non_negative,
    optional_size,
    prepare,
    zero_masked,
)
from lossfns._divergences import log_pair
from lossfns._numerics import log_normalizer, log_probabilities, row_shift, vary_like


@loss(threshold=non_negative)
def confidence_penalty(
    logits: jax.Array, *, threshold: float | jax.Array | None = None, where: jax.Array | None = None
) -> jax.Array:
    r"""Negative entropy of the prediction, $-H(p) = \sum_k p_k \log p_k$ with $p = \mathrm{softmax}(x)$.

    Added to a cross-entropy it discourages overconfidence; the term's weight is the paper's beta.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats. A class at -inf has probability 0.
        threshold: $\Gamma$ in nats: if given, the penalty is $\max(0, \Gamma - H(p))$, 0 above that entropy.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats, from -log V to 0 (0 to the threshold if given). A row of -inf gives NaN.

    Example:
        Equal odds have entropy log 2, certainty 0.

        >>> print(confidence_penalty(jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])).round(4))
        [-0.6931 -0.    ]

    Conventions:
        Label smoothing is the KL divergence in the other direction, from the uniform distribution.

    References:
        Pereyra et al. 2017, arXiv:1701.06548.
    """
    where, values = _entropy(logits, where)
    values = -values if threshold is None else jnp.maximum(as_scalar(threshold, values.dtype) - values, 0)
    return zero_masked(where, values)


@loss()
def entropy_minimization(logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Entropy of the prediction, $H(p) = -\sum_k p_k \log p_k$ with $p = \mathrm{softmax}(x)$.

    For unlabelled examples, to make predictions confident.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats. A class at -inf has probability 0.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats, from 0 to log V. A row of -inf gives NaN.

    Example:
        Equal odds have entropy log 2, certainty 0.

        >>> print(entropy_minimization(jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])).round(4))
        [0.6931 0.    ]

    References:
        Grandvalet and Bengio 2004, NeurIPS 17.
    """
    where, values = _entropy(logits, where)
    return zero_masked(where, values)


@loss()
def r_drop(logits_a: jax.Array, logits_b: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""R-Drop: mean of both KL divergences between two passes with different dropout.

    $$\tfrac12 \left(\mathrm{KL}(p \,\|\, q) + \mathrm{KL}(q \,\|\, p)\right)
    = \tfrac12 \sum_k (p_k - q_k)(\log p_k - \log q_k)$$

    Both sides get gradients. The cross-entropies of both passes are separate terms.

    Args:
        logits_a: [..., V], unnormalised log-probabilities of the first pass, in nats.
        logits_b: [..., V], logits of the second pass.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats, at least 0. A class at -inf in both passes costs 0, in only one inf.

    Example:
        Equal odds against odds of 3 to 1: differences of 1/4 and of log(3/2) and log 2, so log(3)/8.

        >>> print(r_drop(jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]]))).round(4))
        [0.1373]

    Conventions:
        The paper adds this, times alpha (1 to 5), to the sum of both cross-entropies; some code to their mean, which
        doubles its weight. With a mean over classes (torch's `reduction="mean"`) it is V times smaller.

    References:
        Liang et al. 2021, arXiv:2106.14448.
    """
    where, pair = prepare(where, row_axes=1, logits_a=logits_a, logits_b=logits_b)
    check_classes("logits_a", logits_a)
    a, b, gap = log_pair(*pair)
    no_a, no_b = a == -jnp.inf, b == -jnp.inf
    a, b = jnp.exp(a), jnp.exp(b)
    values = jnp.sum((b - a) * jnp.where(no_a | no_b, 0, gap), axis=-1) / 2
    lost = jnp.any((no_a & (b > 0)) | (no_b & (a > 0)), axis=-1)
    return zero_masked(where, jnp.where(lost, jnp.inf, values))


@loss()
def router_z(logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Router z-loss of a mixture of experts, $\left(\log \sum_e e^{x_e}\right)^2$, to keep the logits small.

    Args:
        logits: [..., E], the router's logits for each token, in nats. An expert at -inf is masked.
        where: [...], boolean; False excludes the token.

    Returns:
        [...], squared nats. All experts at -inf give inf.

    Example:
        Two experts at e each: log(2 e) squared; one at e^2: 4.

        >>> print(router_z(jnp.array([[1.0, 1.0], [2.0, -jnp.inf]])).round(2))
        [2.87 4.  ]

    Conventions:
        The paper's coefficient, the term's weight, is 0.001.

    References:
        Zoph et al. 2022, arXiv:2202.08906 (ST-MoE).
    """
    where, (x,) = prepare(where, row_axes=1, logits=logits)
    check_classes("logits", x)
    top, shift = row_shift(x)
    finite = ~jnp.isinf(top)
    x = jnp.where(finite, x, 0)
    log_z = log_normalizer(x, shift) + shift[..., 0]
    return zero_masked(where, jnp.where(finite[..., 0], jnp.square(log_z), jnp.inf))


@loss(static=("top_k", "axis_name"), top_k=optional_size)
def moe_load_balance(
    logits: jax.Array,
    *,
    top_k: int = 1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Load-balancing loss of a mixture of experts, $E \sum_e f_e P_e$.

    $f_e$ is the fraction of tokens routed to expert e (no gradient) and $P_e$ its mean router probability. The loss is
    1 in perfect balance and E for a single expert, one number for the whole batch.

    Args:
        logits: [..., E], the router's logits for each token, in nats. An expert at -inf is masked.
        top_k: Experts per token, of the largest logits; the first of ties.
        where: [...], boolean; False excludes the token (padding must not count as load).
        axis_name: Mapped device axis of the global batch.

    Returns:
        [...], the batch's value at every present token.

    Raises:
        ValueError: If there are fewer than `top_k` experts.

    Example:
        Both tokens choose the first of two experts, with probability 3/4: 2 * (1 * 3/4).

        >>> print(moe_load_balance(jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]]))).round(4))
        [1.5 1.5]

    Conventions:
        The paper's coefficient, the term's weight, is 0.01. For `top_k` above 1 the fractions sum to one, as in
        Megatron; in Hugging Face's Mixtral they sum to `top_k`, which multiplies the loss. A mean of losses of parts of
        the batch demands a stricter balance; GShard takes it per group.

    References:
        Fedus et al. 2021, arXiv:2101.03961 (Switch). Lepikhin et al. 2020, arXiv:2006.16668 (GShard).
    """
    check_array("logits", logits)
    check_classes("logits", logits)
    experts = logits.shape[-1]
    if top_k is None or top_k > experts:
        raise ValueError(f"top_k must be at most the {experts} experts of logits, got {top_k}")
    where = check_where(where, logits.shape[:-1])
    x = keep_rows(where, logits).astype(accumulation_dtype(logits))
    present = jnp.ones(x.shape[:-1], bool) if where is None else where
    chosen = jax.lax.top_k(jax.lax.stop_gradient(x), top_k)[1]
    is_chosen = chosen[..., None] == jnp.arange(experts).reshape((1,) * chosen.ndim + (-1,))
    choices = jnp.any(is_chosen, axis=-2).astype(x.dtype) / top_k
    everyone = tuple(range(x.ndim - 1))
    sums = tuple(
        jnp.sum(jnp.where(present[..., None], part, 0), axis=everyone)
        for part in (choices, jnp.exp(log_probabilities(x)), jnp.ones_like(x[..., :1]))
    )
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    load, mass, tokens = sums
    # The sum over devices is the same on all, but the values vary over devices.
    value = vary_like(experts * jnp.sum(load * mass) / jnp.square(jnp.maximum(tokens[0], 1)), x)
    return zero_masked(where, jnp.broadcast_to(value, x.shape[:-1]))


def _entropy(logits: jax.Array, where: jax.Array | None) -> tuple[jax.Array | None, jax.Array]:
    check_array("logits", logits)
    check_classes("logits", logits)
    where = check_where(where, logits.shape[:-1])
    log_p = log_probabilities(keep_rows(where, logits))
    values = jnp.sum(jnp.exp(log_p) * jnp.where(log_p == -jnp.inf, 0, -log_p), axis=-1)
    # A row of -inf is not a distribution.
    return where, jnp.where(jnp.all(log_p == -jnp.inf, axis=-1), jnp.nan, values)
