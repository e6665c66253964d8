"""Barron's general robust loss, its negative log-likelihood, and the normalising integral."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from lossfns._contract import (
    Number,
    accumulation_dtype,
    check_array,
    check_where,
    entries,
    keep_rows,
    loss,
    positive,
    zero_masked,
)

shape = Number("a number; -inf and inf are allowed", lambda v: v == v)
shape_of_density = Number("at least 0; inf is allowed", lambda v: v >= 0)


@loss(alpha=shape.each, scale=positive.each)
def barron(
    errors: jax.Array,
    *,
    alpha: float | jax.Array = 1.0,
    scale: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Barron's general robust loss: a family from the squared error to losses that ignore outliers.

    $$\frac{|\alpha - 2|}{\alpha} \left(\left(\frac{(x / c)^2}{|\alpha - 2|} + 1\right)^{\alpha / 2} - 1\right)$$

    and its limits: $\tfrac12 (x/c)^2$ at alpha 2, $\log(\tfrac12 (x/c)^2 + 1)$ (Cauchy) at 0 and $1 - e^{-(x/c)^2 / 2}$
    (Welsch) at $-\infty$; 1 is Charbonnier's, -2 Geman-McClure's. All are about $\tfrac12 (x/c)^2$ near zero.

    Args:
        errors: [...], floating, predictions - targets.
        alpha: Shape $\alpha$: a scalar, or an array that broadcasts to the errors (one shape per entry of the last
            axis); lower values reduce the influence of outliers. Learn it with `adaptive_barron`: this loss always
            prefers a lower alpha.
        scale: Scale $c$ in units of the errors: a scalar, or an array that broadcasts to them.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], dimensionless. A traced alpha of NaN or a traced scale of 0 or less gives NaN at its entries.

    Example:
        An error of 2 with alpha 2, 0 and -2: 2, log 3, and 1.

        >>> print(barron(jnp.full(3, 2.0), alpha=jnp.array([2.0, 0.0, -2.0])).round(4))
        [2.     1.0986 1.    ]

    Conventions:
        The author's code has the same values. Its gradient of alpha, with `approximate=False`, is 0 at alpha 0 and
        2; here it is the limit at 0. At 2 the derivative is infinite (it grows like $-\log |\alpha - 2|$), and the
        gradient is that at a distance of 1e-20. The curvature at zero is $1 / c^2$: at alpha 1 it is `charbonnier`
        divided by its epsilon, minus 1.

    References:
        Barron 2019, arXiv:1701.03077.
    """
    errors, alpha, scale = _options(errors, alpha, scale, where)
    return zero_masked(where, _penalty(errors / scale, alpha))


@loss(alpha=shape_of_density.each, scale=positive.each)
def adaptive_barron(
    errors: jax.Array,
    *,
    alpha: float | jax.Array = 1.0,
    scale: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Negative log-likelihood under Barron's distribution, to learn its shape and scale.

    $$\rho(x, \alpha, c) + \log c + \log Z(\alpha), \quad
    Z(\alpha) = \int_{-\infty}^{\infty} e^{-\rho(x, \alpha, 1)} dx$$

    with $\rho$ of `barron`: normal at alpha 2, Cauchy (of scale $\sqrt 2 c$) at 0.

    Args:
        errors: [...], floating, predictions - targets.
        alpha: Shape $\alpha \ge 0$: a scalar, or an array that broadcasts to the errors. To learn it, map a free
            parameter to an interval, such as $2 \sigma(a)$ for the paper's 0 to 2.
        scale: Scale $c$ in units of the errors: a scalar, or an array that broadcasts to them.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], nats. A traced alpha below 0, which has no distribution, or a scale of 0 or less gives NaN at its
        entries.

    Example:
        No error, alpha 2 and 0: log of the square root of 2 pi, and of pi times the root of 2.

        >>> print(adaptive_barron(jnp.zeros(2), alpha=jnp.array([2.0, 0.0])).round(3))
        [0.919 1.491]

    Conventions:
        The author's code interpolates log Z in a table, to within 1e-6; here the integral and its derivative are
        computed by quadrature (relative error of Z below 1e-12 for alpha up to 2.5, below 1e-7 for any), with 125
        evaluations per alpha: keep alpha a scalar or per feature. Its modules confine alpha to 0.001 .. 1.999 and the
        scale to at least 1e-5. For the gradient of alpha at 2, see `barron`.

    References:
        Barron 2019, arXiv:1701.03077.
    """
    log_z = log_partition(jnp.asarray(alpha, _dtype(errors))) if jnp.ndim(alpha) < jnp.ndim(errors) else None
    errors, alpha, scale = _options(errors, alpha, scale, where)
    log_z = log_partition(alpha) if log_z is None else entries("alpha", log_z, shape, errors, where)
    return zero_masked(where, _penalty(errors / scale, alpha) + jnp.log(scale) + log_z)


def _dtype(errors: jax.Array) -> jnp.dtype:
    return accumulation_dtype(check_array("errors", errors))


def _options(
    errors: jax.Array, alpha: float | jax.Array, scale: float | jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Errors, shapes and scales, broadcast to one shape and sanitised."""
    dtype = _dtype(errors)
    where = check_where(where, errors.shape)
    errors = keep_rows(where, errors).astype(dtype)
    scale = entries("scale", scale, positive, errors, where, 1)
    return errors, entries("alpha", alpha, shape, errors, where, 1), scale


