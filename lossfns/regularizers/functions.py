"""Penalties on a function: on its gradients, or on its outputs near an input.

The function is any Python callable, usually a closure over parameters, so these are plain functions: they compile with
their caller, and the parameters in the closure get gradients.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_shape,
    check_where,
    flag,
    keep_rows,
    non_negative,
    non_negative_int,
    positive,
    uncompiled,
    zero_masked,
)
from lossfns._divergences import divergence
from lossfns._numerics import log_probabilities, unit_vectors, vary_like

PyTree = Any


@uncompiled(epsilon=positive, steps=non_negative_int)
def vat(
    predict: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    directions: jax.Array,
    *,
    epsilon: float | jax.Array = 1.0,
    steps: int = 1,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Virtual adversarial training (VAT): KL divergence of predictions under the worst perturbation of the input.

    $$\mathrm{KL}\left(p(x) \,\|\, p(x + r)\right), \quad
    r = \varepsilon \frac{d}{\lVert d \rVert}, \quad d \leftarrow \frac{H d}{\lVert H d \rVert}$$

    with H the Hessian of that divergence at r = 0; `steps` power iterations find the worst direction. Neither r nor the
    first distribution has a gradient.

    Args:
        predict: Maps inputs [N, ...] to logits [N, V], row by row; parameters in its closure get gradients. Dropout
            must be the same in every call.
        inputs: [N, ...], floating.
        directions: [N, ...], initial directions, such as `jax.random.normal(key, inputs.shape)`.
        epsilon: Euclidean norm of the perturbation of an input.
        steps: Power iterations; a Python integer.
        where: [N], boolean; False excludes the example.

    Returns:
        [N], nats, at least 0. 0 if predictions do not depend on the input.

    Example:
        From x = 0 by log 3: equal odds against odds of 3 to 1, log(2/3)/2 + log(2)/2.

        >>> def predict(x):
        ...     return jnp.concatenate([x, 0 * x], axis=-1)
        >>> print(vat(predict, jnp.zeros((1, 1)), jnp.ones((1, 1)), epsilon=jnp.log(3.0)).round(2))
        [0.14]

    Conventions:
        The authors take H d from a difference of gradients at distance xi = 1e-6, which loses its digits in float32;
        here the product is exact. Their epsilon is 8 for SVHN and CIFAR-10, with one step.

    References:
        Miyato et al. 2017, arXiv:1704.03976.
    """
    if not callable(predict):
        raise TypeError(f"predict must be a function of the inputs, got {type(predict).__name__}")
    inputs, directions, where = _arrays((inputs, directions, where))
    check_array("inputs", inputs)
    check_array("directions", directions)
    if inputs.ndim == 0:
        raise ValueError("inputs must have a first axis of examples, got a scalar")
    check_shape("directions", directions, inputs.shape, "of inputs")
    where = check_where(where, inputs.shape[:1])
    dtype = accumulation_dtype(inputs, directions)
    inputs, d = (keep_rows(where, x).astype(dtype) for x in (inputs, directions))
    still = jax.lax.stop_gradient(inputs)
    before = jax.lax.stop_gradient(_checked_logits(predict(still), inputs))
    p = jnp.exp(log_probabilities(before))
    d = _row_units(d)
    for _ in range(steps):
        d = _row_units(_curvature_times(predict, still, p, d))
    moved = inputs + as_scalar(epsilon, dtype) * jax.lax.stop_gradient(d)
    return zero_masked(where, divergence(_checked_logits(predict(moved), inputs), before))


