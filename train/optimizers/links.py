"""Links of an optimizer's chain that Optax lacks or has in another convention."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from train.optimizers.config import OptimizerConfig
from train.optimizers.matrices import input_axes
from train.optimizers.norms import global_norm
from train.paths import map_with_path, paths_of
from train.trees import Params, Tree

# NNX paths end in the attribute `value`.
_NEVER_DECAYED = re.compile(r"(?:^|/)(?:bias|scale)(?:/value)?$")


def is_masked(node: Any) -> bool:
    """Whether a node replaces a parameter of another part of the optimizer."""
    return isinstance(node, optax.MaskedNode)


def decay_mask(params: Params, pattern: str | None = None) -> Any:
    """Which parameters decay.

    Args:
        params: The parameters, any pytree of arrays.
        pattern: Regular expression searched in the paths. None: all parameters with at least two axes that are not
            named bias or scale (biases of attention and of stacked layers also have two axes).

    >>> decay_mask({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}})
    {'dense': {'bias': False, 'kernel': True}, 'norm': {'scale': False}}
    """
    if pattern is not None:
        return map_with_path(lambda path, _: re.search(pattern, path) is not None, params)
    return map_with_path(lambda path, leaf: jnp.ndim(leaf) >= 2 and _NEVER_DECAYED.search(path) is None, params)


def layer_rates(config: OptimizerConfig, params: Params) -> Any:
    """Factors of the learning rate by layer.

    With d the `layer_decay`: `d^(n - i)` in layer i of n (counted from 0), `d^(n + 1)` in embeddings, and 1 elsewhere,
    such as in the head and the final normalisation.

    Args:
        config: `layer_decay`, `layer_pattern` and `embedding_pattern` are used; a path with a layer number belongs to
            that layer even if it also matches the embeddings.
        params: The parameters, any pytree; masked ones are included.

    >>> config = OptimizerConfig(layer_decay=0.5)
    >>> layer_rates(config, {"embed": {"kernel": 0}, "layer_0": 0, "layer_1": 0, "head": {"kernel": 0}})
    {'embed': {'kernel': 0.125}, 'head': {'kernel': 1.0}, 'layer_0': 0.25, 'layer_1': 0.5}
    """

    def layer_of(path: str) -> int | None:
        found = re.search(config.layer_pattern, path)
        return int(found.group(1)) if found else None

    layers = [layer for path in paths_of(params, is_leaf=is_masked) if (layer := layer_of(path)) is not None]
    n_layers = max(layers, default=-1) + 1

    def rate(path: str, _: Any) -> float:
        layer = layer_of(path)
        if layer is not None:
            return config.layer_decay ** (n_layers - layer)
        is_embedding = re.search(config.embedding_pattern, path) is not None
        return config.layer_decay ** (n_layers + 1) if is_embedding else 1.0

    return map_with_path(rate, params)


def parameter_rates(config: OptimizerConfig) -> optax.GradientTransformation:
    """Multiplies each update by the rate of its layer and by the first matching `rate_factor`."""

    def scale(updates: Tree, _: Any) -> Any:
        layers = layer_rates(config, updates) if config.layer_decay != 1 else jax.tree.map(lambda _: 1.0, updates)
        return map_with_path(lambda path, u, rate: u * (rate * first_match(factors, path, 1.0)), updates, layers)

    factors = rate_factors(config)
    return optax.stateless(scale)


def rate_factors(config: OptimizerConfig) -> dict[str, float]:
    """The factors of the learning rate by pattern, in the order of the overrides."""
    return {pattern: float(own["rate_factor"]) for pattern, own in config.overrides.items() if "rate_factor" in own}


def first_match(values: dict[str, Any], path: str, default: Any = None) -> Any:
    """The value of the first regular expression that is found in a path.

    >>> first_match({"head": 3.0, "kernel": 0.5}, "head/kernel"), first_match({"head": 3.0}, "body", 1.0)
    (3.0, 1.0)
    """
    return next((value for pattern, value in values.items() if re.search(pattern, path)), default)


def centralize() -> optax.GradientTransformation:
    """Subtracts from the gradient of every kernel its mean over the inputs of each output.

    `optax.centralize` assumes PyTorch's layout, in which outputs are the first axis.

    >>> print(centralize().update(jnp.array([[1.0, 5.0], [3.0, 9.0]]), optax.EmptyState())[0])
    [[-1. -2.]
     [ 1.  2.]]
    """

    def center(gradient: jax.Array, _: Any) -> jax.Array:
        if gradient.ndim < 2:
            return gradient
        return gradient - jnp.mean(gradient, axis=tuple(range(input_axes(gradient.shape))), keepdims=True)

    return optax.stateless_with_tree_map(center)


def add_l1(strength: float) -> optax.GradientTransformation:
    """Adds the gradient of `strength * |w|` (0 at 0)."""
    return optax.stateless_with_tree_map(lambda gradient, weight: gradient + strength * jnp.sign(weight))


def reduce_on_plateau(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """`optax.contrib.reduce_on_plateau` of the loss that a step passes as `value`, counting in float32.

    Optax computes the means in the dtype of the parameters; bfloat16 is too coarse to compare losses.
    """
    plateau = contrib.reduce_on_plateau(
        factor=config.plateau_factor or 1.0,
        patience=config.plateau_patience,
        rtol=config.plateau_tolerance,
        cooldown=config.plateau_cooldown,
        accumulation_size=config.plateau_window,
        min_scale=config.plateau_minimum,
    )

    def update(updates: Tree, state: Any, params: Params = None, *, value: Any, **extra: Any) -> tuple[Any, Any]:
        scaled, state = plateau.update(updates, state, value=value)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), scaled, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: plateau.init(jnp.zeros((), jnp.float32)), update)


def proximal_l1(
    strength: float, scaling: optax.GradientTransformation, mask: Callable[[Any], Any]
) -> optax.GradientTransformationExtraArgs:
    """Soft thresholding after the links that scale an update: `w <- sign(v) max(|v| - rate * strength, 0)`, v = w + u.

    Args:
        strength: Strength of the penalty.
        scaling: The links that turn a direction into an update. They are also applied to ones, which gives the total
            rate of each parameter.
        mask: Function from parameters to a tree of booleans: which parameters are thresholded.

    >>> link = proximal_l1(0.5, optax.scale_by_learning_rate(0.1), lambda p: True)
    >>> w, direction = jnp.array([1.0, 0.02, -1.0]), jnp.array([2.0, 0.0, 0.0])
    >>> updates, _ = link.update(direction, link.init(w), w)
    >>> print(w + updates)  # 1 - 0.2 - 0.05, 0.02 - 0.05 stopped at 0, -1 + 0.05
    [ 0.75  0.   -0.95]
    """
    scaling = optax.with_extra_args_support(scaling)

    def soft(update: jax.Array, weight: jax.Array, rate: jax.Array, chosen: bool) -> jax.Array:
        if not chosen:
            return update
        moved = weight + update
        # Where the result is 0 this is minus the weight, and adding it gives exactly 0.
        return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - strength * jnp.abs(rate), 0) - weight

    def update(directions: Tree, state: Any, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        rates, _ = scaling.update(jax.tree.map(jnp.ones_like, directions), state, params, **extra)
        updates, state = scaling.update(directions, state, params, **extra)
        return jax.tree.map(soft, updates, params, rates, mask(params)), state

    return optax.GradientTransformationExtraArgs(scaling.init, update)


def self_rated(
    make: Callable[..., optax.GradientTransformationExtraArgs],
    config: OptimizerConfig,
    schedule: optax.Schedule,
    mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """Prodigy or D-Adaptation with masked decoupled decay and support for a warm-up from 0.

    Args:
        make: `optax.contrib.prodigy` or `optax.contrib.dadapt_adamw`.
        config: Its betas, eps, bias correction and weight decay are used.
        schedule: Factor of the estimated step size.
        mask: Function from parameters to a tree of booleans: which parameters decay.

    Returns:
        A transformation with complete updates: no learning rate follows.
    """
    b1, b2, decay = config.setting("b1"), config.setting("b2"), config.setting("weight_decay")

    def correction(count: jax.Array) -> Any:
        return (1 - b2**count) ** 0.5 / (1 - b1**count)

    def rate_at(count: jax.Array) -> Any:  # Optax multiplies it by the bias correction
        return schedule(count) if config.bias_correction else schedule(count) / correction(count + 1)

    inner = make(rate_at, betas=(b1, b2), eps=config.setting("eps"))

    def update(grads: Tree, state: Any, params: Params = None) -> tuple[Any, Any]:
        updates, new = inner.update(grads, state, params)
        # At rate 0 Optax's estimate is 0 / 0 and would stay NaN.
        idle = sum((jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(new.grad_sum)), start=jnp.zeros(())) == 0
        new = new._replace(estim_lr=jnp.where(idle, state.estim_lr, new.estim_lr))
        updates = jax.tree.map(lambda u: jnp.where(idle, jnp.zeros_like(u), u), updates)
        rate = state.estim_lr * rate_at(state.count) * correction(new.count)

        def decayed(update: jax.Array, weight: jax.Array, chosen: bool) -> jax.Array:
            return update - (decay * rate).astype(update.dtype) * weight if chosen and decay else update

        return jax.tree.map(decayed, updates, params, mask(params)), new

    return optax.GradientTransformation(inner.init, update)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales gradients down to a maximum global norm.

    `optax.clip_by_global_norm` turns a gradient of 1e20 into 0, because its square overflows float32.

    >>> print(clip_by_global_norm(1.0).update(jnp.array([0.0, -4e20]), optax.EmptyState())[0])
    [ 0. -1.]
    """

    def clip(grads: Tree, _: Any) -> Any:
        norm = global_norm(grads)
        return jax.tree.map(lambda g: jnp.where(norm < limit, g, (g / norm.astype(g.dtype)) * limit), grads)

    return optax.stateless(clip)


def trust_ratio() -> optax.GradientTransformation:
    """Scales each update to the norm of its parameter, unless one of them is 0.

    `optax.scale_by_trust_ratio` treats an update of 1e-25 as 0, because its square underflows float32.

    >>> print(trust_ratio().update(jnp.array([3e-25, 4e-25]), optax.EmptyState(), jnp.array([0.0, 10.0]))[0])
    [6. 8.]
    """

    def scale(update: jax.Array, weight: jax.Array) -> jax.Array:
        norm, size = global_norm(update), global_norm(weight)
        moves = (norm != 0) & (size != 0)
        return jnp.where(moves, update / jnp.where(moves, norm, 1) * size, update).astype(update.dtype)

    return optax.stateless_with_tree_map(scale)


def mask_of(config: OptimizerConfig) -> Callable[[Any], Any]:
    """Function from parameters to the mask of those that decay."""
    return functools.partial(decay_mask, pattern=config.decay_pattern)
