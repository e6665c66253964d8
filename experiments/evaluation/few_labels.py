"""Methods to classify texts with few labels: each chooses its rate on validation texts, then is tested.

Networks (`experiments.evaluation.fine_tuning`) are trained together, all draws of the labels as one program; a probe
and two bags of words choose their penalty in the same way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.baselines.linear import fit_linear
from experiments.baselines.tfidf import fit_tfidf, fit_topics
from experiments.data.labelled import Labelled
from experiments.data.tokenizers import Tokenizer
from experiments.evaluation.calibration import judge, log_loss
from experiments.evaluation.fine_tuning import TextClassifier, adapted, draw, outputs, probabilities, start, whole
from experiments.study import many
from experiments.study.grid import Row
from experiments.study.workdir import Run
from train.objective import Objective
from train.records.report import Table

SCRATCH, PRETRAINED, LORA, LAYERS = "from scratch", "pretrained", "LoRA", "layer-wise rates"
ALONE, PROBE, TFIDF, LSA = "pretrained by masks alone", "linear probe", "TF-IDF", "LSA"
WAYS = {SCRATCH: "full", PRETRAINED: "full", LORA: "lora", LAYERS: "layers", ALONE: "full"}
"""The networks, and which of their parameters are trained."""
MIDDLES = {PROBE: 0.01, TFIDF: 10.0, LSA: 0.1, LORA: 1e-2}
"""Middle of the grid of learning rates or of scikit-learn's C; 0.003 for all other methods."""
LOOKS = 4
"""Points of a learning curve."""


