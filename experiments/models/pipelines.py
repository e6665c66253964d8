"""Pipelines to train a small network on a table: the usual one, and variants that change one step of it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

import lossfns
from experiments.data import folds
from experiments.data.tables import Table
from experiments.models.mlp import MLP
from experiments.study import many
from experiments.study.many import Runs
from train.optimizers.initializers import make_initializer

LEVEL = 0.9
"""Level of the quantile and the expectile."""
CE, MSE, MAE = "cross-entropy", "MSE", "MAE"
QUANTILE, EXPECTILE, GAUSSIAN, POISSON = "quantile 0.9", "expectile 0.9", "Gaussian likelihood", "Poisson likelihood"


def log_variance(outputs: Any) -> Any:
    """The log-variance from the second outputs of [N, K], between -10 and 10: unbounded, an unusual house overflows it.

    Chua et al. 2018, arXiv:1805.12114, bound it for the same reason.
    """
    return 10 * jnp.tanh(outputs[:, 1] / 10)


LOSSES: dict[str, Any] = {
    CE: lambda out, of: lossfns.sigmoid_cross_entropy(out[:, 0], of["y"]),
    MSE: lambda out, of: lossfns.squared_error(out[:, 0], of["y"]),
    MAE: lambda out, of: lossfns.absolute_error(out[:, 0], of["y"]),
    "Huber": lambda out, of: lossfns.huber(out[:, 0], of["y"], delta=0.5),
    "log-cosh": lambda out, of: lossfns.log_cosh(out[:, 0], of["y"]),
    QUANTILE: lambda out, of: lossfns.quantile(out[:, 0], of["y"], quantile=LEVEL),
    EXPECTILE: lambda out, of: lossfns.expectile(out[:, 0], of["y"], expectile=LEVEL),
    GAUSSIAN: lambda out, of: lossfns.gaussian_nll(out[:, 0], log_variance(out), of["y"]),
    POISSON: lambda out, of: lossfns.poisson_nll(out[:, 0], of["positive"]),
}
"""Losses [N] of outputs [N, K] and examples: "y" is standardised, or 0 and 1; "positive" is divided by its mean."""


class Arm(NamedTuple):
    """One pipeline; the defaults are the reference for all others."""

    cleaning: str = folds.CLIPPED
    scaling: str = folds.STANDARDISED
    initialiser: str = "he_normal"
    l1: float = 0.0
    l2: float = 0.0
    dropout: float = 0.0
    loss: str = MSE
    """Loss of a regression; classification uses cross-entropy."""
    width: int = 32
    stops: bool = False
    """Whether to take the parameters with the lowest validation loss instead of the last."""
    share: float = 1.0
    schedule: tuple[tuple[str, Any], ...] = ()

    @property
    def strengths(self) -> dict[str, float]:
        """Strengths of the penalties."""
        return {"l1": self.l1, "l2": self.l2, "dropout": self.dropout}


STRENGTHS, DROPOUTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
WIDTHS, SHARES = (2, 8, 128), (1 / 16, 1 / 8, 1 / 4, 1 / 2)
FAMILIES: dict[str, dict[str, Arm]] = {
    "L1": {f"L1 {s:g}": Arm(l1=s) for s in STRENGTHS},
    "L2": {f"L2 {s:g}": Arm(l2=s) for s in STRENGTHS},
    "elastic net": {f"elastic net {s:g}": Arm(l1=s, l2=s) for s in STRENGTHS},
    "dropout": {f"dropout {s:g}": Arm(dropout=s) for s in DROPOUTS},
}
"""Penalties; each fold chooses the strength."""
AXES: dict[str, dict[str, Arm]] = {
    "cleaning": {"not clipped": Arm(folds.IMPUTED), "rows dropped": Arm(folds.DROPPED), "gaps as 0": Arm(folds.ZEROS)},
    "scaling": {name: Arm(scaling=name) for name in (folds.TO_ONE, folds.UNSCALED)},
    "initialiser": {
        "Xavier": Arm(initialiser="xavier_uniform"),
        "Gaussian": Arm(initialiser="gaussian"),
        "zeros": Arm(initialiser="zeros"),
        "constant": Arm(initialiser="constant"),
    },
    "penalty": {name: arm for family in FAMILIES.values() for name, arm in family.items()},
    "loss": {name: Arm(loss=name) for name in LOSSES if name not in (CE, MSE)},
    "capacity": {f"{width} hidden units": Arm(width=width) for width in WIDTHS},
    "stopping": {"early stopping": Arm(stops=True)},
    "data": {f"{share:g} of the data": Arm(share=share) for share in SHARES},
    "schedule": {
        "constant rate": Arm(schedule=(("schedule", "constant"),)),
        "warm-up and cosine": Arm(schedule=(("warmup", 0.1),)),
        "late decay": Arm(schedule=(("schedule", "wsd"),)),
    },
}
"""Arms by the step that they change; "loss" is for regressions alone."""
USUAL = "the usual pipeline"
ARMS = {USUAL: Arm()} | {name: arm for arms in AXES.values() for name, arm in arms.items()}
CURVES: dict[str, tuple[str, str, dict[str, float]]] = {
    "data": ("Loss by the share of the training data", "share", {f"{s:g} of the data": s for s in SHARES} | {USUAL: 1}),
    "capacity": (
        "Loss by capacity",
        "hidden units",
        {f"{w} hidden units": float(w) for w in WIDTHS} | {USUAL: Arm().width},
    ),
    "l2": ("Loss by the strength of L2", "strength of L2", {f"L2 {s:g}": s for s in STRENGTHS}),
}
"""Plots: title, label of the horizontal axis, and the coordinate of each arm on it."""


def suits(arm: str, table: Table, least: int) -> bool:
    """Whether an arm can run on a table: its loss accepts the targets, and there are enough training rows."""
    if ARMS[arm].cleaning == folds.DROPPED and np.isfinite(table.features).all(1).sum() < 2 * least:
        return False
    if table.target.dtype.kind == "i":
        return arm not in AXES["loss"]
    return arm != POISSON or bool(table.target.min() >= 0)


def kernel_init(name: str) -> initializers.Initializer:
    """An initialiser of `train`, or "constant"."""
    return initializers.constant(0.1) if name == "constant" else make_initializer(name)


def drop(key: jax.Array, rate: Any, hidden: jax.Array) -> jax.Array:
    """Dropout with a rate that may be traced."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, hidden.shape), hidden / (1 - rate), 0.0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def judge(model: MLP, loss: str, net: Any, examples: Any) -> tuple[jax.Array, jax.Array]:
    """Outputs [N, K] and losses [N] of examples."""
    outputs: Any = model.apply({"params": net}, examples["x"])
    return outputs, LOSSES[loss](outputs, examples)


def starts(model: MLP, arm: Arm, data: folds.Stacked, batch_size: int, steps: int, seed: tuple[int, int]) -> Runs:
    """A run for each fold, without rates: initial weights, order, and the validation data as its held-out set.

    Args:
        model: The network.
        arm: The pipeline.
        data: The table as prepared by the pipeline.
        batch_size: Number of examples in a batch.
        steps: Number of updates.
        seed: Two numbers; the fold is added to the second.
    """
    inputs, params, orders = data.pool["x"].shape[1], [], []
    for number, fold in enumerate(data.folds, seed[1]):
        key = jax.random.fold_in(jax.random.key(seed[0]), number)
        net = model.init(key, jnp.zeros((1, inputs)))["params"]
        params.append({"net": net, "penalty": {name: jnp.float32(value) for name, value in arm.strengths.items()}})
        orders.append(fold.train[many.epochs(len(fold.train), batch_size, steps, [seed[0], number])])
    held = np.stack([fold.validation for fold in data.folds])
    return Runs(None, many.stack(params), jnp.asarray(np.stack(orders)), jnp.asarray(held))
