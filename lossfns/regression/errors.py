"""Errors of real-valued predictions: squared, absolute, and between the two."""

import jax
import jax.numpy as jnp

from lossfns._contract import as_scalar, loss, non_negative, positive, zero_masked
from lossfns._numerics import magnitude
from lossfns.regression._shared import errors_of


@loss()
def squared_error(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared error, $(\hat y - y)^2$.

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], squared units of the target.

    Example:
        >>> print(squared_error(jnp.array([1.0, 5.0]), jnp.array([3.0, 5.0])))
        [4. 0.]

    Conventions:
        torch's `mse_loss` is this; Optax's `l2_loss` is half of it.
    """
    return zero_masked(where, jnp.square(errors_of(predictions, targets, where)))


@loss()
def absolute_error(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Absolute error, $|\hat y - y|$, with gradient 0 at equality.

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], units of the target.

    Example:
        >>> print(absolute_error(jnp.array([1.0, 5.0]), jnp.array([3.0, 5.0])))
        [2. 0.]
    """
    return zero_masked(where, magnitude(errors_of(predictions, targets, where)))


@loss(delta=positive)
def huber(
    predictions: jax.Array, targets: jax.Array, *, delta: float | jax.Array = 1.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Huber's loss: half the squared error up to $\delta$, linear beyond.

    $$\tfrac12 e^2 \ \text{if}\ |e| \le \delta, \quad \delta(|e| - \tfrac12\delta)\ \text{otherwise}$$

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        delta: Error at which the loss turns linear, in units of the target.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], squared units of the target.

    Example:
        At delta 1: half of 0.5 squared, and 3 - 1/2.

        >>> print(huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0])))
        [0.125 2.5  ]

    Conventions:
        torch's `huber_loss` and Optax's are this; torch's `smooth_l1_loss` with `beta` is this divided by delta.

    References:
        Huber 1964, doi:10.1214/aoms/1177703732.
    """
    size = jnp.abs(errors_of(predictions, targets, where))
    delta = as_scalar(delta, size.dtype)
    # Each part is clipped before use: beyond delta the square could overflow, and up to delta a linear part of
    # size - size would round the gradient by delta.
    near = jnp.where(size > delta, delta, size)
    far = jnp.where(size > delta, size - delta, 0)
    return zero_masked(where, near * near / 2 + delta * far)


@loss(beta=non_negative)
def smooth_l1(
    predictions: jax.Array, targets: jax.Array, *, beta: float | jax.Array = 1.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Smooth L1: the absolute error, quadratic below $\beta$.

    $$\frac{e^2}{2 \beta} \ \text{if}\ |e| \le \beta, \quad |e| - \tfrac12\beta\ \text{otherwise}$$

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        beta: Error at which the loss turns linear, in units of the target; 0 gives the absolute error.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], units of the target.

    Example:
        At beta 2: 1 squared over 4, and 3 - 1.

        >>> print(smooth_l1(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]), beta=2.0))
        [0.25 2.  ]

    Conventions:
        torch's `smooth_l1_loss` is this: `huber` with delta = beta, divided by beta, so the gradient of large errors is
        1. Fast R-CNN has beta 1, where the two agree; torchvision's detectors use 1/9.

    References:
        Girshick 2015, arXiv:1504.08083.
    """
    error = errors_of(predictions, targets, where)
    size, beta = jnp.abs(error), as_scalar(beta, error.dtype)
    near = jnp.where(size > beta, beta, size)
    far = jnp.where(size > beta, size - beta, 0)
    return zero_masked(where, near / jnp.where(beta == 0, 1, beta) * near / 2 + far)


@jax.custom_jvp
def _log_cosh(error: jax.Array) -> jax.Array:
    """`log cosh(e)` without cancellation near 0 or overflow; its derivative is tanh, which autodiff would round."""
    size = jnp.abs(error)
    return jnp.where(
        size < 1,
        jnp.log1p(2 * jnp.square(jnp.sinh(jnp.minimum(size, 1) / 2))),
        size + (jnp.log1p(jnp.exp(-2 * size)) - jnp.log(jnp.asarray(2, size.dtype))),
    )


_log_cosh.defjvps(lambda tangent, value, error: jnp.tanh(error) * tangent)


