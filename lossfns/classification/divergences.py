"""Divergences between two distributions over classes, on logits."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_array, check_shape, check_where, keep_rows, loss, zero_masked
from lossfns._numerics import log_probabilities
from lossfns.classification._shared import check_classes, check_pair


@loss()
def kl_divergence(logits: jax.Array, target_logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Kullback-Leibler divergence of the predicted from the target distribution.

    $$\mathrm{KL}(t \,\|\, p) = \sum_k t_k (\log t_k - \log p_k), \quad
    p = \mathrm{softmax}(\mathtt{logits}), \; t = \mathrm{softmax}(\mathtt{target\_logits})$$

    The mean is taken under the target. For the reverse, $\mathrm{KL}(p \,\|\, t)$, exchange the arguments.

    Args:
        logits: [..., V], unnormalised log-probabilities in nats of the prediction.
        target_logits: [..., V], those of the target; a class at -inf has probability 0 and costs nothing. It gets a
            gradient too: stop it outside where the target is a constant.
        where: [...], boolean; False deletes the row.

    Returns:
        [...], nats for each row, at least 0 up to rounding, float32 or wider; 0 at masked rows. A class that the target
        has and the prediction has not gives inf.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If one of them is not floating.

    Example:
        A sure target against even odds: log 2.

        >>> print(kl_divergence(jnp.zeros((1, 2)), jnp.array([[0.0, -jnp.inf]])).round(4))
        [0.6931]

    Conventions:
        torch's `kl_div` takes log-probabilities first and probabilities second, in the same direction; its default
        reduction, a mean over all entries, is 1/V of the mean over rows. Optax's is the same with log-probabilities.
        `jax.scipy.special.kl_div` and `rel_entr` have the arguments the other way round.

    References:
        Kullback and Leibler 1951, doi:10.1214/aoms/1177729694.
    """
    x, y, where = check_pair("logits", logits, "target_logits", target_logits, where)
    log_p, log_t = log_probabilities(x), log_probabilities(y)
    target = jnp.exp(log_t)
    has = log_t > -jnp.inf
    lost = jnp.any(has & (log_p == -jnp.inf) & (target > 0), axis=-1)
    common = has & (log_p > -jnp.inf)
    gaps = jnp.where(common, log_t, 0) - jnp.where(common, log_p, 0)
    values = jnp.sum(target * gaps, axis=-1)
    return zero_masked(where, _of_distributions(jnp.where(lost, jnp.inf, values), log_t))


@loss()
def jensen_shannon(logits_a: jax.Array, logits_b: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Jensen-Shannon divergence, the mean of both divergences from the mean distribution.

    $$\tfrac12 \mathrm{KL}(a \,\|\, m) + \tfrac12 \mathrm{KL}(b \,\|\, m), \quad m = \tfrac12 (a + b)$$

    Args:
        logits_a: [..., V], unnormalised log-probabilities in nats of one distribution; a class at -inf has none.
        logits_b: [..., V], those of the other; the two may be exchanged.
        where: [...], boolean; False deletes the row.

    Returns:
        [...], nats for each row, between 0 and log 2 up to rounding, float32 or wider; 0 at masked rows.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If one of them is not floating.

    Example:
        Two distributions without a class in common are log 2 apart.

        >>> a, b = jnp.array([[0.0, -jnp.inf]]), jnp.array([[-jnp.inf, 0.0]])
        >>> print(jensen_shannon(a, b).round(4))
        [0.6931]

    Conventions:
        In bits it is at most one: divide by log 2. Its square root is a metric, which scipy's `jensenshannon` returns.
        `generalized_jsd` weighs the two sides unevenly.

    References:
        Lin 1991, doi:10.1109/18.61115.
    """
    x, y, where = check_pair("logits_a", logits_a, "logits_b", logits_b, where)
    log_a, log_b = log_probabilities(x), log_probabilities(y)
    in_both = (log_a > -jnp.inf) & (log_b > -jnp.inf)
    gap = jnp.where(in_both, log_b, 0) - jnp.where(in_both, log_a, 0)
    # log m - log a = log((1 + b / a) / 2); a class that the other lacks has that of m = a / 2.
    of_a = jnp.exp(log_a) * jnp.where(in_both, math.log(2) - jax.nn.softplus(gap), math.log(2))
    of_b = jnp.exp(log_b) * jnp.where(in_both, math.log(2) - jax.nn.softplus(-gap), math.log(2))
    values = jnp.sum(of_a + of_b, axis=-1) / 2
    return zero_masked(where, _of_distributions(_of_distributions(values, log_a), log_b))


def _of_distributions(values: jax.Array, log_probabilities: jax.Array) -> jax.Array:
    """NaN in rows of nothing but -inf, which are no distributions."""
    return jnp.where(jnp.all(log_probabilities == -jnp.inf, axis=-1), jnp.nan, values)


@loss()
def generalized_kl(log_predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Generalised Kullback-Leibler divergence of predicted from target masses that need not sum to one.

    $$\sum_k t_k (\log t_k - x_k) - t_k + e^{x_k}$$

    Least, and 0, where the predicted masses $e^x$ are the targets.

    Args:
        log_predictions: [..., V], logarithms x of the predicted masses; -inf is a mass of 0.
        targets: [..., V], masses $t \ge 0$, any real dtype; $0 \log 0 = 0$, and a target of 0 has the gradient -x.
        where: [...], boolean; False deletes the row.

    Returns:
        [...], units of the masses times nats for each row, at least 0 up to rounding, float32 or wider; 0 at masked
        rows. A negative target gives NaN, a positive one of a predicted mass of 0 inf.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If log_predictions are not floating.

    Example:
        Masses of 1 where 2 were expected, and of 1 where none was: 2 log 2 - 1 and 1.

        >>> print(generalized_kl(jnp.zeros((2, 1)), jnp.array([[2.0], [0.0]])).round(4))
        [0.3863 1.    ]

    Conventions:
        Between distributions it is `kl_divergence` with the same direction. `jax.scipy.special.kl_div` has the same
        terms with targets first and masses in place of their logarithms. Per entry it is the Poisson deviance halved.

    References:
        Csiszar 1991, doi:10.1214/aos/1176348385. Lee and Seung 2001, NeurIPS 13.
    """
    check_array("log_predictions", log_predictions)
    check_array("targets", targets, "real")
    check_classes("log_predictions", log_predictions)
    check_shape("targets", targets, log_predictions.shape, "of log_predictions")
    where = check_where(where, log_predictions.shape[:-1])
    dtype = accumulation_dtype(log_predictions, targets)
    x, t = keep_rows(where, log_predictions).astype(dtype), keep_rows(where, targets).astype(dtype)
    has, missing = t != 0, x == -jnp.inf
    log_t = jnp.log(jnp.where(has, t, 1))
    terms = t * (log_t - jnp.where(missing, 0, x)) - t + jnp.exp(x)
    terms = jnp.where(has & missing, jnp.inf, terms)
    return zero_masked(where, jnp.sum(terms, axis=-1))
