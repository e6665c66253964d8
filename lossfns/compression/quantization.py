"""Quantisation: straight-through rounding, and penalties that make weights easy to quantise."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    flag,
    loss,
    non_negative,
    one_of,
    positive,
    python_int,
)
from lossfns._numerics import divided
from lossfns.compression._trees import PyTree, leaves


def _bits(name: str, value: Any) -> int:
    if not 1 <= python_int(name, value) <= 16:
        raise ValueError(f"{name} must be between 1 and 16, got {value}")
    return int(value)


def _axis(name: str, value: Any) -> int | None:
    return None if value is None else python_int(name, value, " or None")


def _zero_point(name: str, value: Any) -> Any:
    if value is None or isinstance(value, jax.Array):
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer | np.ndarray):
        raise TypeError(f"{name} must be an integer, an array of integers or None, got {value!r}")
    return value


@loss(
    static=("bits", "axis", "signed", "symmetric", "scale_gradient"),
    bits=_bits,
    scale=positive.each,
    zero_point=_zero_point,
    axis=_axis,
    signed=flag,
    symmetric=flag,
    scale_gradient=one_of("lsq", "plain"),
)
def fake_quantize(
    x: jax.Array,
    *,
    bits: int,
    scale: float | jax.Array | None = None,
    zero_point: int | jax.Array | None = None,
    axis: int | None = None,
    signed: bool = True,
    symmetric: bool = True,
    scale_gradient: str = "lsq",
) -> jax.Array:
    r"""Rounds to a grid of $2^b$ levels with a straight-through gradient (fake quantisation).

    $$\hat x = s \cdot \mathrm{round}(\mathrm{clip}(x / s, -Q_N, Q_P))$$

    with $Q_N = 2^{b-1}$ and $Q_P = 2^{b-1} - 1$, or 0 and $2^b - 1$ without a sign; both are moved down by the zero
    point $z$. One bit with a sign is $\hat x = \pm s$. The gradient takes the rounding for the identity:

    $$\frac{\partial \hat x}{\partial x} = [-Q_N < x/s < Q_P], \quad \frac{\partial \hat x}{\partial s} =
    g \cdot \begin{cases} \mathrm{round}(x/s) - x/s & \text{inside} \\ -Q_N \text{ or } Q_P & \text{outside}
    \end{cases}$$

    Args:
        x: [...], weights or activations.
        bits: $b$, a Python integer in 1 .. 16.
        scale: $s$, the step: a scalar, or [n] for the n entries of `axis`. It may be learnt. None takes the largest
            magnitude over $Q_P$ (for one signed bit, the mean magnitude), without gradient; all of x then counts as
            inside, except negative entries on an unsigned grid.
        zero_point: $z$, the level of 0, in $-Q_N .. Q_P$: an integer, or integers [n]; without gradient.
            None for level 0. Needs `scale`.
        axis: The channel axis; None for a single step.
        signed: Whether levels may be negative.
        symmetric: False takes step and zero point from the smallest and largest entry (and 0), so that the grid spans
            both; only without `scale`.
        scale_gradient: "lsq" has $g = 1 / \sqrt{N Q_P}$ with N the number of entries that share the step, "plain" has
            $g = 1$.

    Returns:
        The shape of x. A step that is not positive or a zero point off the grid gives NaN.

    Raises:
        ValueError: If options exclude each other.

    Example:
        Three bits and a step of 1: -4 .. 3.

        >>> print(fake_quantize(jnp.array([-9.0, -0.6, 0.4, 2.2, 9.0]), bits=3, scale=1.0))
        [-4. -1.  0.  2.  3.]

        Two bits from -1 to 2 have steps of 1; one bit is the sign times the mean magnitude.

        >>> print(fake_quantize(jnp.array([-1.0, 0.2, 2.0]), bits=2, symmetric=False))
        [-1.  0.  2.]
        >>> print(fake_quantize(jnp.array([-1.0, 0.0, 2.0]), bits=1))
        [-1.  1.  1.]

    Conventions:
        - Halves are rounded to even, as in torch. With a given step the gradient stops where $x / s$ leaves the grid,
          as in LSQ; in torch's `fake_quantize` half a step later, where rounding does.
        - LSQ initialises the step to $2 \,\mathrm{mean} |x| / \sqrt{Q_P}$. Without a given step and zero point the
          lowest level is unused (-3 .. 3 for three bits), as many kernels require.
        - Jacob et al. round the zero point to a level, so that 0 is exact, and so does torch's `fake_quantize`, which
          is this with `scale` and `zero_point`. LSQ's successors also learn the zero point.
        - One bit: the sign of 0 is +1. BinaryConnect has no step and passes all gradients, as here without `scale`;
          XNOR-Net's gradient also flows through the mean magnitude, omitted here.

    References:
        Bengio et al. 2013, arXiv:1308.3432 (straight-through). Esser et al. 2019, arXiv:1902.08153 (LSQ). Jacob et al.
        2018, arXiv:1712.05877 (zero point). Courbariaux et al. 2015, arXiv:1511.00363 (BinaryConnect). Rastegari et al.
        2016, arXiv:1603.05279 (XNOR-Net).
    """
    check_array("x", x)
    if axis is not None and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be an axis of x with shape {x.shape}, got {axis}")
    _check_options(scale, zero_point, symmetric)
    binary = bits == 1 and signed and symmetric and zero_point is None
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = (-1, 1) if binary else (low, high)
    x = x.astype(accumulation_dtype(x))
    if scale is None:
        step, zero = _range(x, axis, low, high, binary, symmetric)
    else:
        step, zero = _given(x, axis, "scale", scale).astype(x.dtype), jnp.zeros((1,) * x.ndim, x.dtype)
        step = jnp.where(step > 0, step, jnp.nan)
        if zero_point is not None:
            zero = _given(x, axis, "zero_point", zero_point).astype(x.dtype)
            zero = jnp.where((zero >= low) & (zero <= high), zero, jnp.nan)
        if scale_gradient == "lsq":
            factor = 1 / math.sqrt(max(x.size // max(step.size, 1), 1) * max(high, 1))
            step = jax.lax.stop_gradient(step * (1 - factor)) + step * factor
    ratio, least, most = divided(x, step), low - zero, high - zero
    # A range taken from x contains all of x, even if its ends are rounded inwards.
    inside = (
        (ratio > least) & (ratio < most) if scale is not None else (ratio > 0 if symmetric and not signed else True)
    )
    level = jnp.where(ratio >= 0, 1, jnp.where(ratio < 0, -1, ratio)) if binary else jnp.round(ratio)
    level = jax.lax.stop_gradient(jnp.clip(level, least, most))
    if binary:  # all zeros: a mean magnitude of 0
        level = jnp.where(jnp.any(x != 0, axis=_others(x, axis), keepdims=True), level, 0) if scale is None else level
    return jnp.where(inside, ratio + jax.lax.stop_gradient(level - ratio), level) * step


def _check_options(scale: Any, zero_point: Any, symmetric: bool) -> None:
    if scale is None and zero_point is not None:
        raise ValueError("zero_point needs scale; for both to be taken from x give symmetric=False alone")
    if scale is not None and not symmetric:
        raise ValueError("symmetric=False takes scale and zero point from x, got a scale; give zero_point with it")


def _others(x: jax.Array, axis: int | None) -> tuple[int, ...]:
    """All axes but the channel axis."""
    return tuple(i for i in range(x.ndim) if axis is None or i != axis % x.ndim)


def _given(x: jax.Array, axis: int | None, name: str, value: Any) -> jax.Array:
    """A number for x or for each of its channels, in a shape that broadcasts."""
    value = jnp.asarray(value)
    if name == "zero_point":
        check_array(name, value, "integer")
    shape = () if axis is None else (x.shape[axis],)
    if value.shape not in ((), shape):
        wanted = "a scalar" if axis is None else f"a scalar or have the shape {shape} of axis {axis}"
        raise ValueError(f"{name} must be {wanted}, got shape {value.shape}")
    return jnp.expand_dims(value, _others(x, axis)) if value.ndim else value.reshape((1,) * x.ndim)


def _range(
    x: jax.Array, axis: int | None, low: int, high: int, binary: bool, symmetric: bool
) -> tuple[jax.Array, jax.Array]:
    """Step and zero point of a grid that spans x, without gradient; a step of 1 where all of x is 0."""
    x, rest = jax.lax.stop_gradient(x), _others(x, axis)
    if symmetric:
        size = jnp.abs(x)
        number = max(math.prod(x.shape[i] for i in rest), 1)
        mean, largest = jnp.sum(size / number, rest, keepdims=True), jnp.max(size, rest, keepdims=True, initial=0)
        reach = mean if binary else largest
        return jnp.where(reach == 0, 1, reach / high), jnp.zeros((1,) * x.ndim, x.dtype)
    least = jnp.min(x, axis=rest, keepdims=True, initial=0)
    most = jnp.max(x, axis=rest, keepdims=True, initial=0)
    step = most / (high - low) - least / (high - low)
    step = jnp.where(step == 0, 1, step)
    return step, jnp.clip(jnp.round(low - least / step), low, high)


@loss(weight=non_negative, target=positive)
def kurtosis_penalty(params: PyTree, *, weight: float | jax.Array = 1.0, target: float | jax.Array = 1.8) -> jax.Array:
    r"""Kurtosis regularisation (KURE), towards uniformly distributed weights, which lose least in quantisation.

    $$\frac{\lambda}{L} \sum_l (\mathrm{Kurt}(W_l) - K)^2, \quad
    \mathrm{Kurt}(W) = \mathrm{mean}\left( \frac{W - \mu}{\sigma} \right)^4$$

    Args:
        params: Any pytree of floating arrays to be quantised.
        weight: $\lambda$.
        target: $K$, 1.8 for a uniform distribution; a normal one has 3.

    Returns:
        A scalar; 0 for an empty pytree. Constant arrays have no kurtosis and are excluded from the mean.

    Example:
        Two equally frequent values have the smallest possible kurtosis, 1.

        >>> print(kurtosis_penalty({"w": jnp.array([1.0, -1.0, 1.0, -1.0])}).round(4))
        0.64

    Conventions:
        Not excess kurtosis (minus 3); the variance is the population's.

    References:
        Shkolnik et al. 2020, arXiv:2002.07686.
    """
    arrays, dtype = leaves("params", params)
    total = count = jnp.zeros((), dtype)
    for x in arrays:
        if x.size == 0:
            continue
        # Scaled by the largest deviation, as a constant: kurtosis is scale-invariant.
        centred = x - jnp.mean(x)
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(centred)))
        constant = largest <= 8 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(jax.lax.stop_gradient(x)))
        scaled = jnp.where(constant, 0, centred / jnp.where(largest == 0, 1, largest))
        variance = jnp.where(constant, 1, jnp.mean(jnp.square(scaled)))
        kurtosis = jnp.mean(jnp.square(jnp.square(scaled))) / jnp.square(variance)
        total += jnp.where(constant, 0, jnp.square(kurtosis - as_scalar(target, dtype)))
        count += 1 - constant.astype(dtype)
    return as_scalar(weight, dtype) * total / jnp.maximum(count, 1)


@loss(weight=non_negative, sharpness=positive)
def entropy_of_weights(
    params: PyTree,
    levels: jax.Array,
    *,
    weight: float | jax.Array = 1.0,
    sharpness: float | jax.Array = 1.0,
) -> jax.Array:
    r"""Entropy of the quantised weights: nats per weight under entropy coding.

    $$-\lambda \sum_k p_k \log p_k, \quad p_k = \mathrm{mean}_i \frac{e^{-\sigma (w_i - c_k)^2}}{\sum_j
    e^{-\sigma (w_i - c_j)^2}}$$

    Weights are softly assigned to levels by distance; as $\sigma$ grows this becomes the entropy of the nearest levels.

    Args:
        params: Any pytree of floating arrays, with one distribution for all.
        levels: [K], the levels $c$, at least one; they may be learnt.
        weight: $\lambda$.
        sharpness: $\sigma$, in units of one over a squared weight: about ten over the squared distance of levels is
            nearly hard.

    Returns:
        A scalar, nats per weight (divide by log 2 for bits) times $\lambda$; 0 for an empty pytree.

    Example:
        Half of the weights at each level: log 2.

        >>> params, levels = {"w": jnp.array([0.0, 1.0, 0.0, 1.0])}, jnp.array([0.0, 1.0])
        >>> print(entropy_of_weights(params, levels, sharpness=100.0).round(4))
        0.6931

    Conventions:
        The paper estimates the entropy for its own code; a hard histogram has no gradient. The assignments of all
        weights to all levels are materialised.

    References:
        Agustsson et al. 2017, arXiv:1704.00648.
    """
    check_rank("levels", check_array("levels", levels), 1, "[levels]")
    if levels.size == 0:
        raise ValueError(f"levels must have at least one entry, got shape {levels.shape}")
    arrays, _ = leaves("params", params)
    dtype = accumulation_dtype(levels, *arrays)
    number = sum(x.size for x in arrays)
    if number == 0:
        return jnp.zeros((), dtype)
    centres, sigma = levels.astype(dtype)[None, :], as_scalar(sharpness, dtype)
    mass = jnp.zeros(levels.shape, dtype)
    for x in arrays:
        distances = jnp.square(x.astype(dtype).reshape(-1, 1) - centres)
        mass += jnp.sum(jax.nn.softmax(-sigma * distances, axis=-1), axis=0)
    p = mass / number
    return -as_scalar(weight, dtype) * jnp.sum(p * jnp.log(jnp.where(p == 0, 1, p)))