@loss()
def log_cosh(predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Logarithm of the hyperbolic cosine of the error, $\log \cosh(\hat y - y)$.

    About $e^2 / 2$ near zero and $|e| - \log 2$ for large errors, with derivative $\tanh e$.

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...].

    Example:
        cosh(log 3) = (3 + 1/3) / 2 = 5/3.

        >>> print(log_cosh(jnp.log(jnp.array([3.0, 1.0])), jnp.zeros(2)).round(4))
        [0.5108 0.    ]

    Conventions:
        The error is dimensionless: divide both arrays by the scale at which the loss should turn linear. Optax and
        Keras compute the same as a difference that loses the digits of errors below about 1e-3.

    References:
        Green 1990, doi:10.1109/42.52985.
    """
    return zero_masked(where, _log_cosh(errors_of(predictions, targets, where)))


@loss(epsilon=positive)
def charbonnier(
    predictions: jax.Array, targets: jax.Array, *, epsilon: float | jax.Array = 1e-3, where: jax.Array | None = None
) -> jax.Array:
    r"""Charbonnier's penalty, a differentiable absolute error: $\sqrt{e^2 + \varepsilon^2}$.

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        epsilon: Half-width of the rounded bottom, in units of the target.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], units of the target, at least epsilon.

    Example:
        The sides 3 and 4 of a right-angled triangle.

        >>> print(charbonnier(jnp.array([3.0, 0.0]), jnp.zeros(2), epsilon=4.0))
        [5. 4.]

    Conventions:
        As in LapSRN, with its epsilon; Charbonnier's paper has $2\sqrt{1 + e^2} - 2$. Kornia's subtracts the minimum:
        `barron` with alpha 1, times the scale. Epsilon is inside the root and in the error's unit: code with
        sqrt(e^2 + 1e-6) has epsilon 1e-3.

    References:
        Charbonnier et al. 1994, doi:10.1109/ICIP.1994.413553. Lai et al. 2017, arXiv:1710.01992 (LapSRN).
    """
    error = errors_of(predictions, targets, where)
    epsilon = as_scalar(epsilon, error.dtype)
    infinite = jnp.isinf(error)
    finite = jnp.where(infinite, 0, error)
    # The root is homogeneous: divided by the larger side, neither square overflows or vanishes.
    larger = jax.lax.stop_gradient(jnp.maximum(jnp.abs(finite), epsilon))
    root = larger * jnp.sqrt(jnp.square(finite / larger) + jnp.square(epsilon / larger))
    return zero_masked(where, jnp.where(infinite, jnp.abs(error), root))


@loss(cutoff=positive)
def tukey_biweight(
    predictions: jax.Array, targets: jax.Array, *, cutoff: float | jax.Array = 4.685, where: jax.Array | None = None
) -> jax.Array:
    r"""Tukey's biweight: about half the squared error near zero, constant beyond the cutoff $c$.

    $$\frac{c^2}{6} \left(1 - \left(1 - \min(e^2 / c^2, 1)\right)^3\right)$$

    Args:
        predictions: [...], floating.
        targets: [...], the same shape, any real dtype.
        cutoff: $c$, in units of the target, beyond which the gradient is 0.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], squared units of the target, at most $c^2 / 6$.

    Example:
        At cutoff 2 an error of 1 costs 2/3 of 1 - (3/4)^3, and every error of 2 or more costs 2/3.

        >>> print(tukey_biweight(jnp.array([1.0, 2.0, 9.0]), jnp.zeros(3), cutoff=2.0).round(4))
        [0.3854 0.6667 0.6667]

    Conventions:
        The default gives 95 % efficiency for normal errors of standard deviation 1: divide both arrays by a robust
        scale first (1.4826 times the median absolute deviation). Some texts omit the factor $c^2 / 6$.

    References:
        Beaton and Tukey 1974, doi:10.1080/00401706.1974.10489171. Belagiannis et al. 2015, arXiv:1505.06606.
    """
    error = errors_of(predictions, targets, where)
    cutoff = as_scalar(cutoff, error.dtype)
    # 1 - (1 - u)^3 = u (3 - 3u + u^2) is accurate for small errors; large errors are clipped before the square.
    near = jnp.where(jnp.abs(error) < cutoff, error, jnp.sign(error) * cutoff)
    u = jnp.square(near / cutoff)
    return zero_masked(where, near * near / 2 * (1 - u + u * u / 3))
