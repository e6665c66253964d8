"""Optax chains from a typed config: schedule, clipping, decay masks, per-layer rates, groups, averages, freezing.

    gradient -> centralisation -> clip -> coupled penalties -> optimizer -> decoupled decay -> learning rate -> plateau
             -> rates of layers and groups -> proximal step -> update

`describe` lists the chain of a config. Most of the arithmetic is Optax's; this module only determines the order of the
links and the parameters of each. `cores` has the optimizers themselves, `links` the other links, `wrappers` the
wrappers of the whole chain.
"""

import functools
import re
from typing import Any

import jax
import optax

from train.errors import UsageError
from train.optimizers.config import OptimizerConfig
from train.optimizers.cores import Link, core_links, decaying
from train.optimizers.groups import by_group, groups_of
from train.optimizers.links import (
    add_l1,
    centralize,
    clip_by_global_norm,
    mask_of,
    parameter_rates,
    proximal_l1,
    rate_factors,
    reduce_on_plateau,
)
from train.optimizers.names import SCHEDULE_FREE, SELF_RATED
from train.optimizers.schedules import build_schedule
from train.optimizers.wrappers import gradients_of_parts, lookahead, schedule_free, sharpness_aware
from train.paths import check_matches, map_with_path, paths_of
from train.trees import Params


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate of each step; see `train.optimizers.schedules.build_schedule` for the formulas.

    Args:
        config: Its learning rate and schedule are used.
        total_steps: Number of updates of the run.

    Returns:
        The schedule: number of previous updates -> learning rate.

    >>> config = OptimizerConfig(learning_rate=0.5, schedule="wsd", warmup=0.1, cooldown=0.4)
    >>> from train import learning_rate_at
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
    config: OptimizerConfig, total_steps: int, params: Params = None, *, rate_factor: float | jax.Array = 1.0
) -> optax.GradientTransformationExtraArgs:
    """The gradient transformation that a config describes.

    With w a parameter, g its gradient, eta the learning rate, mu the momentum, and m^, v^ bias-corrected averages of g
    and g^2 (m^ = m / (1 - b1^t), v^ = v / (1 - b2^t)):

        sgd              w - eta g
        momentum         m = mu m + g;                     w - eta m                     (m starts at 0)
        nesterov         m = mu m + g;                     w - eta (g + mu m)
        rmsprop          w - eta g / (sqrt(v) + eps), with momentum if it is not 0
        adagrad          s = s + g^2;                      w - eta g / (sqrt(s) + eps)
        adadelta         u = g sqrt(x + eps) / sqrt(v + eps);   w - eta u                (x: average of u^2 before)
        adam             w - eta m^ / (sqrt(v^) + eps)
        adamw            w - eta (m^ / (sqrt(v^) + eps) + decay w)
        nadamw           adamw with (b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)) in place of m^
        radam            adam's step times the rectification r(t); eta m^ while the variance of v^ is untractable
        amsgrad          adam with the largest v so far in place of v
        adamax           n = max(b2 n, |g| + eps);         w - eta m^ / n
        adabelief        adam with s = b2 s + (1 - b2) (g - m)^2 + eps in place of v
        adan             w - eta (m^ + b2 d^) / (sqrt(n^) + eps), d: average of g - g_before with b2,
                         n: average of (g + b2 (g - g_before))^2 with b3
        adopt            m = b1 m + (1 - b1) clip(g / max(sqrt(v_before), eps), t^0.25);    w - eta m
        lion             u = sign(b1 m + (1 - b1) g);      w - eta (u + decay w);        m = b2 m + (1 - b2) g
        lamb             u = adam's + decay w;             w - eta u |w| / |u|
        adafactor        u = g / sqrt(v_row v_col / mean), clipped to RMS 1;  w - eta u max(RMS(w), 1e-3)
        muon             m = mu m + g;  u = 0.2 sqrt(max(rows, columns)) orthogonal(g + mu m);  w - eta (u + decay w)
        sophia           w - eta (clip(m / max(gamma h, eps), 1) + decay w), h: average of the Hessian's diagonal
        prodigy,         adam with a step size d that estimates the distance to the solution, times eta; m and v
        dadapt_adamw     in place of m^ and v^, unless `bias_correction` is set
        schedule_free_*  z = z - eta u(y), x = average of z, y = (1 - b1) z + b1 x: gradients at y, evaluated at x

    Args:
        config: What to build.
        total_steps: Number of updates of the run.
        params: The parameters, to check patterns against their paths now instead of in `init`.
        rate_factor: Multiplies the learning rate of every step. Unlike the numbers of the config it may be traced, so
            that `vmap` trains with many rates in one program.

    Returns:
        An Optax transformation. `update` needs the parameters; with `plateau_factor` also `value=` the loss; for Sophia
        and with `sam_radius` also `grad_fn=` a function from parameters to gradients. A train step passes all of them.

    Conventions:
        - Decoupled decay is multiplied by the learning rate (PyTorch, Optax; the paper of AdamW: by the schedule only),
          also Adafactor's (Optax: not); in Prodigy and D-Adaptation it is multiplied by the estimated step size.
        - Gradients beyond 1e15 count as 1e15 where they are squared, so that no average becomes infinite. Frozen
          parameters have no optimizer state and do not count in the norm for clipping or SAM.
        - Adagrad adds eps to the root (the paper, PyTorch; Optax: under it), and so does RMSProp (PyTorch; Optax's
          default: under it). Both start at 0 (Optax's Adagrad: 0.1).
        - RAdam rectifies from a length of 5 on, as its authors' code and PyTorch (the paper: 4).
        - NAdam has no schedule of momentum (PyTorch has Dozat's) and Adam's v^ (Dozat: b2 v^).
        - AMSGrad compares averages of squares before bias correction, as PyTorch and the paper (Optax: after).
        - Adamax takes |g| + eps (PyTorch; the paper: |g|).
        - AdaBelief has eps in both places, as the paper (the default of its authors' code also rectifies as RAdam).
        - Adan decays as its authors' code does with `no_prox=True` (their default divides by 1 + eta decay), and its b2
          is theirs, 1 - beta_2 of the paper (Optax exchanges the two).
        - ADOPT, unlike its authors' code, also decays at its first update, which otherwise only starts v.
        - LAMB scales by the trust ratio only parameters that decay, as its authors' code (`optax.lamb`: all).
        - Adafactor factors every matrix (the paper, PyTorch; Optax and Mesh TensorFlow: from 128 on) and has the
          learning rate of the schedule, relative to the parameter.
        - Muon leaves embeddings, heads and everything that is not a matrix to Adam (`optax.contrib.muon`: all matrices
          to Muon, the rest to Adam with Nesterov momentum). It has the shape-independent scale of Liu et al. (Jordan et
          al.: sqrt(max(1, rows / columns))) and, as both, no bias correction (Optax corrects).
        - Sophia is Sophia-H with signs instead of Gaussian directions, as Optax's, which also corrects the bias of m
          and uses an estimate from the next step on. The Gauss-Newton-Bartlett estimate would need labels drawn from
          the model.
        - The averages of schedule_free_adamw weight steps by squared learning rates (its authors' code, Optax; the
          rates of the paper include sqrt(1 - b2^t)).

    References:
        Sutskever et al. 2013 (Nesterov); Tieleman and Hinton 2012 (RMSProp); Duchi et al. 2011 (Adagrad); Zeiler 2012,
        arXiv:1212.5701 (Adadelta); Kingma and Ba 2015, arXiv:1412.6980 (Adam, Adamax); Loshchilov and Hutter 2019,
        arXiv:1711.05101 (AdamW); Dozat 2016 (NAdam); Liu et al. 2020, arXiv:1908.03265 (RAdam); Reddi et al. 2018,
        arXiv:1904.09237 (AMSGrad); Zhuang et al. 2020, arXiv:2010.07468 (AdaBelief); Xie et al. 2022, arXiv:2208.06677
        (Adan); Taniguchi et al. 2024, arXiv:2411.02853 (ADOPT); Chen et al. 2023, arXiv:2302.06675 (Lion); You et al.
        2020, arXiv:1904.00962 (LAMB); Shazeer and Stern 2018, arXiv:1804.04235 (Adafactor); Jordan et al. 2024 and Liu
        et al. 2025, arXiv:2502.16982 (Muon); Liu et al. 2024, arXiv:2305.14342 (Sophia); Mishchenko and Defazio 2024,
        arXiv:2306.06101 (Prodigy); Defazio and Mishchenko 2023, arXiv:2301.07733 (D-Adaptation); Defazio et al. 2024,
        arXiv:2405.15682 (schedule-free); Zhang et al. 2019, arXiv:1907.08610 (Lookahead); Foret et al. 2021,
        arXiv:2010.01412 (SAM); Yong et al. 2020, arXiv:2004.01461 (centralisation); Howard and Ruder 2018,
        arXiv:1801.06146, and Clark et al. 2020, arXiv:2003.10555 (layer-wise rates).

    >>> import jax.numpy as jnp
    >>> config = OptimizerConfig(name="momentum", learning_rate=0.1, schedule="constant")
    >>> optimizer, params = make_optimizer(config, total_steps=10), {"w": jnp.array([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):  # m = 1, then 0.9 * 1 + 1: 1 - 0.1 - 0.19 = 0.71
    ...     updates, state = optimizer.update({"w": jnp.array([1.0])}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> print(params["w"])
    [0.71]
    """
    base = make_schedule(config, total_steps)

    def schedule(count: Any) -> Any:
        return rate_factor * base(count)

    optimizer: optax.GradientTransformation = optax.chain(*(link.transform for link in _chain_links(config, schedule)))
    if config.name in SCHEDULE_FREE:
        optimizer = schedule_free(optimizer, schedule, config.setting("b1"))
    if config.lookahead_every is not None:
        optimizer = lookahead(optimizer, every=config.lookahead_every, rate=config.lookahead_rate)
    if config.sam_radius is not None:
        optimizer = sharpness_aware(optimizer, config.sam_radius)
    if config.freeze is not None:
        labels = functools.partial(_trained_or_frozen, config.freeze)
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    optimizer = gradients_of_parts(optimizer)

    def init(params: Params) -> Any:
        check_parameters(config, params)
        return optimizer.init(params)

    if params is not None:
        check_parameters(config, params)
    return optax.GradientTransformationExtraArgs(init, optimizer.update)