@jax.custom_jvp
def _penalty(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """The general loss of x = error / scale."""
    return _value(x, alpha)


@functools.partial(_penalty.defjvp, symbolic_zeros=True)
def _penalty_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    # The derivative by x is much simpler than the loss: x (1 + x^2 / b)^(alpha / 2 - 1) = x e^(-+ w / 2).
    (x, alpha), (dx, dalpha) = primals, tangents
    w = _width(x, alpha)[0]
    tangent_out = jnp.zeros_like(x)
    if not isinstance(dx, SymbolicZero):
        tangent_out += x * jnp.exp(jnp.where(alpha <= 2, -w, w) / 2) * dx
    if not isinstance(dalpha, SymbolicZero):
        tangent_out += jax.jvp(lambda a: _value(x, a), (alpha,), (jnp.ones_like(alpha),))[1] * dalpha
    return _penalty(x, alpha), tangent_out


def _width(x: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Width w = b log(1 + x^2 / b) with b = |alpha - 2|, the logarithm, b, and whether b is effectively infinite."""
    gap = alpha - 2
    b = jnp.where(gap <= 0, -gap, gap) + jnp.where(gap == 0, 1e-20, 0).astype(x.dtype)
    limit = b > 1e18
    b = jnp.where(limit, 1, b)
    q = jnp.abs(x) * jax.lax.rsqrt(b)
    outside = q > 1
    q_in, q_out = jnp.where(outside, 0, q), jnp.where(outside, q, 1)
    # Neither square nor sum overflows or loses the smaller part.
    u = jnp.where(outside, 2 * jnp.log(q_out) + jnp.log1p(1 / q_out / q_out), jnp.log1p(q_in * q_in))
    return jnp.where(limit, jnp.square(jnp.where(limit, x, 0)), b * u), u, b, limit


def _value(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """The general loss as w / 2 times (e^t - 1) / t at t = alpha u / 2, which is smooth through alpha 0.

    Close to alpha 2, where b is lost in rounding, the power is written (1 + x^2 / b) e^(-+ w / 2), and for large x the
    limit is exact. Inputs outside a form's domain are replaced before computing it.
    """
    w, u, b, limit = _width(x, alpha)
    close = jnp.abs(alpha - 2) < 0.5
    exponent = jnp.where(limit | close, 0, jnp.where(limit, 1, alpha) * u / 2)
    general = jnp.where(limit | close, 0, w) / 2 * _expm1_over(exponent, 1)
    near_two = _near_two(jnp.where(close, x, 0), jnp.where(close, alpha, 2), b, jnp.where(close, w, 0))
    sign = jnp.where(alpha > 0, 1, -1).astype(x.dtype)
    extreme = sign * jnp.expm1(sign * jnp.where(limit, w, 0) / 2)
    return jnp.where(limit, extreme, jnp.where(close, near_two, general))


def _near_two(x: jax.Array, alpha: jax.Array, b: jax.Array, w: jax.Array) -> jax.Array:
    z, half = x * x, jnp.where(alpha <= 2, -w, w) / 2
    small = z < b
    inside = jnp.where(small, z, 0)
    inside = inside + (b + inside) * jnp.expm1(half)
    return jnp.where(small, inside, (b + z) * jnp.exp(half) - b) / alpha


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _expm1_over(t: jax.Array, order: int) -> jax.Array:
    """The sum of t^j / (j + order)! over j from 0: (e^t - 1) / t for order 1, the others for its derivatives."""
    small = jnp.abs(t) < 1
    s, away = jnp.where(small, t, 0), jnp.where(small, 1, t)
    total, closed = jnp.ones_like(t), jnp.expm1(away) / away
    for j in range(18, 0, -1):
        total = 1 + s / (j + order) * total
    for k in range(1, order):
        closed = (closed - 1 / math.factorial(k)) / away
    return jnp.where(small, total / math.factorial(order), closed)


@_expm1_over.defjvp
def _expm1_over_jvp(order: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    value = _expm1_over(primals[0], order)
    return value, (value - order * _expm1_over(primals[0], order + 1)) * tangents[0]


# The double-exponential rule for 0 to infinity: x = exp(pi/2 sinh t) at equal steps of t. It clusters points at x = 0,
# where the integrand loses its derivatives as alpha nears 2, and reaches the tails of the Cauchy density.
_STEP = 1 / 16
_T = np.arange(-62, 63) * _STEP
_POINTS = np.exp(np.pi / 2 * np.sinh(_T))
_WEIGHTS = np.pi * _STEP * np.cosh(_T) * _POINTS


@jax.custom_jvp
def log_partition(alpha: jax.Array) -> jax.Array:
    r"""Log of $Z(\alpha)$, the integral of $e^{-\rho(x, \alpha, 1)}$ over all x; NaN where alpha is below 0."""
    at = alpha.shape + _POINTS.shape
    defined = alpha >= 0
    shapes = jnp.broadcast_to(jnp.where(defined, alpha, 1)[..., None], at)
    # From alpha 2 on the loss exceeds 78 at 12.5, and much further out it overflows.
    points = jnp.broadcast_to(_POINTS.astype(alpha.dtype), at)
    points = jnp.where(shapes >= 2, jnp.minimum(points, 12.5), points)
    density = jnp.exp(-_penalty(points, shapes))
    total = jnp.sum(density * jnp.broadcast_to(_WEIGHTS.astype(alpha.dtype), at), axis=-1)
    return jnp.where(defined, jnp.log(total), jnp.nan)


@log_partition.defjvp
def _log_partition_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Each alpha has one derivative, which is stored instead of the integrand.
    value, tangent_out = jax.jvp(log_partition.fun, primals, (jnp.ones_like(primals[0]),))
    return value, tangent_out * tangents[0]
