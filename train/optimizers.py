"""Optax chains from a typed config: schedule, clipping, decay masks, per-layer rates, freezing.

    gradient -> clip -> coupled penalties -> optimizer -> decoupled decay -> learning rate -> per-layer rate -> update

`describe` prints the chain that a config stands for. The numbers all come from Optax; this module only decides what is
put after what and which parameters each link is for.
"""

import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from train.errors import UsageError
from train.initializers import INITIALIZERS as INITIALIZERS
from train.initializers import make_initializer as make_initializer
from train.optimizer_config import OPTIMIZERS as OPTIMIZERS
from train.optimizer_config import OptimizerConfig as OptimizerConfig
from train.paths import check_matches, map_with_path, paths_of
from train.schedules import SCHEDULES as SCHEDULES
from train.schedules import build_schedule
from train.schedules import ema_decay_schedule as ema_decay_schedule
from train.schedules import learning_rate_at as learning_rate_at

# NNX paths end in the attribute `value`.
_NEVER_DECAYED = re.compile(r"(?:^|/)(?:bias|scale)(?:/value)?$")
# With it an orthogonalised update has the root mean square of a typical Adam update, so one learning rate serves both.
_MUON_RMS = 0.2


class Link(NamedTuple):
    """One link of the chain and what `describe` says about it."""

    text: str
    transform: optax.GradientTransformation


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate of each step; see `train.schedules.build_schedule` for the formulas.

    Args:
      config: its learning rate and the fields about the schedule are used.
      total_steps: number of updates of the run.

    Returns:
      The schedule: number of updates so far -> learning rate.

    Raises:
      UsageError: warm-up and cool-down are longer than the run, or the run has no step.

    Example:
      >>> config = OptimizerConfig(learning_rate=0.5, schedule="wsd", warmup=0.1, cooldown=0.4)
      >>> [round(learning_rate_at(make_schedule(config, 10), step), 3) for step in (0, 1, 6, 8, 10)]
      [0.0, 0.5, 0.5, 0.25, 0.0]
    """
    return build_schedule(
        config.schedule,
        peak=config.learning_rate,
        total_steps=total_steps,
        warmup=config.warmup,
        cooldown=config.cooldown,
        final_fraction=config.final_fraction,
    )


def make_optimizer(
    config: OptimizerConfig, total_steps: int, params: Any = None
) -> optax.GradientTransformationExtraArgs:
    """The gradient transformation that a config describes.

    With w a parameter, g its gradient, eta the learning rate, mu the momentum:

        sgd              w - eta g
        momentum         m = mu m + g;                     w - eta m                     (m starts at 0)
        nesterov         m = mu m + g;                     w - eta (g + mu m)
        adam             m, v averages of g, g^2;          w - eta m^ / (sqrt(v^) + eps)
                         with m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t)
        adamw            as adam;                          w - eta (m^ / (sqrt(v^) + eps) + decay w)
        lion             u = sign(b1 m + (1 - b1) g);      w - eta (u + decay w);        m = b2 m + (1 - b2) g
        lamb             u = adam's + decay w;             w - eta u |w| / |u|
        adafactor        u = g / sqrt(v_row v_col / mean), clipped to RMS 1;  w - eta u max(RMS(w), 1e-3)
        muon             u = orthogonalised momentum * 0.2 sqrt(max(rows, columns));     w - eta (u + decay w)

    Args:
      config: what to build.
      total_steps: number of updates of the run.
      params: the parameters, if patterns are to be checked against their paths now; otherwise `init` does it.

    Returns:
      An Optax transformation; `update` needs the parameters.

    Raises:
      UsageError: warm-up and cool-down are longer than the run; here (with `params`) or at `init`, a pattern that
        matches no parameter or freezes all of them.

    Conventions:
      Decoupled decay is multiplied by the learning rate (PyTorch, Optax), Adafactor's too (Optax's alone is not). LAMB
      scales by the trust ratio only parameters that decay, as its authors' code does; `optax.lamb` scales all. Muon
      leaves embeddings, heads and everything that is not a matrix to plain Adam (`optax.contrib.muon`: all matrices to
      Muon, the rest to Adam with Nesterov momentum) and has the shape-independent scale of Liu et al. Frozen parameters
      have no optimizer state and do not count in the norm that is clipped.

    References:
      Sutskever et al. 2013 (Nesterov); Kingma and Ba 2015, arXiv:1412.6980 (Adam); Loshchilov and Hutter 2019,
      arXiv:1711.05101 (AdamW); Chen et al. 2023, arXiv:2302.06675 (Lion); You et al. 2020, arXiv:1904.00962 (LAMB);
      Shazeer and Stern 2018, arXiv:1804.04235 (Adafactor); Jordan et al. 2024 and Liu et al. 2025, arXiv:2502.16982
      (Muon); Howard and Ruder 2018, arXiv:1801.06146, and Clark et al. 2020, arXiv:2003.10555 (layer-wise rates).

    Example:
      >>> config = OptimizerConfig(name="momentum", learning_rate=0.1, schedule="constant")
      >>> optimizer, params = make_optimizer(config, total_steps=10), {"w": jnp.array([1.0])}
      >>> state = optimizer.init(params)
      >>> for _ in range(2):  # m = 1, then 0.9 * 1 + 1: 1 - 0.1 - 0.19 = 0.71
      ...     updates, state = optimizer.update({"w": jnp.array([1.0])}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(params["w"])
      [0.71]
    """
    links = _chain_links(config, make_schedule(config, total_steps))
    optimizer = optax.chain(*(link.transform for link in links))
    if config.freeze is not None:
        labels = functools.partial(_trained_or_frozen, config.freeze)
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    if config.layer_decay != 1:
        # Outside the partition, where the layers are counted with the frozen ones.
        optimizer = optax.chain(optimizer, _scale_layers(config))
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
        check_parameters(config, params)
        return optimizer.init(params)

    if params is not None:
        check_parameters(config, params)
    return optax.GradientTransformationExtraArgs(init, optimizer.update)


def check_parameters(config: OptimizerConfig, params: Any) -> None:
    """Checks that every pattern of a config finds parameters to apply to.

    Args:
      config: its patterns are checked as far as they are used.
      params: the parameters, any pytree.

    Raises:
      UsageError: a pattern matches nothing, or `freeze` matches everything.

    Example:
      >>> check_parameters(OptimizerConfig(freeze="dense"), {"dense": {"kernel": jnp.ones((2, 2))}})
      Traceback (most recent call last):
      train.errors.UsageError: freeze='dense' matches all 1 parameters: nothing is left to train.
    """
    if config.freeze is not None:
        check_matches(config.freeze, params, "freeze")
        paths = paths_of(params)
        if paths and all(re.search(config.freeze, path) for path in paths):
            raise UsageError(f"freeze={config.freeze!r} matches all {len(paths)} parameters: nothing is left to train.")
    if config.decay_pattern is not None:
        check_matches(config.decay_pattern, params, "decay_pattern")
    if config.layer_decay != 1:
        check_matches(config.layer_pattern, params, "layer_pattern")


def describe(config: OptimizerConfig) -> str:
    """The chain of a config in words, one line for each link, in the order in which a gradient passes them.

    Args:
      config: what to describe.

    Returns:
      The lines, for `print`.

    Example:
      >>> config = OptimizerConfig(learning_rate=1e-4, warmup=0.1, clip_norm=1.0, layer_decay=0.9, freeze="embed")
      >>> print(describe(config))
      only parameters that do not match 'embed'
      clip to global norm 1
      adam: b1 0.9, b2 0.999, eps 1e-08
      decoupled weight decay 0.01 on matrices
      learning rate 0.0001: warm-up over 0.1 of the run, then cosine to 0
      layer-wise rates: 0.9 for each layer down from the head
    """
    lines = [link.text for link in _chain_links(config, optax.constant_schedule(config.learning_rate))]
    if config.freeze is not None:
        lines.insert(0, f"only parameters that do not match {config.freeze!r}")
    if config.layer_decay != 1:
        lines.append(f"layer-wise rates: {config.layer_decay:g} for each layer down from the head")
    return "\n".join(lines)


def decay_mask(params: Any, pattern: str | None = None) -> Any:
    """Which parameters decay.

    Args:
      params: the parameters, any pytree of arrays.
      pattern: regular expression searched in the paths; None chooses all with two or more axes that are not called bias
        or scale (attention biases and those of stacked layers have two axes as well).

    Returns:
      A tree of booleans.

    Example:
      >>> decay_mask({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}})
      {'dense': {'bias': False, 'kernel': True}, 'norm': {'scale': False}}
    """
    if pattern is not None:
        return map_with_path(lambda path, _: re.search(pattern, path) is not None, params)
    return map_with_path(lambda path, leaf: jnp.ndim(leaf) >= 2 and _NEVER_DECAYED.search(path) is None, params)


def layer_rates(config: OptimizerConfig, params: Any) -> Any:
    """What the learning rate of each parameter is multiplied by.

    `d^(n - i)` in layer i of n (counted from 0) with d the `layer_decay`, `d^(n + 1)` in the embeddings, and 1 in
    all that is neither, such as the head and the final normalisation.

    Args:
      config: `layer_decay`, `layer_pattern` and `embedding_pattern` are used; a path with a layer number is a layer's,
        whatever else it matches.
      params: the parameters, any pytree.

    Returns:
      A tree of Python numbers.

    Example:
      >>> config = OptimizerConfig(layer_decay=0.5)
      >>> layer_rates(config, {"embed": {"kernel": 0}, "layer_0": 0, "layer_1": 0, "head": {"kernel": 0}})
      {'embed': {'kernel': 0.125}, 'head': {'kernel': 1.0}, 'layer_0': 0.25, 'layer_1': 0.5}
    """

    def layer_of(path: str) -> int | None:
        found = re.search(config.layer_pattern, path)
        return int(found.group(1)) if found else None

    layers = [layer for path in paths_of(params) if (layer := layer_of(path)) is not None]
    n_layers = max(layers, default=-1) + 1

    def rate(path: str, _: Any) -> float:
        layer = layer_of(path)
        if layer is not None:
            return config.layer_decay ** (n_layers - layer)
        is_embedding = re.search(config.embedding_pattern, path) is not None
        return config.layer_decay ** (n_layers + 1) if is_embedding else 1.0

    return map_with_path(rate, params)


def _chain_links(config: OptimizerConfig, schedule: optax.Schedule) -> list[Link]:
    """The links from the gradient to the update, without freezing and layer-wise rates, which lie around them."""
    mask = functools.partial(decay_mask, pattern=config.decay_pattern)
    where = "matrices" if config.decay_pattern is None else f"parameters matching {config.decay_pattern!r}"
    links = []
    if config.clip_value is not None:
        links.append(Link(f"clip each entry to +-{config.clip_value:g}", optax.clip(config.clip_value)))
    if config.clip_norm is not None:
        links.append(Link(f"clip to global norm {config.clip_norm:g}", optax.clip_by_global_norm(config.clip_norm)))
    if config.l1:
        links.append(Link(f"L1 penalty {config.l1:g} on {where}", optax.masked(_add_l1(config.l1), mask)))
    if config.l2:
        links.append(Link(f"L2 penalty {config.l2:g} on {where}", optax.add_decayed_weights(config.l2, mask)))
    links.append(_core(config))
    decay = config.setting("weight_decay")
    if decay:
        links.append(Link(f"decoupled weight decay {decay:g} on {where}", optax.add_decayed_weights(decay, mask)))
    if config.name == "lamb":
        links.append(Link(f"trust ratio on {where}", optax.masked(optax.scale_by_trust_ratio(), mask)))
    links.append(Link(_schedule_text(config), optax.scale_by_learning_rate(schedule)))
    return links


def _core(config: OptimizerConfig) -> Link:
    """The link that makes one optimizer differ from another."""
    b1, b2, eps, momentum = (config.setting(name) for name in ("b1", "b2", "eps", "momentum"))
    match config.name:
        case "sgd":
            return Link("gradient descent", optax.identity())
        case "momentum":
            return Link(f"momentum {momentum:g}", optax.trace(momentum))
        case "nesterov":
            return Link(f"Nesterov momentum {momentum:g}", optax.trace(momentum, nesterov=True))
        case "lion":
            return Link(f"lion: b1 {b1:g}, b2 {b2:g}", optax.scale_by_lion(b1, b2))
        case "adafactor":
            links = (optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms())
            return Link("adafactor: factored RMS, clipped to RMS 1, times RMS of the parameter", optax.chain(*links))
        case "muon":
            text = f"muon: momentum {momentum:g} on matrices, adam (b1 {b1:g}, b2 {b2:g}, eps {eps:g}) on the rest"
            return Link(text, _muon(config))
        case _:  # adam, adamw, lamb
            return Link(f"adam: b1 {b1:g}, b2 {b2:g}, eps {eps:g}", optax.scale_by_adam(b1, b2, eps))


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Orthogonalised momentum for matrices, Adam for embeddings, heads and all that is no matrix."""
    b1, b2, eps, momentum = (config.setting(name) for name in ("b1", "b2", "eps", "momentum"))

    def dimensions(tree: Any) -> Any:
        return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(), tree)

    def scale(update: jax.Array, _: Any) -> jax.Array:
        return update * (_MUON_RMS * math.sqrt(max(update.shape)))

    def label(path: str, leaf: Any) -> str:
        return "muon" if jnp.ndim(leaf) == 2 and re.search(config.muon_exclude, path) is None else "adam"

    muon = optax.chain(
        contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=dimensions),
        optax.stateless_with_tree_map(scale),
    )
    return optax.partition(
        {"muon": muon, "adam": optax.scale_by_adam(b1, b2, eps)}, lambda params: map_with_path(label, params)
    )