@uncompiled(target=non_negative, one_sided=flag)
def gradient_penalty(
    critic: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    *,
    target: float | jax.Array = 1.0,
    one_sided: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Penalty on the gradient norm of a critic, $\left(\lVert \nabla_x D(x) \rVert - t\right)^2$.

    Args:
        critic: Maps inputs [N, ...] to scores [N], row by row (no batch statistics); parameters in its closure get
            gradients.
        inputs: [N, ...], floating, where the gradient is taken. For WGAN-GP mix real and generated examples:
            `mix * real + (1 - mix) * fake`, with one `mix` from 0 to 1 per example.
        target: Unpenalised gradient norm $t$: 1 for WGAN-GP, 0 for R1 (on real examples) and R2 (on generated ones).
        one_sided: Whether to penalise only norms above the target.
        where: [N], boolean; False excludes the example.

    Returns:
        [N]. Where the critic's gradient is exactly 0, the penalty's is 0.

    Example:
        A critic with gradient (3, 4), of norm 5.

        >>> print(gradient_penalty(lambda x: x @ jnp.array([3.0, 4.0]), jnp.zeros((2, 2))))
        [16. 16.]

    Conventions:
        WGAN-GP has weight 10. R1 has gamma / 2 times the squared norm, with gamma 10 in the paper: a term of weight 5
        with `target=0`. The norm is over the whole input, not per channel. The critic gets inputs in float32 or wider.

    References:
        Gulrajani et al. 2017, arXiv:1704.00028 (WGAN-GP). Mescheder et al. 2018, arXiv:1801.04406 (R1, R2).
    """
    if not callable(critic):
        raise TypeError(f"critic must be a function of the inputs, got {type(critic).__name__}")
    inputs, where = _arrays((inputs, where))
    check_array("inputs", inputs)
    if inputs.ndim == 0:
        raise ValueError("inputs must have a first axis of examples, got a scalar")
    where = check_where(where, inputs.shape[:1])
    x = keep_rows(where, inputs).astype(accumulation_dtype(inputs))

    def total(x: jax.Array) -> jax.Array:
        scores = critic(x)
        check_shape("critic(inputs)", check_array("critic(inputs)", scores), x.shape[:1], "of the examples of inputs")
        return jnp.sum(scores)

    grads = _rows(jax.grad(total)(x))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(grads), axis=-1, initial=0))
    scale = jnp.where(largest == 0, 1, largest)
    squares = jnp.sum(jnp.square(grads / scale[:, None]), axis=-1)
    lengths = jnp.where(largest == 0, 0, scale * jnp.sqrt(jnp.where(largest == 0, 1, squares)))
    excess = lengths - as_scalar(target, x.dtype)
    return zero_masked(where, jnp.square(jnp.maximum(excess, 0) if one_sided else excess))


@uncompiled()
def fisher_diagonal(
    log_likelihood: Callable[..., jax.Array],
    params: PyTree,
    *examples: jax.Array,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> PyTree:
    r"""Diagonal of the Fisher information, the mean over examples of $\left(\nabla_\theta \log p(y | x)\right)^2$.

    Args:
        log_likelihood: `log_likelihood(params, *example)`, the log-probability (or a loss, its negative) of one
            example, without a batch axis.
        params: $\theta$, any pytree of floating arrays.
        *examples: Arrays [N, ...], at least one, such as inputs and labels. With labels drawn from the model's
            predictions this is the paper's Fisher information; with true labels the "empirical" one.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch; all devices return the same.

    Returns:
        A pytree like `params`, at least 0; 0 without examples.

    Raises:
        ValueError: If there are no examples.
        TypeError: If `log_likelihood` is not callable.

    Example:
        A normal distribution with mean theta and variance 1: the score is x - theta, and the mean of 1 and 9 is 5.

        >>> print(fisher_diagonal(lambda theta, x: -((x - theta) ** 2) / 2, jnp.array(0.0), jnp.array([1.0, -3.0])))
        5.0

    Conventions:
        The squares are of per-example gradients; the squared gradient of a batch mean is smaller, the more so the
        larger the batch.

    References:
        Kirkpatrick et al. 2017, arXiv:1612.00796 (EWC). Kunstner et al. 2019, arXiv:1905.12558 (the empirical one).
    """
    if not callable(log_likelihood):
        raise TypeError(f"log_likelihood must be a function, got {type(log_likelihood).__name__}")
    params, examples, where = _arrays((params, examples, where))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        check_array("params" + jax.tree_util.keystr(path), leaf)
    if not examples:
        raise ValueError("examples must hold at least one array, got none")
    for position, x in enumerate(examples):
        check_array(f"examples[{position}]", x, "real")
        if x.ndim == 0:
            raise ValueError(f"examples[{position}] must have a first axis of examples, got a scalar")
        check_shape(f"examples[{position}]", x, (examples[0].shape[0], *x.shape[1:]), "of the same number of examples")
    where = check_where(where, examples[0].shape[:1])
    present = jnp.ones(examples[0].shape[:1], bool) if where is None else where
    examples = tuple(keep_rows(where, x) for x in examples)
    # Under `shard_map` the gradient of a replicated array arrives summed over devices, too late to be squared.
    params = jax.tree.map(lambda x: vary_like(x.astype(accumulation_dtype(x)), *examples), params)

    def square(example: tuple[jax.Array, ...]) -> PyTree:
        return jax.tree.map(jnp.square, jax.grad(lambda p: log_likelihood(p, *example))(params))

    squares = jax.vmap(square)(examples)
    sums = jax.tree.map(lambda s: jnp.sum(keep_rows(present, s), axis=0), squares)
    count = jnp.sum(present)
    if axis_name is not None:
        sums, count = jax.lax.psum((sums, count), axis_name)
    return jax.tree.map(lambda s: s / jnp.maximum(count, 1).astype(s.dtype), sums)


def _arrays(tree: PyTree) -> PyTree:
    """Converts NumPy to JAX arrays, as compilation does for the other losses."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x, tree)


def _rows(x: jax.Array) -> jax.Array:
    """Each example's array as a vector."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _checked_logits(logits: jax.Array, inputs: jax.Array) -> jax.Array:
    check_array("predict(inputs)", logits)
    check_shape("predict(inputs)", logits, (inputs.shape[0], *logits.shape[-1:]), "[examples, classes]")
    return logits.astype(accumulation_dtype(logits))


def _curvature_times(predict: Callable[[jax.Array], jax.Array], x: jax.Array, p: jax.Array, d: jax.Array) -> jax.Array:
    """The divergence's Hessian times d: with the logits' Jacobian J it is J' (diag(p) - p p') J d."""
    logits, pull_back = jax.vjp(predict, x)
    step = jax.jvp(predict, (x,), (d,))[1].astype(p.dtype)
    weighed = p * (step - jnp.sum(p * step, axis=-1, keepdims=True))
    out: jax.Array = jax.lax.stop_gradient(pull_back(weighed.astype(logits.dtype))[0])
    return out


def _row_units(d: jax.Array) -> jax.Array:
    """Each example's array divided by its Euclidean norm."""
    return unit_vectors(_rows(d)).reshape(d.shape)