def check_parameters(config: OptimizerConfig, params: Params) -> None:
    """Checks that every pattern of a config matches parameters.

    >>> check_parameters(OptimizerConfig(freeze="dense"), {"dense": {"kernel": 1.0}})
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
    for pattern, settings in config.overrides.items():
        check_matches(pattern, params, "overrides")
        found = map_with_path(lambda path, decays, p=pattern: decays and re.search(p, path), mask_of(config)(params))
        if settings.get("weight_decay") and not any(jax.tree.leaves(found)):
            raise UsageError(
                f"overrides[{pattern!r}] sets weight_decay where no parameter decays: let decay_pattern match there."
            )
    groups_of(config, params)


def describe(config: OptimizerConfig) -> str:
    """Describes the chain of a config, one line for each link in order.

    Args:
        config: What to describe.

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
    if config.sam_radius is not None:
        lines.insert(0, f"sharpness-aware: the gradient {config.sam_radius:g} uphill, a second one at each step")
    if config.freeze is not None:
        lines.insert(0, f"only parameters that do not match {config.freeze!r}")
    if config.name in SCHEDULE_FREE:
        lines.append(f"schedule-free: gradients {config.setting('b1'):g} of the way to the average, which is evaluated")
    if config.lookahead_every is not None:
        lines.append(
            f"lookahead: every {config.lookahead_every} steps slow weights move {config.lookahead_rate:g} of the way, "
            "which are evaluated"
        )
    return "\n".join(text for line in lines for text in line.split("\n"))


