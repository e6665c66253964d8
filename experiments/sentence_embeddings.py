"""Contrastive learning of short texts from real positives: the names of an emoji in different languages.

What is studied: does an encoder that brings the names of one emoji together find names of new emoji in 13 languages,
and does it beat character n-grams (TF-IDF) and a linear map between languages? Losses: InfoNCE in both directions (Oord
et al. 2018, arXiv:1807.03748), NT-Xent (Chen et al. 2020, arXiv:2002.05709), decoupled (Yeh et al. 2022, 2110.06848),
hard negatives (Robinson et al. 2021, 2010.04592), SupCon with names in four languages (Khosla et al. 2020, 2004.11362).
Other arms have fewer negatives, or start pretrained, or never see Portuguese and Chinese. By design the encoder is a
bag of hashed character n-grams, so there is no language model to start from. The pretrained arm starts from vectors
that InfoNCE has learnt without pairs, from two random halves of the n-grams of single names to train on, in all
languages (after Gao et al. 2021, 2104.08821); all others start from scratch. Siblings (man and woman of a profession)
are on one side of the split. Temperature and rate are chosen for each arm on validation concepts.

Data: names from `emoji` (BSD-3; the names are Unicode CLDR's, Unicode License v3; extra `emoji`); without it
those that HTML and Unicode give a character (Python's library).

    python -m experiments.sentence_embeddings
    python -m experiments.sentence_embeddings --data.path my_pairs.tsv    # two texts a line, or .csv

Expected (recall@1 among 355 new emoji, languages in Latin script and others): InfoNCE 0.457 and 0.272, TF-IDF 0.237 and
0.018, the linear map 0.409 and 0.323; map and TF-IDF together, 0.527 and 0.319, are not beaten. Hard negatives help by
0.01, decoupled by 0.03 in other scripts, 1/16 of the negatives cost 0.03. 11 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.translation import BOTH, MAP, RANGES, TFIDF, translate
from experiments.data.name_bags import NameBags, bag_names, draw_halves, draw_names
from experiments.data.names import INSTALL, LEFT_OUT, NamesConfig, has_emoji, read_names
from experiments.evaluation import retrieval
from experiments.evaluation.retrieval import misses, recalls, scores_by_language
from experiments.models.bag import BagEncoder, init_of
from experiments.study import Question, Row, Training, TrainingConfig, axis, many
from experiments.study.many import Bench, Runs
from train.errors import UsageError
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig
from train.records.report import Table

Loss = Callable[..., jax.Array]
BASELINES = (TFIDF, MAP, BOTH)
MIDDLE_RATE, MIDDLE_TEMPERATURE, LOOKS, POSITIVES, PARTS = 0.1, 0.1, 10, 4, 16


def both_ways(a: jax.Array, b: jax.Array, **options: Any) -> jax.Array:
    """InfoNCE of cosines, from each side to the other."""
    one, other = (lossfns.info_nce(*sides, similarity="cosine", **options) for sides in ((a, b), (b, a)))
    return (one + other) / 2


def of_pairs(loss: Loss, parts: int = 1) -> Loss:
    """A loss of pairs, for embeddings [2 B, D] of first and second texts; negatives are from the same part only."""

    def values(z: jax.Array, concept: jax.Array, temperature: jax.Array) -> jax.Array:
        a, b = (side.reshape(parts, -1, side.shape[-1]) for side in jnp.split(z, 2))
        return jax.vmap(functools.partial(loss, temperature=temperature))(a, b)

    return values


INFO, SUPCON, PRETRAINED, BLIND = "InfoNCE", "SupCon", "InfoNCE, pretrained", "InfoNCE, two languages left out"
LOSSES: dict[str, Loss] = {
    INFO: of_pairs(both_ways),
    "NT-Xent": of_pairs(lossfns.nt_xent),
    "decoupled": of_pairs(lossfns.decoupled_contrastive),
    "hard negatives": of_pairs(functools.partial(lossfns.hard_negative_contrastive, class_prior=0.0)),
    SUPCON: lambda z, concept, temperature: lossfns.supcon(z, concept, temperature=temperature),
    "InfoNCE, 1/4 of the negatives": of_pairs(both_ways, 4),
    "InfoNCE, 1/16 of the negatives": of_pairs(both_ways, PARTS),
}
"""Of embeddings [2 B, D], the numbers of their concepts [2 B] and a temperature."""
ARMS = (*LOSSES, PRETRAINED, BLIND)
SHOWN, DRAWN = ("de", "fr", "ja"), (INFO, SUPCON, BLIND, BOTH, MAP, TFIDF)


def ask(treatment: Any, baselines: Any, claim: str, metric: str = "recall_at_1", **more: Any) -> Question:
    """A question on recall, for languages in Latin script and in others."""
    one, others = (tuple({"method": name} for name in names) for names in (treatment, baselines))
    return Question(metric, one, others, claim=claim, **{"by": "to", "at": ("Latin script", "other scripts")} | more)


QUESTIONS = (
    ask([INFO], [TFIDF], "From real positives InfoNCE learns to find translations that TF-IDF does not find"),
    ask([INFO], [TFIDF], "So it does among the first ten answers", "recall_at_10"),
    ask([INFO], [MAP], "It beats a linear map between the languages"),
    ask([INFO], [BOTH], "It beats the linear map and TF-IDF together"),
    ask([INFO], ["NT-Xent"], "Negatives of the same side change nothing", expected="same", margin=0.02),
    ask(["decoupled"], [INFO, "NT-Xent"], "Without the positive in the sum the loss is better"),
    ask(["hard negatives"], [INFO, "NT-Xent"], "Weighting negatives by how hard they are helps"),
    ask([SUPCON], [INFO], "Several languages as positives at once help"),
    ask([INFO], [*LOSSES][-2:], "More negatives help, at the same pairs and steps"),
    ask([PRETRAINED], [INFO], "Pretraining by InfoNCE on halves of single names, without pairs, helps"),
    ask([BLIND], [TFIDF], "It finds names in languages that it never saw", at=tuple(LEFT_OUT)),
    ask([INFO], [BLIND], "Seeing pairs of the language helps", at=tuple(LEFT_OUT)),
)


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """A bag of n-grams."""

    data: NamesConfig = NamesConfig()
    """The texts."""
    methods: tuple[str, ...] = axis(ARMS)
    """Arms that are trained."""
    seeds: int = 5
    """Number of encoders of each arm, with different weights and batches; they are trained together."""
    tuning_seeds: int = 1
    """Further encoders that choose temperature and rate on validation concepts."""
    temperatures: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2, 0.4)
    """Temperatures that are tried, at the rate where the grid of rates begins."""
    buckets: int = 32_768
    """Buckets that n-grams are hashed to."""
    features: int = 128
    """Numbers of an embedding."""
    training: Training = TrainingConfig(
        OptimizerConfig(name="adam", learning_rate=1.0, schedule="cosine"), steps=160, batch_size=256
    )
    """A batch is of pairs. The optimizer's learning rate multiplies those tried."""

    def __post_init__(self) -> None:
        study.check_known("--methods", self.methods, ARMS)
        if self.training.batch_size < PARTS or self.training.steps < LOOKS:
            raise UsageError(f"expected --batch-size of at least {PARTS} and --steps of at least {LOOKS}")

    def fast(self) -> Config:
        """The same path on less of everything."""
        less: Any = {"temperatures": (0.05, 0.1), "buckets": 2_048, "features": 16, "seeds": 2}
        training = dataclasses.replace(self.training, steps=20, batch_size=32)
        return dataclasses.replace(self, methods=(INFO, "NT-Xent", BLIND), training=training, **less)