def _add_l1(strength: float) -> optax.GradientTransformation:
    """Adds the gradient of `strength * |w|` (0 at 0)."""
    return optax.stateless_with_tree_map(lambda gradient, weight: gradient + strength * jnp.sign(weight))


def _scale_layers(config: OptimizerConfig) -> optax.GradientTransformation:
    """Multiplies each update by its layer's rate."""
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, layer_rates(config, updates)))


def _trained_or_frozen(pattern: str, params: Any) -> Any:
    """Labels for `optax.partition`."""
    return map_with_path(lambda path, _: "frozen" if re.search(pattern, path) else "trained", params)


def _schedule_text(config: OptimizerConfig) -> str:
    """What `describe` says about the learning rate."""

    def length(value: float) -> str:
        return f"{value:g} of the run" if value < 1 else f"{value:g} steps"

    final = config.learning_rate * config.final_fraction
    body = {
        "constant": "constant",
        "linear": f"linear to {final:g}",
        "cosine": f"cosine to {final:g}",
        "wsd": f"stable, then over {length(config.cooldown)} linear to {final:g}",
        "inverse_sqrt": "inverse square root",
    }[config.schedule]
    start = f"warm-up over {length(config.warmup)}, then " if config.warmup else ""
    return f"learning rate {config.learning_rate:g}: {start}{body}"