def _chain_links(config: OptimizerConfig, schedule: optax.Schedule) -> list[Link]:
    """The links from the gradient to the update, without the wrappers: averages, SAM, freezing."""
    mask, where = mask_of(config), decaying(config)
    links = []
    if config.centralize:
        links.append(Link("gradient centralisation of kernels", centralize()))
    if config.clip_value is not None:
        links.append(Link(f"clip each entry to +-{config.clip_value:g}", optax.clip(config.clip_value)))
    if config.clip_norm is not None:
        links.append(Link(f"clip to global norm {config.clip_norm:g}", clip_by_global_norm(config.clip_norm)))
    if config.l1:
        links.append(Link(f"L1 penalty {config.l1:g} on {where}", optax.masked(add_l1(config.l1), mask)))
    if config.l2:
        links.append(Link(f"L2 penalty {config.l2:g} on {where}", optax.add_decayed_weights(config.l2, mask)))
    has_groups = any({*own} != {"rate_factor"} for own in config.overrides.values())
    links += [by_group(config, schedule)] if has_groups else core_links(config, schedule)
    scaling = []
    if config.name in SELF_RATED:
        links[-1] = Link(f"{links[-1].text}\n{_schedule_text(config)}, times that step size", links[-1].transform)
    else:
        scaling.append(Link(_schedule_text(config), optax.scale_by_learning_rate(schedule)))
    if config.plateau_factor is not None:
        scaling.append(Link(_plateau_text(config), reduce_on_plateau(config)))
    if config.layer_decay != 1 or rate_factors(config):
        scaling.append(Link(_rates_text(config), parameter_rates(config)))
    if not config.proximal_l1:
        return links + scaling
    text = "\n".join([*(link.text for link in scaling), f"proximal L1 step {config.proximal_l1:g} on {where}"])
    together = optax.chain(*(link.transform for link in scaling))
    return [*links, Link(text, proximal_l1(config.proximal_l1, together, mask))]


def _trained_or_frozen(pattern: str, params: Params) -> Any:
    """Labels for `optax.partition`."""
    return map_with_path(lambda path, _: "frozen" if re.search(pattern, path) else "trained", params)


def _schedule_text(config: OptimizerConfig) -> str:
    """The description of the learning rate."""

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


def _plateau_text(config: OptimizerConfig) -> str:
    return (
        f"times {config.plateau_factor:g} whenever the mean loss of {config.plateau_window} steps has not fallen "
        f"{config.plateau_patience} times in a row"
    )


def _rates_text(config: OptimizerConfig) -> str:
    lines = []
    if config.layer_decay != 1:
        lines.append(f"layer-wise rates: {config.layer_decay:g} for each layer down from the head")
    for pattern, rate in rate_factors(config).items():
        lines.append(f"rate times {rate:g} where {pattern!r} matches")
    return "\n".join(lines)
