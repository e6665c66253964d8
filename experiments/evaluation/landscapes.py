"""Losses as functions of a margin, a residual or two weights, and the paths of optimizers over them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

import lossfns
from experiments.data.tables import read_diabetes, standardised
from experiments.evaluation.pictures import Surface, surfaces
from experiments.study.many import Runs, make_trainer
from train.objective import Context, Term
from train.optimizers import OptimizerConfig
from train.records import plots
from train.records.report import Image, Table

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def _sigmoid_mse(z: jax.Array, t: jax.Array) -> jax.Array:
    return lossfns.squared_error(jax.nn.sigmoid(z), t)


def _bi_tempered(z: jax.Array, t: jax.Array) -> jax.Array:
    return lossfns.bi_tempered(jnp.stack([-z / 2, z / 2], -1), t.astype(jnp.int32))


OF_MARGIN: Mapping[str, Loss] = {
    "MSE": _sigmoid_mse,
    "cross-entropy": lossfns.sigmoid_cross_entropy,
    "focal": lambda z, t: lossfns.sigmoid_focal(z, t, alpha=None),
    "bi-tempered": _bi_tempered,
}
"""Losses of log-odds and a target of 0 or 1; MSE compares the sigmoid with the target."""
OF_RESIDUAL: Mapping[str, Loss] = {
    "squared error / 2": lambda y, t: 0.5 * lossfns.squared_error(y, t),
    "Huber": lossfns.huber,
    "Barron, alpha 0": lambda y, t: lossfns.barron(y - t, alpha=0.0),
    "Barron, alpha -2": lambda y, t: lossfns.barron(y - t, alpha=-2.0),
}
"""Losses of a prediction and a real target."""
TRIMMED = "trimmed least squares"
PATHS: Mapping[str, tuple[Any, float, float | None]] = {
    "SGD": ("sgd", 0.5, None),
    "momentum": ("momentum", 0.05, None),
    "Adam": ("adam", 0.1, None),
    "SAM": ("sgd", 0.5, 0.5),
}
"""Optimizer, learning rate and SAM's radius of the paths that are drawn, all on the gradient of all examples."""


@dataclasses.dataclass(frozen=True)
class TwoFeatures:
    """Real data with two features [N, 2], for a surface over their weights, and targets [N]."""

    features: np.ndarray
    targets: np.ndarray


@functools.partial(jax.jit, static_argnums=0)
def slopes(loss: Loss, outputs: Any, targets: Any) -> jax.Array:
    """The derivative of a loss [N] by its outputs [N]."""
    return jax.grad(lambda z: jnp.sum(loss(z, targets)))(outputs)


def draw_curves(path: Path, losses: Mapping[str, Loss], target: float, xlabel: str, width: float) -> Path:
    """Draws value and derivative of each loss over the output, for one target."""
    x = jnp.linspace(-width, width, 241)
    targets = jnp.full(x.shape, target)
    curves = {
        name: {"loss": (x, jax.jit(f)(x, targets)), "slope": (x, slopes(f, x, targets))} for name, f in losses.items()
    }
    return plots.learning_curves(path, curves, xlabel=xlabel)  # type: ignore[arg-type]


def select(losses: Mapping[str, Loss]) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """A loss `(outputs, targets, number)` that selects one of the losses, so that one program serves all."""

    def chosen(outputs: jax.Array, targets: jax.Array, number: jax.Array) -> jax.Array:
        return jnp.stack([loss(outputs, targets) for loss in losses.values()])[number]

    return chosen


def descend(losses: Mapping[str, Loss], pool: Mapping[str, Any], start: Any, name: str, steps: int) -> np.ndarray:
    """The paths [losses, steps + 1, 2] of one of `PATHS` over the two weights of a linear model of {"x", "y"}."""
    loss, count = select(losses), len(pool["y"])

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        return {"value": Term(loss(batch["x"] @ params, batch["y"], batch["loss"][0]), 1.0)}

    optimizer, rate, radius = PATHS[name]
    config = OptimizerConfig(name=optimizer, learning_rate=rate, schedule="constant", sam_radius=radius)
    train = make_trainer(objective, {"value": 1.0}, config, every=1, watch=lambda weights, *_: {"path": weights})
    repeated = {part: jnp.concatenate([values] * len(losses)) for part, values in pool.items()}
    repeated["loss"] = jnp.repeat(jnp.arange(len(losses)), count)
    rows = jnp.arange(len(losses) * count).reshape(-1, 1, count)
    starts = jnp.tile(jnp.asarray(start, jnp.float32), (len(losses), 1))
    end = train(Runs(jnp.ones(len(losses)), starts, jnp.tile(rows, (1, steps, 1))), repeated)
    return np.concatenate([np.asarray(starts)[:, None], np.asarray(end.curves["path"])], 1)


