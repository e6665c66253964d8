"""Evaluation of a masked language model: frequent and rare tokens, and the use of near and far evidence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.tokenizers import MASK, SPECIAL_IDS
from experiments.models.paired import PairedEncoder
from experiments.study.workdir import Run
from train.records import plots
from train.records.report import Image

EDGES = (100, 1_000)
"""Edges of the classes of tokens: occurrences in the training text."""
CLASSES = ("rare", "middle", "frequent")
NEAR, FAR = 8, 17
"""Maximum distance of near evidence from the masked token, and minimum distance of far evidence, in tokens."""
BANDS = ((1, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 60))
"""Bands of distances, each drawn as one point."""
Predict = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""The likeliest token at each position, [B, P], of {"tokens", "valid", "segments": [B, T], "positions": [B, P]}."""


@functools.partial(jax.jit, static_argnums=0)
def _likeliest(model: PairedEncoder, net: Any, tokens: jax.Array, places: dict[str, Any]) -> jax.Array:
    logits: Any = model.apply({"params": net}, tokens, **places)[0]
    return jnp.argmax(logits, -1)


def likeliest(model: PairedEncoder, net: Any, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """The likeliest token at each of the `positions` [B, P] of a batch with `tokens`, `valid` and `segments`."""
    places = {name: batch[name] for name in ("valid", "segments", "positions")}
    return np.asarray(_likeliest(model, net, batch["tokens"], places))


class Evidence(NamedTuple):
    """Tokens that occur twice in a text, one of them masked; arrays [N]."""

    row: np.ndarray
    masked: np.ndarray
    """Position of the masked one."""
    other: np.ndarray
    """Position of the other one."""

    @property
    def distance(self) -> np.ndarray:
        """Distance of the two, in tokens."""
        return np.abs(self.masked - self.other)


def measure_tokens(
    predict: Predict, batches: Sequence[Mapping[str, np.ndarray]], counts: np.ndarray, places: int
) -> dict[str, Any]:
    """Accuracy on all masked tokens, and by frequency class.

    Args:
        predict: The model.
        batches: From `experiments.data.orders.eval_batches`.
        counts: Occurrences of each token in the training text [V].
        places: P, the maximum number of masked tokens in a text.

    Returns:
        "masked_accuracy", and "rare_accuracy" and so on.
    """
    right, kinds = [], []
    for batch in batches:
        positions = np.argsort(~batch["masked"], axis=1, kind="stable")[:, :places]
        where = np.take_along_axis(batch["masked"], positions, axis=1)
        labels = np.take_along_axis(batch["labels"], positions, axis=1)
        right.append((predict({**batch, "positions": positions}) == labels)[where])
        kinds.append(np.digitize(counts[labels], EDGES)[where])
    hit, kind = np.concatenate(right), np.concatenate(kinds)
    shares = {f"{name}_accuracy": float(np.mean(hit[kind == i])) for i, name in enumerate(CLASSES) if (kind == i).any()}
    return {"masked_accuracy": float(hit.mean()), **shares}


def find_evidence(labels: np.ndarray, counts: np.ndarray, seed: int) -> Evidence:
    """Finds the infrequent tokens that occur exactly twice in a text; one of the two, at random, is to be masked.

    >>> found = find_evidence(np.array([[7, 8, 9, 8, 6]]), np.full(10, 50), seed=0)
    >>> len(found.row), int(found.distance[0])
    (1, 2)
    """
    rng, found = np.random.default_rng([seed, 4]), []
    for row, tokens in enumerate(labels):
        token, first, count = np.unique(tokens, return_index=True, return_counts=True)
        usable = (count == 2) & (token >= len(SPECIAL_IDS)) & (counts[token] < EDGES[-1])
        for value, place in zip(token[usable], first[usable], strict=True):
            pair = [place, place + 1 + int(np.argmax(tokens[place + 1 :] == value))]
            at = int(rng.integers(2))
            found.append((row, pair[at], pair[1 - at]))
    return Evidence(*np.array(found, np.int64).reshape(-1, 3).T)


def measure_evidence(
    predict: Predict, batches: Sequence[Mapping[str, np.ndarray]], counts: np.ndarray, places: int
) -> dict[str, Any]:
    """Accuracy on a masked token with a copy in the text, and on the same token when the copy is masked too.

    Args:
        predict: The model.
        batches: Test batches.
        counts: Occurrences of each token in the training text [V].
        places: P, the number of positions that the model predicts.

    Returns:
        "gain_near" and "gain_far", the increase of the accuracy by the copy; the accuracies "with" and "without" it, by
        band.
    """
    whole = {name: np.concatenate([b[name] for b in batches]) for name in ("labels", "valid", "segments")}
    evidence, size = find_evidence(whole["labels"], counts, 0), len(batches[0]["labels"])
    hits = []
    for hide in (False, True):
        right = np.zeros(len(evidence.row), bool)
        for start in range(0, len(right), size):
            index = np.arange(start, start + size)
            index = np.where(index < len(right), index, start)  # the last block is filled with its first row
            row, at = evidence.row[index], evidence.masked[index]
            tokens = whole["labels"][row].copy()
            tokens[np.arange(size), at] = MASK
            if hide:
                tokens[np.arange(size), evidence.other[index]] = MASK
            positions = np.repeat(at[:, None], places, axis=1)
            said = predict({"tokens": tokens, "positions": positions, **{n: whole[n][row] for n in whole}})
            right[index] = said[:, 0] == whole["labels"][row, at]
        hits.append(right)
    far = evidence.distance
    gain = hits[0].astype(float) - hits[1]
    bands = [(far >= low) & (far <= high) for low, high in BANDS]
    return {
        "gain_near": mean(gain[far <= NEAR]),
        "gain_far": mean(gain[far >= FAR]),
        "with": [mean(hits[0][band]) for band in bands],
        "without": [mean(hits[1][band]) for band in bands],
        "evidence": [int(band.sum()) for band in bands],
    }


def measure_network(
    predict: Predict, batches: Sequence[Mapping[str, np.ndarray]], counts: np.ndarray, places: int
) -> dict[str, Any]:
    """The values of `measure_tokens` and `measure_evidence`."""
    return measure_tokens(predict, batches, counts, places) | measure_evidence(predict, batches, counts, places)


def mean(values: np.ndarray) -> float:
    """The mean; 0 for no values."""
    return float(np.mean(values)) if len(values) else 0.0


def draw_distance(run: Run, rows: Sequence[Mapping[str, Any]]) -> Image:
    """Draws the accuracy with and without the copy over its distance; mean and spread over runs."""
    path = run.path / "plots" / "distance.png"
    series = {
        "the text holds a copy": np.transpose([row["with"] for row in rows]),
        "the copy is masked too": np.transpose([row["without"] for row in rows]),
    }
    plots.lines_with_spread(
        path,
        [round((low * high) ** 0.5, 1) for low, high in BANDS],
        series,
        xlabel="tokens from the masked one to its copy (middle of a band)",
        ylabel="accuracy on the masked token, test",
        log_x=True,
        title="How far the evidence may be",
    )
    return Image(path.relative_to(run.path), "Accuracy on a masked token by the distance of its only copy")


def draw_frequency(run: Run, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Image:
    """Draws each method's accuracy on rare, middle and frequent tokens; mean, spread and each run."""
    path = run.path / "plots" / "frequency.png"
    edges = (f"< {EDGES[0]}", f"{EDGES[0]} to {EDGES[1] - 1}", f">= {EDGES[1]:,}")
    there = [method for method in methods if any(row["method"] == method for row in rows)]
    groups = {
        f"{name} ({edge})": {m: [row[f"{name}_accuracy"] for row in rows if row["method"] == m] for m in there}
        for name, edge in zip(CLASSES, edges, strict=True)
        if all(f"{name}_accuracy" in row for row in rows if row["method"] in there)
    }
    plots.bars(path, groups, ylabel="accuracy on masked tokens, test", title="By occurrences of the token in training")
    return Image(path.relative_to(run.path), "Masked accuracy by how often a token occurs in the training text")


def draw_measured(
    run: Run, rows: Sequence[Mapping[str, Any]], plain: Sequence[str], others: Sequence[str]
) -> list[Image]:
    """Draws the plain and other methods by frequency, and the last plain one that was run by distance."""
    there = [method for method in plain if any(row["method"] == method for row in rows)]
    last = [row for row in rows if row["method"] == there[-1]]
    return [draw_frequency(run, rows, (*there, *others)), draw_distance(run, last)]
