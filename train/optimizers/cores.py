"""The core links of each optimizer."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from train.optimizers.config import OptimizerConfig
from train.optimizers.links import mask_of, self_rated, trust_ratio
from train.optimizers.matrices import newton_schulz, unit_frobenius
from train.optimizers.moments import (
    scale_by_adagrad,
    scale_by_adan,
    scale_by_amsgrad,
    scale_by_radam,
    scale_by_sophia,
    squarable,
)
from train.optimizers.names import LINEAR, SELF_RATED
from train.optimizers.wrappers import hutchinson
from train.paths import map_with_path

# It gives an orthogonalised update the root mean square of a typical Adam update, so both can share a learning rate.
_MUON_RMS = 0.2


class Link(NamedTuple):
    """One link of the chain with its description."""

    text: str
    transform: optax.GradientTransformation


def core_links(config: OptimizerConfig, schedule: optax.Schedule) -> list[Link]:
    """The links of the optimizer itself, with decoupled decay and LAMB's trust ratio.

    Returns:
        The links. Except for self-rated optimizers, the learning rate is applied later.
    """
    mask, where = mask_of(config), decaying(config)
    decay = config.setting("weight_decay")
    if config.name in SELF_RATED:
        text = _self_rated_text(config) + (f"; decoupled weight decay {decay:g} on {where}" if decay else "")
        make = contrib.prodigy if config.name == "prodigy" else contrib.dadapt_adamw
        return [Link(text, squarable(self_rated(make, config, schedule, mask)))]
    text, core = _core(config)
    links = [Link(text, core if config.name in LINEAR else squarable(core))]
    if decay:
        links.append(Link(f"decoupled weight decay {decay:g} on {where}", optax.add_decayed_weights(decay, mask)))
    if config.name == "lamb":
        links.append(Link(f"trust ratio on {where}", optax.masked(trust_ratio(), mask)))
    return links


def decaying(config: OptimizerConfig) -> str:
    """The decaying parameters, in words."""
    return "matrices" if config.decay_pattern is None else f"parameters matching {config.decay_pattern!r}"


def _core(config: OptimizerConfig) -> tuple[str, optax.GradientTransformation]:
    b1, b2, b3, eps, momentum = (config.setting(name) for name in ("b1", "b2", "b3", "eps", "momentum"))
    adam = f"b1 {b1:g}, b2 {b2:g}, eps {eps:g}"
    match config.name:
        case "sgd" | "schedule_free_sgd":
            return "gradient descent", optax.identity()
        case "momentum":
            return f"momentum {momentum:g}", optax.trace(momentum)
        case "nesterov":
            return f"Nesterov momentum {momentum:g}", optax.trace(momentum, nesterov=True)
        case "rmsprop":
            rms = optax.scale_by_rms(b2, eps, eps_in_sqrt=False)
            text = f"rmsprop: b2 {b2:g}, eps {eps:g}, momentum {momentum:g}"
            return text, optax.chain(rms, optax.trace(momentum)) if momentum else rms
        case "adagrad":
            return f"adagrad: eps {eps:g}", scale_by_adagrad(eps)
        case "adadelta":
            return f"adadelta: b2 {b2:g}, eps {eps:g}", optax.scale_by_adadelta(b2, eps)
        case "nadamw":
            return f"adam with Nesterov momentum: {adam}", optax.scale_by_adam(b1, b2, eps, nesterov=True)
        case "radam":
            return f"rectified adam: {adam}", scale_by_radam(b1, b2, eps)
        case "amsgrad":
            return f"amsgrad: {adam}", scale_by_amsgrad(b1, b2, eps)
        case "adamax":
            return f"adamax: {adam}", optax.scale_by_adamax(b1, b2, eps)
        case "adabelief":
            return f"adabelief: {adam}", optax.scale_by_belief(b1, b2, eps, eps_root=eps)
        case "adan":
            text = f"adan: b1 {b1:g}, b2 {b2:g}, b3 {b3:g}, eps {eps:g}"
            return text, scale_by_adan(b1, b2, b3, eps)
        case "adopt":
            return f"adopt: {adam}", contrib.scale_by_adopt(b1, b2, eps)
        case "lion":
            return f"lion: b1 {b1:g}, b2 {b2:g}", optax.scale_by_lion(b1, b2)
        case "adafactor":
            factored = optax.scale_by_factored_rms(min_dim_size_to_factor=1)
            links = (factored, optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms())
            return "adafactor: factored RMS, clipped to RMS 1, times RMS of the parameter", optax.chain(*links)
        case "muon":
            text = f"muon: momentum {momentum:g} on matrices, adam ({adam}) on the rest"
            return text, _muon(config)
        case "sophia":
            return _sophia(config)
        case "schedule_free_adamw":
            text = f"adam without momentum: b2 {b2:g}, eps {eps:g}"
            return text, optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
        case _:  # adam, adamw, lamb
            return f"adam: {adam}", optax.scale_by_adam(b1, b2, eps)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Orthogonalised momentum for matrices, Adam for embeddings, heads and everything else."""
    b1, b2, eps, momentum = (config.setting(name) for name in ("b1", "b2", "eps", "momentum"))

    def orthogonalize(update: jax.Array, _: Any) -> jax.Array:
        orthogonal = newton_schulz(unit_frobenius(update)) * (_MUON_RMS * math.sqrt(max(update.shape)))
        return orthogonal.astype(update.dtype)

    def label(path: str, leaf: Any) -> str:
        return "muon" if jnp.ndim(leaf) == 2 and re.search(config.muon_exclude, path) is None else "adam"

    # Optax's momentum for Muon corrects its initial bias, which changes the mixture of m and g.
    muon = optax.chain(optax.trace(momentum, nesterov=True), optax.stateless_with_tree_map(orthogonalize))
    adam = squarable(optax.scale_by_adam(b1, b2, eps))
    return optax.partition({"muon": muon, "adam": adam}, lambda params: map_with_path(label, params))


def _sophia(config: OptimizerConfig) -> tuple[str, optax.GradientTransformation]:
    b1, b2, eps = (config.setting(name) for name in ("b1", "b2", "eps"))
    text = (
        f"sophia: b1 {b1:g}, b2 {b2:g}, eps {eps:g}, clipped to 1; Hessian diagonal times {config.sophia_gamma:g}, "
        f"by Hutchinson's estimate every {config.sophia_every} steps"
    )
    gamma, every = config.sophia_gamma, config.sophia_every
    return text, scale_by_sophia(b1, b2, eps, gamma=gamma, every=every, curvature=hutchinson())


def _self_rated_text(config: OptimizerConfig) -> str:
    b1, b2, eps = (config.setting(name) for name in ("b1", "b2", "eps"))
    name = "prodigy" if config.name == "prodigy" else "D-Adaptation"
    biases = "" if config.bias_correction else ", without bias correction"
    return f"adam with the step size found by {name}: b1 {b1:g}, b2 {b2:g}, eps {eps:g}{biases}"