def draw_surfaces(
    path: Path, losses: Mapping[str, Loss], examples: TwoFeatures, start: Any, width: float, steps: int = 400
) -> list[list[Any]]:
    """Draws the mean of each loss over the two weights of a linear model, with the paths of optimizers from one start.

    Args:
        path: The PNG file.
        losses: Losses by name.
        examples: Examples to average over.
        start: Initial weights of all paths.
        width: Largest weight drawn.
        steps: Updates of each path.

    Returns:
        For each loss a row of a table: its name, the minimum of the surface, and the excess of the loss over the
        minimum at the end of each path.
    """
    features, targets = (jnp.asarray(part, jnp.float32) for part in (examples.features, examples.targets))
    pool = {"x": features, "y": targets}
    found = {optimizer: descend(losses, pool, start, optimizer, steps) for optimizer in PATHS}
    ticks = np.linspace(-width, width, 81)
    grid = jnp.stack(jnp.meshgrid(ticks, ticks), -1)
    drawn, rows = {}, []
    for number, (name, loss) in enumerate(losses.items()):

        def height(weights: jax.Array, loss: Loss = loss) -> jax.Array:
            return jnp.mean(loss(features @ weights, targets))

        paths = {optimizer: ways[number] for optimizer, ways in found.items()}
        drawn[name] = Surface(ticks, ticks, np.asarray(jax.jit(jax.vmap(jax.vmap(height)))(grid)), paths)
        ends = [float(height(jnp.asarray(places[-1], jnp.float32))) for places in paths.values()]
        low_y, low_x = np.unravel_index(drawn[name].heights.argmin(), drawn[name].heights.shape)
        lowest = min(*ends, float(drawn[name].heights.min()))
        rows.append([name, f"({ticks[low_x]:.1f}, {ticks[low_y]:.1f})", *(f"{end - lowest:.2g}" for end in ends)])
    surfaces(path, drawn, xlabel="first weight", ylabel="second weight")
    return rows


def two_components(x: np.ndarray, y: np.ndarray) -> TwoFeatures:
    """The first two principal components of the inputs, each with deviation 1, and the labels."""
    left, _, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return TwoFeatures(left[:, :2] * np.sqrt(len(x)), y)


def diabetes_with_outliers(share: float, seed: int) -> TwoFeatures:
    """Body mass index and a blood value of 442 patients; a share of the targets is off by 8 standard deviations.

    The targets are the standardised progress of their diabetes; outliers go against its dependence on the index.
    """
    table = read_diabetes()
    features = standardised(table.features[:, [table.columns.index(name) for name in ("bmi", "s5")]])[0]
    targets = standardised(table.target[:, None])[0][:, 0]
    moved = np.random.default_rng(seed).random(len(targets)) < share
    return TwoFeatures(features, targets - 8 * moved * np.sign(features[:, 0]))


@functools.partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def _mean(weights: Any, loss: Loss, features: Any, targets: Any) -> jax.Array:
    return jnp.mean(loss(features @ weights, targets))


def minimum(loss: Loss, examples: TwoFeatures) -> np.ndarray:
    """The weights [2] that minimise the mean of a loss, by BFGS from 0."""

    def mean(weights: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(part, float) for part in _mean(weights, loss, examples.features, examples.targets)]

    return np.asarray(minimize(mean, [0, 0], jac=True).x)


def trimmed_least_squares(examples: TwoFeatures) -> np.ndarray:
    """The weights [2] of least squares, refitted without residuals above 3 median deviations until none is left."""
    kept = np.ones(len(examples.targets), bool)
    while True:
        weights = np.linalg.lstsq(examples.features[kept], examples.targets[kept], rcond=None)[0]
        size = np.abs(examples.targets - examples.features @ weights)
        further = kept & (size <= 3 * 1.4826 * np.median(size[kept]))  # the deviation of a normal distribution
        if further.sum() == kept.sum():
            return np.asarray(weights)
        kept = further


def shift(name: str, share: float, seed: int) -> float:
    """Distance by which outliers move the minimum of one of `OF_RESIDUAL`, or of trimmed least squares."""
    clean, moved = (diabetes_with_outliers(part, seed) for part in (0.0, share))
    fit = trimmed_least_squares if name == TRIMMED else functools.partial(minimum, OF_RESIDUAL[name])
    return float(np.linalg.norm(fit(moved) - fit(clean)))


def draw_losses(folder: Path, x: np.ndarray, y: np.ndarray) -> list[Any]:
    """Draws the losses over a margin, a residual and two weights, as blocks of a report.

    Args:
        folder: The study's folder.
        x: Inputs [N, D] of two classes.
        y: Their labels, 0 and 1.
    """
    plots_of = folder / "plots"
    draw_curves(plots_of / "margin.png", OF_MARGIN, 1.0, "margin (log-odds of the right class)", 10.0)
    draw_curves(plots_of / "residual.png", OF_RESIDUAL, 0.0, "residual", 4.0)
    columns = ["loss", "lowest place", *(f"{name}, excess at the end" for name in PATHS)]
    of_margin = draw_surfaces(plots_of / "surfaces_margin.png", OF_MARGIN, two_components(x, y), (6.0, -5.0), 8.0)
    outliers = diabetes_with_outliers(0.1, seed=0)
    of_residual = draw_surfaces(plots_of / "surfaces_residual.png", OF_RESIDUAL, outliers, (-2.5, 2.5), 3.0)
    return [
        Image("plots/margin.png", "Losses and their slopes over the margin"),
        Image(
            "plots/surfaces_margin.png", "Two classes by their first two principal components; all paths start wrong"
        ),
        Table(columns, of_margin),
        Image("plots/residual.png", "Losses and their slopes over the residual"),
        Image("plots/surfaces_residual.png", "Diabetes by body mass index and s5, a tenth of the targets outliers"),
        Table(columns, of_residual),
    ]