def make_data(config: Config) -> NameBags:
    """Reads the names, splits the concepts and hashes the n-grams."""
    return bag_names(read_names(config.data.path), config.buckets, config.seed)


def make_model(config: Config) -> BagEncoder:
    """The encoder."""
    return BagEncoder(config.buckets, config.features)


def make_objective(model: BagEncoder, method: str) -> Objective:
    """A contrastive loss of the names in a batch."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        z = model.apply({"params": params}, batch["grams"], batch["weights"])
        return {"contrastive": Term(LOSSES[method](z, batch["concept"], batch["temperature"][0]), 1.0)}

    return objective


def draw_batches(bench: Bench, data: NameBags, method: str) -> Runs:
    """Weights, and batches of names, queries first. SupCon has more names of fewer concepts."""
    config, codes = bench.config, data.languages
    answering = [i for i, c in enumerate(codes) if i and (method != BLIND or c not in data.names.left_out)]
    size = min(config.training.batch_size, len(data.split[0])) // PARTS * PARTS
    init = init_of(make_model(config), data.frequency)
    runs = bench.starts(init, data.split[0], size, config.training.steps // LOOKS * LOOKS)
    each = min(POSITIVES, len(codes)) if method == SUPCON else 2
    concepts = np.asarray(runs.rows)[..., : 2 * size // each]
    rng = np.random.default_rng([config.seed, 7, bench.tuned is None])
    return runs._replace(rows=jnp.asarray(draw_names(concepts, len(data.names), answering, rng, each)))


def train_encoders(bench: Bench, data: NameBags, method: str) -> list[Row]:
    """Chooses temperature and rate of an arm, or trains with what was chosen and tests."""
    config, model, runs = bench.config, make_model(bench.config), draw_batches(bench, data, method)
    loss, every = method if method in LOSSES else INFO, runs.rows.shape[1] // LOOKS
    made = many.make_trainer(make_objective(model, loss), {"contrastive": 1.0}, config.training.optimizer, every=every)
    fit, arm = bench.trainers.setdefault(loss, made), INFO if method == BLIND else method

    def missed(end: many.Trained) -> np.ndarray:
        return np.array([misses(one) for one in scores_by_language(model, end.params, data.inputs(1), data.languages)])

    if method == PRETRAINED:
        concepts = np.asarray(runs.rows)[..., : runs.rows.shape[-1] // 2]
        halves = draw_halves(concepts, data, np.random.default_rng([config.seed, 9]))
        start = many.train_at(fit, MIDDLE_RATE, runs._replace(rows=jnp.asarray(halves)), data.at(MIDDLE_TEMPERATURE))
        runs = runs._replace(params=start.params)
    if bench.tuned is None:
        tried = {
            t: float(np.mean(missed(many.train_at(fit, MIDDLE_RATE, runs, data.at(t))))) for t in config.temperatures
        }
        best = many.best_rate(tried)
        found = many.tune(fit, data.at(best), runs, MIDDLE_RATE, missed)
        return [row | {"temperature": best, "temperatures": [*map(float, tried.values())]} for row in found]
    temperature = next((row["temperature"] for row in bench.tuned if row["tuned"] == arm), MIDDLE_TEMPERATURE)
    end = many.train_at(fit, bench.rate(arm, MIDDLE_RATE), runs, data.at(temperature))
    bench.write_curves({"method": method}, every, end.curves)
    scores = scores_by_language(model, end.params, data.inputs(2), data.languages)
    rows = [row for seed, one in enumerate(scores) for row in recalls(data.names.groups, one, seed=seed)]
    if method == INFO:
        bench.run.save(jax.tree.map(lambda leaf: leaf[0], end.params))
        rows[0]["nearest"] = retrieval.nearest_names(data.part(2), scores[0], SHOWN)
    return rows


def notes_of(config: Config, data: NameBags, rows: list[Row], chosen: Bench) -> list[Any]:
    """What the report says of the data, some names and the choices."""
    sizes = "{} concepts to train on, {} to validate on and {} to test on".format(*map(len, data.split))
    install = [] if has_emoji() or config.data.path else [f"For the names of emoji: {INSTALL}"]
    notes: list[Any] = [f"Data: {data.names.source}, {sizes}.", *install, retrieval.table_of(rows)]
    notes += ["Nearest of all test names to some, by the first InfoNCE encoder (✓ is right):"]
    notes += [Table(row["nearest"][0], row["nearest"][1:]) for row in rows if "nearest" in row]
    notes += ["Chosen, by the share of validation names whose first answer is wrong:", chosen.table()]
    return notes + retrieval.tables_of_choices(chosen.tuned or (), config.temperatures, rows)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data, bench = make_data(config), Bench(config, run, {})
        run.uses(data.pool, data.frequency, dict(data.names.texts))
        arms = [arm for arm in config.methods if arm != BLIND or data.names.left_out]
        tuned = dict.fromkeys(INFO if arm == BLIND else arm for arm in arms)
        tried = run.all([{"tuned": arm} for arm in tuned], lambda tuned: train_encoders(bench, data, tuned))
        chosen = dataclasses.replace(bench, tuned=tried)
        ranges = RANGES[:1] if config.fast_dev_run else RANGES
        translated = functools.cache(lambda: translate(data.names.texts, data.split, ranges))

        def evaluate(method: str) -> list[Row]:
            if method in ARMS:
                return train_encoders(chosen, data, method)
            found = translated()[method]
            return recalls(data.names.groups, found.scores, chosen=found.chosen, validation=found.validation)

        rows = run.all([{"method": method} for method in (*arms, *BASELINES)], evaluate, on=tried)
        return run.report(
            rows,
            QUESTIONS if data.names.left_out else [q for q in QUESTIONS if q.at != tuple(LEFT_OUT)],
            notes=[lambda: notes_of(config, data, rows, chosen)],
            figures=[lambda: [retrieval.draw_curves(run.path, rows, group, DRAWN) for group in data.names.groups]],
            curves={"loss": "contrastive loss (nats)"},
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
