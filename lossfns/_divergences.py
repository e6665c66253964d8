"""KL divergences between distributions given as logits."""

import jax
import jax.numpy as jnp

from lossfns._numerics import centred, divided, log_add, log_normalizer, relative_entropy, row_shift


def divergence(x: jax.Array, target: jax.Array, temperature: jax.Array | float = 1.0) -> jax.Array:
    """KL(softmax(target / T) || softmax(x / T)) over the last axis, for logits in one dtype."""
    log_p, log_t, gap = log_pair(x, target, temperature)
    return of_distributions(jnp.sum(relative_entropy(log_t, log_p, gap), axis=-1), log_t)


def log_pair(
    x: jax.Array, y: jax.Array, temperature: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probabilities of x / T and y / T, and second minus first, 0 where either is -inf."""
    below_x, below_y = centred(x), centred(y)
    # Near logits have an exact difference, which centring them first would round.
    direct = (y - x) - (row_shift(y)[1] - row_shift(x)[1])
    gap = jnp.where(jnp.abs(y - x) <= jnp.abs(below_x), direct, below_y - below_x)
    gap = jnp.where((below_x == -jnp.inf) | (below_y == -jnp.inf), 0, gap)
    below_x, below_y = divided(below_x, temperature), divided(below_y, temperature)
    of_x, of_y = _log_normalizer(below_x), _log_normalizer(below_y)
    return below_x - of_x, below_y - of_y, gap / temperature - (of_y - of_x)


def _log_normalizer(x: jax.Array) -> jax.Array:
    """Log-normaliser [..., 1] of rows with maximum 0; 0 in a row of -inf."""
    log_z = log_normalizer(x, jnp.zeros_like(x[..., :1]))[..., None]
    return jnp.where(log_z == -jnp.inf, 0, log_z)


def mixture_divergence(log_a: jax.Array, log_b: jax.Array, gap: jax.Array, share: jax.Array) -> jax.Array:
    """`share KL(b || m) + (1 - share) KL(a || m)` with m = share b + (1 - share) a; the gap is log b - log a.

    The share must be strictly between 0 and 1.
    """
    log_share, log_rest = jnp.log(share), jnp.log1p(-share)
    only_a, only_b = log_b == -jnp.inf, log_a == -jnp.inf
    gap = jnp.where(only_a | only_b, 0, gap)
    log_m = log_add(log_rest + log_a, log_share + log_b)
    # log a - log m = -log(1 + share (b / a - 1)), accurate where the two are near.
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
    """The values, NaN for rows of -inf, which are not distributions."""
    return jnp.where(jnp.all(log_probabilities == -jnp.inf, axis=-1), jnp.nan, values)
