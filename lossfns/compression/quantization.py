"""Quantisation: a rounding that lets gradients pass, and penalties that make weights easy to quantise."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_rank,
    flag,
    hyper,
    loss,
    non_negative,
    one_of,
    positive,
)
from lossfns._numerics import divided
from lossfns.compression._trees import PyTree, leaves


def _bits(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a Python integer, got {value!r}")
    if not 2 <= value <= 16:
        raise ValueError(f"{name} must be between 2 and 16, got {value}")
    return int(value)


def _axis(name: str, value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
        raise TypeError(f"{name} must be a Python integer or None, got {value!r}")
    return None if value is None else int(value)


@loss(
    static=("bits", "axis", "signed", "scale_gradient"),
    bits=_bits,
    scale=positive.each,
    axis=_axis,
    signed=flag,
    scale_gradient=one_of("lsq", "plain"),
)
def fake_quantize(
    x: jax.Array,
    *,
    bits: int,
    scale: float | jax.Array | None = None,
    axis: int | None = None,
    signed: bool = True,
    scale_gradient: str = "lsq",
) -> jax.Array:
    r"""Round to a grid of $2^b$ steps, with a gradient that passes through the rounding.

    $$\hat x = s \cdot \mathrm{round}(\mathrm{clip}(x / s, -Q_N, Q_P))$$

    with $Q_N = 2^{b-1}$ and $Q_P = 2^{b-1} - 1$, or 0 and $2^b - 1$ without a sign. The gradient takes the rounding for
    the identity:

    $$\frac{\partial \hat x}{\partial x} = [-Q_N < x/s < Q_P], \quad \frac{\partial \hat x}{\partial s} =
    g \cdot \begin{cases} \mathrm{round}(x/s) - x/s & \text{inside} \\ -Q_N \text{ or } Q_P & \text{outside}
    \end{cases}$$

    Args:
        x: [...], weights or activations.
        bits: $b$, a Python integer in 2 .. 16.
        scale: $s$, the step: a scalar, or [n] for the n entries of `axis`, each its own. It may be learnt. None takes
            the largest magnitude over $Q_P$, without a gradient.
        axis: The axis of the channels; None for one step for all of x.
        signed: Whether the grid reaches below 0.
        scale_gradient: "lsq" has $g = 1 / \sqrt{N Q_P}$ with N the number of entries that share the step, "plain" has
            $g = 1$.

    Returns:
        The shape of x, float32 or wider. A step that is not positive gives NaN.

    Raises:
        ValueError: If shapes do not fit or an option is out of range.
        TypeError: If an array is not floating or bits and axis are not integers.

    Example:
        Three bits and a step of 1: -4 .. 3.

        >>> print(fake_quantize(jnp.array([-9.0, -0.6, 0.4, 2.2, 9.0]), bits=3, scale=1.0))
        [-4. -1.  0.  2.  3.]

    Conventions:
        Halves are rounded to even, as by torch. The gradient stops where $x / s$ leaves the grid, as in the paper; in
        torch's `fake_quantize` half a step later, where its rounding does. The paper starts the step at
        $2 \,\mathrm{mean} |x| / \sqrt{Q_P}$. A grid that is symmetric (-3 .. 3) has one step less; many kernels for
        weights want that, and a None scale never reaches the lowest step, except by -max.

    References:
        Bengio et al. 2013, arXiv:1308.3432 (straight-through). Esser et al. 2019, arXiv:1902.08153 (LSQ).
    """
    check_array("x", x)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if axis is not None and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be an axis of x with shape {x.shape}, got {axis}")
    shape = () if axis is None else (x.shape[axis],)
    layout = [1] * x.ndim
    if axis is not None:
        layout[axis] = -1
    dtype = accumulation_dtype(x)
    x = x.astype(dtype)
    if scale is None:
        rest = None if axis is None else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=rest, initial=0)
        step = jnp.where(largest == 0, 1, largest / high)
    else:
        step = jnp.asarray(scale)
        if step.shape not in ((), shape):
            wanted = "a scalar" if axis is None else f"a scalar or have the shape {shape} of axis {axis}"
            raise ValueError(f"scale must be {wanted}, got shape {step.shape}")
        step = step.astype(dtype)
        step = jnp.where(step > 0, step, jnp.nan)
        if scale_gradient == "lsq":
            factor = 1 / math.sqrt(max(x.size // max(step.size, 1), 1) * high)
            step = jax.lax.stop_gradient(step * (1 - factor)) + step * factor
    step = step.reshape(layout if step.ndim else (1,) * x.ndim)
    ratio = divided(x, step)
    inside = (ratio > low) & (ratio < high)
    held = jnp.where(inside, ratio, jnp.where(ratio >= high, high, jnp.where(ratio <= low, low, jnp.nan)))
    return (held + jax.lax.stop_gradient(jnp.round(held) - held)) * step


@loss(weight=non_negative, target=positive)
def kurtosis_penalty(params: PyTree, *, weight: float | jax.Array = 1.0, target: float | jax.Array = 1.8) -> jax.Array:
    r"""Kurtosis regularisation (KURE): weights spread evenly lose least when they are quantised.

    $$\frac{\lambda}{L} \sum_l (\mathrm{Kurt}(W_l) - K)^2, \quad
    \mathrm{Kurt}(W) = \mathrm{mean}\left( \frac{W - \mu}{\sigma} \right)^4$$

    Args:
        params: Any tree of floating arrays, those to be quantised.
        weight: $\lambda$.
        target: $K$, 1.8 for a uniform distribution; a normal one has 3.

    Returns:
        A scalar, float32 or wider. An array whose entries are all equal has no kurtosis and is left out of the mean; 0
        for an empty tree.

    Raises:
        TypeError: If a leaf is not a floating array.
        ValueError: If a hyper-parameter is out of range.

    Example:
        Two values, equally often, have the least kurtosis there is, 1.

        >>> print(kurtosis_penalty({"w": jnp.array([1.0, -1.0, 1.0, -1.0])}).round(4))
        0.64

    Conventions:
        The kurtosis is not reduced by 3 ("excess"), and its variance is the population's.

    References:
        Shkolnik et al. 2020, arXiv:2002.07686.
    """
    arrays, dtype = leaves("params", params)
    total = count = jnp.zeros((), dtype)
    for x in arrays:
        if x.size == 0:
            continue
        # Scaled by the largest deviation, which is held fixed: kurtosis does not depend on the scale.
        centred = x - jnp.mean(x)
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(centred)))
        constant = largest <= 8 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(jax.lax.stop_gradient(x)))
        scaled = jnp.where(constant, 0, centred / jnp.where(largest == 0, 1, largest))
        variance = jnp.where(constant, 1, jnp.mean(jnp.square(scaled)))
        kurtosis = jnp.mean(jnp.square(jnp.square(scaled))) / jnp.square(variance)
        total += jnp.where(constant, 0, jnp.square(kurtosis - hyper(target, dtype)))
        count += 1 - constant.astype(dtype)
    return hyper(weight, dtype) * total / jnp.maximum(count, 1)


@loss(weight=non_negative, sharpness=positive)
def entropy_of_weights(
    params: PyTree,
    levels: jax.Array,
    *,
    weight: float | jax.Array = 1.0,
    sharpness: float | jax.Array = 1.0,
) -> jax.Array:
    r"""Entropy of the weights once they are put on a few levels: what entropy coding would spend on one of them.

    $$-\lambda \sum_k p_k \log p_k, \quad p_k = \mathrm{mean}_i \frac{e^{-\sigma (w_i - c_k)^2}}{\sum_j
    e^{-\sigma (w_i - c_j)^2}}$$

    Each weight belongs to all levels, to near ones more; as $\sigma$ grows this becomes the entropy of the nearest
    levels.

    Args:
        params: Any tree of floating arrays; one distribution for all of them.
        levels: [K], the levels $c$, at least one; they may be learnt.
        weight: $\lambda$.
        sharpness: $\sigma$, in units of one over the square of a weight: some ten over the square of the distance
            between levels is nearly hard.

    Returns:
        A scalar, nats for each weight (divide by log 2 for bits) times $\lambda$, float32 or wider; 0 for an empty
        tree.

    Raises:
        TypeError: If a leaf or levels is not a floating array.
        ValueError: If levels is not a vector or a hyper-parameter is out of range.

    Example:
        Half of the weights at one level, half at the other: log 2.

        >>> params, levels = {"w": jnp.array([0.0, 1.0, 0.0, 1.0])}, jnp.array([0.0, 1.0])
        >>> print(entropy_of_weights(params, levels, sharpness=100.0).round(4))
        0.6931

    Conventions:
        The paper's estimate for a code of its own; a hard histogram has no gradient. The assignments of all weights to
        all levels are held at once.

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
    centres, sigma = levels.astype(dtype)[None, :], hyper(sharpness, dtype)
    mass = jnp.zeros(levels.shape, dtype)
    for x in arrays:
        distances = jnp.square(x.astype(dtype).reshape(-1, 1) - centres)
        mass += jnp.sum(jax.nn.softmax(-sigma * distances, axis=-1), axis=0)
    p = mass / number
    return -hyper(weight, dtype) * jnp.sum(p * jnp.log(jnp.where(p == 0, 1, p)))
