"""Divergences between two distributions over classes, on logits."""

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_array, check_shape, check_where, keep_rows, loss, zero_masked
from lossfns._numerics import centred, divided, log_add, log_normalizer, relative_entropy, row_shift
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
        [...], nats for each row, at least 0, float32 or wider; 0 at masked rows. A class that the target
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
    return zero_masked(where, divergence(x, y))


def divergence(x: jax.Array, target: jax.Array, temperature: jax.Array | float = 1.0) -> jax.Array:
    """KL(softmax(target / T) || softmax(x / T)) over the last axis, for logits in one dtype."""
    log_p, log_t, gap = log_pair(x, target, temperature)
    return of_distributions(jnp.sum(relative_entropy(log_t, log_p, gap), axis=-1), log_t)


def log_pair(
    x: jax.Array, y: jax.Array, temperature: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probabilities of x / T and y / T, and the second less the first, 0 where one of them is -inf."""
    below_x, below_y = centred(x), centred(y)
    # Near logits have an exact difference, which centring each of them would round.
    direct = (y - x) - (row_shift(y)[1] - row_shift(x)[1])
    gap = jnp.where(jnp.abs(y - x) <= jnp.abs(below_x), direct, below_y - below_x)
    gap = jnp.where((below_x == -jnp.inf) | (below_y == -jnp.inf), 0, gap)
    below_x, below_y = divided(below_x, temperature), divided(below_y, temperature)
    of_x, of_y = _log_normalizer(below_x), _log_normalizer(below_y)
    return below_x - of_x, below_y - of_y, gap / temperature - (of_y - of_x)


def _log_normalizer(x: jax.Array) -> jax.Array:
    """[..., 1], of rows of maximum 0; 0 in a row of nothing but -inf."""
    log_z = log_normalizer(x, jnp.zeros_like(x[..., :1]))[..., None]
    return jnp.where(log_z == -jnp.inf, 0, log_z)


@loss()
def jensen_shannon(logits_a: jax.Array, logits_b: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Jensen-Shannon divergence, the mean of both divergences from the mean distribution.

    $$\tfrac12 \mathrm{KL}(a \,\|\, m) + \tfrac12 \mathrm{KL}(b \,\|\, m), \quad m = \tfrac12 (a + b)$$

    Args:
        logits_a: [..., V], unnormalised log-probabilities in nats of one distribution; a class at -inf has none.
        logits_b: [..., V], those of the other; the two may be exchanged.
        where: [...], boolean; False deletes the row.

    Returns:
        [...], nats for each row, at least 0 and at most log 2 up to rounding, float32 or wider; 0 at masked rows.

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
    log_a, log_b, gap = log_pair(x, y)
    return zero_masked(where, mixture_divergence(log_a, log_b, gap, jnp.asarray(0.5, x.dtype)))


def mixture_divergence(log_a: jax.Array, log_b: jax.Array, gap: jax.Array, share: jax.Array) -> jax.Array:
    """Share KL(b || m) + (1 - share) KL(a || m) with m = share b + (1 - share) a; the gap is log b - log a.

    The share must be inside of 0 .. 1.
    """
    log_share, log_rest = jnp.log(share), jnp.log1p(-share)
    only_a, only_b = log_b == -jnp.inf, log_a == -jnp.inf
    gap = jnp.where(only_a | only_b, 0, gap)
    log_m = log_add(log_rest + log_a, log_share + log_b)
    # log a - log m = -log(1 + share (b / a - 1)), which has all digits where the two are near.
    from_a = jnp.where(only_a, -log_rest, -_log_mean(gap, share))
    from_b = jnp.where(only_b, -log_share, -_log_mean(-gap, 1 - share))
    terms = (1 - share) * relative_entropy(log_a, log_m, from_a) + share * relative_entropy(log_b, log_m, from_b)
    return of_distributions(of_distributions(jnp.sum(terms, axis=-1), log_a), log_b)


def _log_mean(gap: jax.Array, share: jax.Array) -> jax.Array:
    """log(1 - share + share e^gap)."""
    near = jnp.abs(gap) < 1
    far = jnp.logaddexp(jnp.log1p(-share), jnp.log(share) + jnp.where(near, 0, gap))
    return jnp.where(near, jnp.log1p(share * jnp.expm1(jnp.where(near, gap, 0))), far)


def of_distributions(values: jax.Array, log_probabilities: jax.Array) -> jax.Array:
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
        [...], units of the masses times nats for each row, at least 0, float32 or wider; 0 at masked
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
    has = t != 0
    log_t = jnp.log(jnp.where(has, t, 1))
    # A target of 0 keeps its gradient, -x.
    alone = jnp.where(has, 0, x)
    absent = jnp.exp(alone) - t * jnp.where(alone == -jnp.inf, 0, alone)
    terms = jnp.where(has, relative_entropy(log_t, x, log_t - jnp.where(has, x, 0)), absent)
    return zero_masked(where, jnp.sum(terms, axis=-1))