class Data(NamedTuple):
    """Texts, their tokens and their LSA features; the training texts first, then the test texts."""

    texts: tuple[Labelled, Labelled]
    tokenizer: Tokenizer
    tokens: tuple[np.ndarray, np.ndarray]
    topics: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Lab:
    """State shared by the runs of a study. Values are tried on validation texts while `tried` is None."""

    config: Any
    """With `seed`, `seeds`, `tuning_seeds`, `most_validation`, `epochs`, `adapt` and `training`."""
    run: Run
    data: Data
    model: TextClassifier
    objective: Objective
    encoder: Callable[[str], Any]
    """The pretrained encoder for each method."""
    made: dict[Any, Any] = dataclasses.field(default_factory=dict)
    """Compiled programs by method and steps, and the features of the probe."""
    tried: Sequence[Row] | None = None
    """{"tuned": method, "labels", "rate", "loss"}."""

    def drawn(self, labels: int) -> list[np.ndarray]:
        """Rows of the labelled texts of each seed of this stage."""
        label, seed = self.data.texts[0].label, self.config.seed
        if self.tried is not None:
            return [draw(label, labels, seed, number) for number in range(self.config.seeds)]
        others = np.setdiff1d(np.arange(len(label)), self.validation)
        few = min(labels, len(others))
        return [others[draw(label[others], few, seed + 1, number)] for number in range(self.config.tuning_seeds)]

    @property
    def validation(self) -> np.ndarray:
        """Rows of the texts used to choose rates and penalties; tuning trains on none of them."""
        label = self.data.texts[0].label
        return draw(label, min(self.config.most_validation, len(label) // 4), self.config.seed, 0)

    def value(self, method: str, labels: int) -> float:
        """The chosen rate or penalty."""
        rows = [row for row in self.tried or () if (row["tuned"], row["labels"]) == (method, labels)]
        return many.best_rate({row["rate"]: row["loss"] for row in rows}) if rows else MIDDLES.get(method, 3e-3)


def networks(lab: Lab, method: str, drawn: Sequence[np.ndarray]) -> tuple[Any, many.Runs, Any]:
    """The program of a method, its runs without rates, and its pretrained encoder."""
    config, training = lab.config, lab.config.training
    encoder = None if method == SCRATCH else lab.encoder(ALONE if method == ALONE else PRETRAINED)
    steps = max(training.steps, config.epochs * len(drawn[0]) // training.batch_size) // LOOKS * LOOKS
    init = jax.jit(functools.partial(start, lab.model, encoder, config.adapt, WAYS[method]))
    first = 1_000 if lab.tried is None else 0
    seeds = [config.seed + first + number for number in range(len(drawn))]
    orders = [
        many.epochs(len(rows), training.batch_size, steps, [seed]) for rows, seed in zip(drawn, seeds, strict=True)
    ]
    rows = np.stack([rows[order] for rows, order in zip(drawn, orders, strict=True)])
    if (method, steps) not in lab.made:
        decay = config.adapt.layer_decay if WAYS[method] == "layers" else 1.0
        optimizer = dataclasses.replace(training.optimizer, layer_decay=decay)
        objective = adapted(lab.objective, encoder, config.adapt)
        made = many.make_trainer(objective, {"text_class": 1.0}, optimizer, every=steps // LOOKS)
        lab.made[method, steps] = made
    params = many.stack([init(jax.random.key(seed)) for seed in seeds])
    return lab.made[method, steps], many.Runs(None, params, jnp.asarray(rows)), encoder


def pool_of(lab: Lab) -> dict[str, np.ndarray]:
    """The training examples of the networks."""
    return {"tokens": lab.data.tokens[0], "label": lab.data.texts[0].label}


def of_each(lab: Lab, params: Any, encoder: Any, tokens: np.ndarray) -> list[np.ndarray]:
    """Probabilities [N, K] of trained networks [R, ...]."""
    each = [run_of(params, number) for number in range(len(jax.tree.leaves(params)[0]))]
    return [probabilities(lab.model, whole(one, encoder, lab.config.adapt), tokens) for one in each]


def run_of(params: Any, number: int) -> Any:
    """The parameters of one of the networks [R, ...]."""
    return jax.tree.map(lambda leaf: leaf[number], params)


def of_words(lab: Lab, method: str, rows: np.ndarray, c: float, part: int) -> np.ndarray:
    """Probabilities [N, K] for all texts of a part, by a model that is fitted on rows without training a network."""
    texts, label = lab.data.texts, lab.data.texts[0].label[rows]
    found = np.zeros((len(texts[part]), len(texts[0].classes)))
    if len(present := np.unique(label)) == 1:  # scikit-learn refuses a single class
        found[:, present] = 1.0
    elif method == TFIDF:
        model = fit_tfidf([texts[0].text[i] for i in rows], label, c)
        found[:, model.classes_] = model.predict_proba(texts[part].text)
    else:
        features = lab.data.topics if method == LSA else features_of(lab)
        model = (fit_topics if method == LSA else fit_linear)(features[0][rows], label, c)
        found[:, model.classes_] = model.predict_proba(features[part])
    return found


def features_of(lab: Lab) -> tuple[np.ndarray, ...]:
    """The inputs of the probe: the pretrained encoder's features of the texts of each part."""
    if PROBE not in lab.made:
        params = {"encoder": lab.encoder(PRETRAINED)}
        lab.made[PROBE] = tuple(outputs(lab.model, "features", params, tokens) for tokens in lab.data.tokens)
    found: tuple[np.ndarray, ...] = lab.made[PROBE]
    return found


def tune(lab: Lab, tuned: str, labels: int) -> list[Row]:
    """A row for each value tried for a method, with its cross-entropy on validation texts."""
    drawn, check = lab.drawn(labels), lab.validation
    label = lab.data.texts[0].label[check]
    if tuned in WAYS:
        fit, runs, encoder = networks(lab, tuned, drawn)

        def losses(end: many.Trained) -> list[float]:
            each = of_each(lab, end.params, encoder, lab.data.tokens[0][check])
            return [log_loss(found, label) for found in each]

        return many.tune(fit, pool_of(lab), runs, MIDDLES.get(tuned, 3e-3), losses)

    def mean_losses(values: list[float]) -> list[float]:
        return [
            float(np.mean([log_loss(of_words(lab, tuned, rows, c, 0)[check], label) for rows in drawn])) for c in values
        ]

    found = many.search_rates(mean_losses, MIDDLES[tuned])
    return [{"rate": rate, "loss": loss} for rate, loss in found.items()]


def test(lab: Lab, method: str, labels: int) -> list[Row]:
    """A row for each draw of the labels, with the test metrics."""
    drawn, value, answer = lab.drawn(labels), lab.value(method, labels), lab.data.texts[1].label
    if method in WAYS:
        fit, runs, encoder = networks(lab, method, drawn)
        end = many.train_at(fit, value, runs, pool_of(lab))
        curves = many.Bench(lab.config, lab.run, {})
        curves.write_curves({"method": method, "labels": labels}, runs.rows.shape[1] // LOOKS, end.curves)
        found = of_each(lab, end.params, encoder, lab.data.tokens[1])
    else:
        found = [of_words(lab, method, rows, value, 1) for rows in drawn]
    overlap = labels * len(drawn) > len(lab.data.texts[0])
    shared = {"n_test": len(answer), "n_train": labels} if overlap else {}
    rows = []
    for seed, shares in enumerate(found):
        examples = {"confidence examples": shares.max(-1), "right examples": (shares.argmax(-1) == answer) * 1}
        lists = {name: values.tolist() for name, values in examples.items()}
        rows.append({"seed": seed, "rate": value, **judge(shares, answer), **lists, **shared})
    return rows


def table_of(lab: Lab) -> Table:
    """The values tried and chosen, for the report."""
    lines = []
    for method, labels in dict.fromkeys((row["tuned"], row["labels"]) for row in lab.tried or ()):
        tried = {r["rate"]: r["loss"] for r in lab.tried or () if (r["tuned"], r["labels"]) == (method, labels)}
        best = many.best_rate(tried)
        edge = "" if min(tried) < best < max(tried) else "at the edge"
        lines.append(
            [method, labels, f"{min(tried):.3g} to {max(tried):.3g}", f"{best:.3g}", f"{tried[best]:.3f}", edge]
        )
    return Table(["method", "labels", "rates or C tried", "chosen", "nats on validation texts", ""], lines)
