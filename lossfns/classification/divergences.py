"""Divergences between two distributions over classes, given as logits."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    check_classes,
    loss,
    prepare,
    zero_masked,
)
from lossfns._divergences import divergence, log_pair, mixture_divergence
from lossfns._numerics import relative_entropy


@loss()
def kl_divergence(logits: jax.Array, target_logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Kullback-Leibler divergence of the predicted from the target distribution.

    $$\mathrm{KL}(t \,\|\, p) = \sum_k t_k (\log t_k - \log p_k), \quad
    p = \mathrm{softmax}(\mathtt{logits}), \; t = \mathrm{softmax}(\mathtt{target\_logits})$$

    The expectation is under the target. For the reverse, $\mathrm{KL}(p \,\|\, t)$, exchange the arguments.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats of the prediction.
        target_logits: [..., V], logits of the target; a class at -inf has probability 0 and costs nothing. Gradients
            flow to it too: stop them outside for a constant target.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0. A class with probability only under the target gives inf.

    Example:
        A one-hot target against equal odds: log 2.

        >>> print(kl_divergence(jnp.zeros((1, 2)), jnp.array([[0.0, -jnp.inf]])).round(4))
        [0.6931]

    Conventions:
        torch's `kl_div` has the same direction but takes log-probabilities and probabilities; its default reduction, a
        mean over all entries, is 1/V of the mean over rows. Optax's also takes log-probabilities.
        `jax.scipy.special.kl_div` and `rel_entr` have the arguments in the other order.

    References:
        Kullback and Leibler 1951, doi:10.1214/aoms/1177729694.
    """
    where, (x, y) = prepare(where, row_axes=1, logits=logits, target_logits=target_logits)
    check_classes("logits", x)
    return zero_masked(where, divergence(x, y))


@loss()
def jensen_shannon(logits_a: jax.Array, logits_b: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Jensen-Shannon divergence, the mean KL divergence of both from their mixture.

    $$\tfrac12 \mathrm{KL}(a \,\|\, m) + \tfrac12 \mathrm{KL}(b \,\|\, m), \quad m = \tfrac12 (a + b)$$

    Args:
        logits_a: [..., V], unnormalised log-probabilities in nats; a class at -inf has probability 0.
        logits_b: [..., V], logits of the other; the loss is symmetric.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0 and at most log 2 up to rounding.

    Example:
        Two distributions with disjoint support are log 2 apart.

        >>> a, b = jnp.array([[0.0, -jnp.inf]]), jnp.array([[-jnp.inf, 0.0]])
        >>> print(jensen_shannon(a, b).round(4))
        [0.6931]

    Conventions:
        In bits it is at most one: divide by log 2. scipy's `jensenshannon` returns the square root, a metric.
        `generalized_jsd` weights the two sides unevenly.

    References:
        Lin 1991, doi:10.1109/18.61115.
    """
    where, (x, y) = prepare(where, row_axes=1, logits_a=logits_a, logits_b=logits_b)
    check_classes("logits_a", x)
    log_a, log_b, gap = log_pair(x, y)
    return zero_masked(where, mixture_divergence(log_a, log_b, gap, jnp.asarray(0.5, x.dtype)))


@loss()
def generalized_kl(log_predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Generalised Kullback-Leibler divergence of predicted from target masses, which need not sum to one.

    $$\sum_k t_k (\log t_k - x_k) - t_k + e^{x_k}$$

    Its minimum, 0, is where the predicted masses $e^x$ equal the targets.

    Args:
        log_predictions: [..., V], logarithms x of the predicted masses; -inf is a mass of 0.
        targets: [..., V], masses $t \ge 0$, any real dtype; $0 \log 0 = 0$, and a target of 0 has the gradient -x.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], units of the masses times nats per row, at least 0. A negative target gives NaN, a positive target with a
        predicted mass of 0 inf.

    Example:
        Masses of 1 for targets of 2 and 0: 2 log 2 - 1 and 1.

        >>> print(generalized_kl(jnp.zeros((2, 1)), jnp.array([[2.0], [0.0]])).round(4))
        [0.3863 1.    ]

    Conventions:
        Between distributions it is `kl_divergence`. `jax.scipy.special.kl_div` has the same terms, with targets first
        and masses instead of their logarithms. Per entry it is half the Poisson deviance.

    References:
        Csiszar 1991, doi:10.1214/aos/1176348385. Lee and Seung 2001, NeurIPS 13.
    """
    where, (x, t) = prepare(where, row_axes=1, others="real", log_predictions=log_predictions, targets=targets)
    check_classes("log_predictions", x)
    has = t != 0
    log_t = jnp.log(jnp.where(has, t, 1))
    # A target of 0 keeps its gradient, -x.
    alone = jnp.where(has, 0, x)
    absent = jnp.exp(alone) - t * jnp.where(alone == -jnp.inf, 0, alone)
    terms = jnp.where(has, relative_entropy(log_t, x, log_t - jnp.where(has, x, 0)), absent)
    return zero_masked(where, jnp.sum(terms, axis=-1))
