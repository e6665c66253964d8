"""Linear probes of frozen states at each level: bits per character, the next word, and the next phrase and sentence.

Every probe reads states pooled over one span and predicts the text after it: the next word among the frequent ones
(logistic regression), or the next span among a few candidates (ridge regression onto their bags of words, then the
nearest by cosine).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import lossfns
from experiments.baselines.linear import fit_linear
from experiments.baselines.ngrams import train_ngrams
from experiments.data.causal import HELD_OUT, CausalText, read_causal_text
from experiments.data.levels import (
    ENDS,
    OTHER,
    Levels,
    even_starts,
    make_blocks,
    make_levels,
    span_numbers,
    text_places,
    train_batches,
)
from experiments.data.load import DataConfig
from experiments.models.levels import LevelsLM, pooled
from train.records import plots
from train.records.report import Image

CLASSES = 50
"""Number of most frequent words, the classes of the word probe."""
CANDIDATES = 20
"""Number of candidate spans for the probe of phrases and sentences."""
PENALTIES = tuple(10.0**power for power in range(-3, 3))
"""Penalties tried for the ridge regression, per example and unit of variance."""
METRICS = {
    "bits_per_char": "bits per character",
    "next_word": "next word (accuracy)",
    "next_phrase": "next phrase (accuracy)",
    "next_sentence": "next sentence (accuracy)",
}


class Blocks(NamedTuple):
    """Blocks of a text to evaluate, from `make_blocks`, and their first characters."""

    data: Levels
    start: np.ndarray
    batch: Mapping[str, np.ndarray]


def take_blocks(data: Levels, count: int, seq_len: int) -> Blocks:
    """Takes up to `count` blocks, evenly spread over a text."""
    start = even_starts(data, count, seq_len)
    return Blocks(data, start, make_blocks(data, start, seq_len))


class Measured(NamedTuple):
    """A text, the levels of its splits, and the blocks of each to evaluate."""

    text: CausalText
    levels: Mapping[str, Levels]
    blocks: Mapping[str, Blocks]

    def batches(self, size: int, seed: int) -> Any:
        """Returns endless training batches."""
        length = self.blocks["train"].batch["tokens"].shape[1]
        return train_batches(self.levels["train"], batch_size=size, seq_len=length, seed=seed)

    @property
    def sizes(self) -> str:
        """The numbers of test spans, in words."""
        return ", ".join(f"{len(next_words(self.blocks['test'], level)):,} {level}s" for level in ENDS)


def read_measured(config: DataConfig, vocabulary: int, count: int) -> Measured:
    """Reads a text, with `count` blocks of the training and test split to evaluate and half as many for validation."""
    text, size = read_causal_text(config), config.seq_len
    found = make_levels(text, vocabulary, size)
    counts = {"train": count, "validation": (count + 1) // 2, "test": count}
    return Measured(text, found, {split: take_blocks(found[split], counts[split], size) for split in found})


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: LevelsLM, params: Any, batch: Any) -> dict[str, jax.Array]:
    def one(block: Any) -> dict[str, jax.Array]:
        few = {name: leaf[None] for name, leaf in block.items()}
        out: Any = model.apply({"params": params}, few, method="states_and_logits")
        states, logits = out
        nats = lossfns.next_token(logits, few["tokens"], segment_ids=few["segment_ids"])
        return {"char": nats[0], **{level: pooled(states, few, level)[0] for level in ENDS}}

    found: dict[str, jax.Array] = jax.lax.map(one, batch, batch_size=8)
    return found


def encode(model: LevelsLM, params: Any, blocks: Blocks) -> dict[str, np.ndarray]:
    """Returns the bits of each predicted character [N], and the states of each level's spans with a successor."""
    found = {name: np.asarray(leaf) for name, leaf in _encode(model, params, dict(blocks.batch)).items()}
    segment = blocks.batch["segment_ids"]
    counted = np.concatenate([np.zeros_like(segment[:, :1], bool), segment[:, 1:] == segment[:, :-1]], 1)
    states = {level: found[level][blocks.batch[f"{level}_where"]] for level in ENDS}
    return {"char": found["char"][counted] / np.log(2), **states}


def next_words(blocks: Blocks, level: str) -> np.ndarray:
    """Returns the words of the span after each span of `encode`, [n, L]."""
    return np.asarray(blocks.batch[f"{level}_next"][blocks.batch[f"{level}_where"]])


def own_words(blocks: Blocks, level: str) -> np.ndarray:
    """Returns the words of each span of `encode` itself, [n, L]."""
    numbers = span_numbers(blocks.data, level, blocks.start)[blocks.batch[f"{level}_where"]]
    return blocks.data.levels[level].words[numbers]


def places(blocks: Blocks) -> np.ndarray:
    """Returns the positions in the plain text of the characters that `encode` predicts."""
    segment = blocks.batch["segment_ids"]
    rows, columns = np.nonzero(segment[:, 1:] == segment[:, :-1])
    return text_places(blocks.data.stream, blocks.start[rows] + columns + 1)


def bags(words: np.ndarray, size: int) -> np.ndarray:
    """Returns the bags of frequent words of rows of words [n, L], float32 [n, size], of Euclidean length 1.

    >>> bags(np.array([[1, 2, 1, -1], [0, 3, -1, -1]]), 4).round(2).tolist()
    [[0.0, 0.7099999785423279, 0.7099999785423279, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    held = np.zeros((len(words), size), np.float32)
    rows, columns = np.nonzero(words > OTHER)
    held[rows, words[rows, columns]] = 1
    return held / np.maximum(np.linalg.norm(held, axis=1, keepdims=True), 1e-9)


def inverse_frequencies(held: np.ndarray) -> np.ndarray:
    """Returns the inverse document frequency of each word, in logarithms."""
    return np.asarray(np.log((1 + len(held)) / (1 + (held > 0).sum(0))), np.float32)


def share_found(said: np.ndarray, true: np.ndarray) -> float:
    """Returns the share of rows found by cosine among `CANDIDATES` rows; ties share the hit.

    Args:
        said: Predictions [n, D].
        true: True rows [n, D]; the candidates are the rows of the same group in a fixed random grouping.

    >>> share_found(np.eye(20), np.eye(20)), round(share_found(np.ones((20, 2)), np.ones((20, 2))), 6)
    (1.0, 0.05)
    """
    size = min(CANDIDATES, len(true))
    order = np.random.default_rng(0).permutation(len(true))[: len(true) // size * size].reshape(-1, size)
    lengths = np.maximum(np.linalg.norm(true, axis=1), 1e-9)[order]
    scores = np.einsum("gqd,gcd->gqc", said[order], true[order]) / lengths[:, None]
    own = np.diagonal(scores, axis1=1, axis2=2)[..., None]
    beaten = (scores > own + 1e-6).any(-1)
    return float(np.where(beaten, 0.0, 1 / (np.abs(scores - own) <= 1e-6).sum(-1)).mean())


def fit_ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Returns the weights [D, K] of ridge regression of centred y on standardised x."""
    gram = x.T @ x + penalty * len(x) * np.eye(x.shape[1], dtype=x.dtype)
    return np.linalg.solve(gram, x.T @ y)


def find_next(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns how often the next span is found among `CANDIDATES`; chance is 1 in 20.

    Args:
        train: Features [n, D] and bags of the next span [n, K]; the penalty is chosen on a quarter of them.
        test: The same for other books.
    """
    weights = inverse_frequencies(train[1])
    mean, scale = train[0].mean(0), train[0].std(0) + 1e-6
    (x, new), (y, true) = (((part - mean) / scale for part in (train[0], test[0])), (train[1], test[1]))
    y, true = y * weights, true * weights
    middle, rows = y.mean(0), np.random.default_rng(1).permutation(len(y))
    fit, check = rows[len(rows) // 4 :], rows[: len(rows) // 4]

    def found(penalty: float) -> float:
        return share_found(x[check] @ fit_ridge(x[fit], y[fit] - middle, penalty), y[check])

    best = max(PENALTIES, key=found)
    return share_found(new @ fit_ridge(x, y - middle, best), true)


def name_word(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], limit: int = 6000) -> float:
    """Returns the accuracy of logistic regression on next words among the `CLASSES` most frequent."""
    (x, y), (new, true) = ((part[0][keep], part[1][keep]) for part in (train, test) for keep in [frequent(part[1])])
    return float(fit_linear(x[:limit], y[:limit]).score(new, true))


def frequent(words: np.ndarray) -> np.ndarray:
    """Returns which words are among the `CLASSES` most frequent; words are numbered by frequency from 1."""
    return (words > OTHER) & (words <= CLASSES)


def probe(model: LevelsLM, params: Any, blocks: Mapping[str, Blocks], words: int) -> dict[str, float]:
    """Returns all `METRICS` of an encoder: its bits per character, and probes of the pooled states."""
    parts = [blocks[split] for split in ("train", "test")]
    states = [encode(model, params, part) for part in parts]
    sides: Any = [(s["word"], next_words(part, "word")[:, 0]) for s, part in zip(states, parts, strict=True)]
    found = {"bits_per_char": float(states[1]["char"].mean()), "next_word": name_word(*sides)}
    for level in ("phrase", "sentence"):
        sides = [(s[level], bags(next_words(part, level), words)) for s, part in zip(states, parts, strict=True)]
        found[f"next_{level}"] = find_next(*sides)
    return found


def count_levels(text: CausalText, blocks: Mapping[str, Blocks], order: int, words: int) -> dict[str, float]:
    """Returns all `METRICS` of baselines by counting: character n-grams up to an order, word pairs, bags of words.

    The order is chosen on the validation text.
    """
    bits: dict[float, tuple[int, float]] = {}
    for length, model in train_ngrams(text.texts["train"], order).items():
        costs = [-model.log2_probabilities(text.texts[split])[places(blocks[split])] for split in HELD_OUT]
        bits[float(costs[0].mean())] = length, float(costs[1].mean())
    best, found = bits[min(bits)], {level: find_by_words(blocks, level, words) for level in ("phrase", "sentence")}
    named = count_words(blocks["train"].data, blocks["test"], words)
    found = {f"next_{level}": share for level, share in found.items()}
    return {"order": best[0], "bits_per_char": best[1], "next_word": named, **found}


def count_words(train: Levels, test: Blocks, words: int) -> float:
    """Returns how often the most frequent successor of a word in the whole training text is the next word."""
    level = train.levels["word"]
    now, after = level.words[:-1, 0], level.words[1:, 0]
    keep = level.follows[:-1] & frequent(after)
    counts = np.zeros((words, CLASSES + 1), np.int64)
    np.add.at(counts, (now[keep], after[keep]), 1)
    best = np.where(counts.any(1), counts.argmax(1), counts.sum(0).argmax())
    true = next_words(test, "word")[:, 0]
    return float((best[own_words(test, "word")[:, 0]] == true)[frequent(true)].mean())


def find_by_words(blocks: Mapping[str, Blocks], level: str, words: int) -> float:
    """Returns `find_next` of the span's own bag of words instead of states."""
    parts = [blocks[split] for split in ("train", "test")]
    sides: Any = [(bags(own_words(part, level), words), bags(next_words(part, level), words)) for part in parts]
    return find_next(*sides)


def draw_changes(path: Path, rows: Sequence[Mapping[str, Any]], base: str) -> Image:
    """Draws the change of each metric by each method: the mean over seeds, in standard errors and in figures.

    Args:
        path: Folder of the study.
        rows: Rows with "method", "seed" and `METRICS`; a row with "operations" is a trained network.
        base: The method to compare with.
    """
    of = {(row["method"], row["seed"]): row for row in rows if "operations" in row}
    methods = [method for method in dict.fromkeys(method for method, _ in of) if method != base]
    seeds = sorted({seed for method, seed in of if method == base})
    each = np.array([[[of[m, s][k] - of[base, s][k] for s in seeds] for k in METRICS] for m in methods])
    mean = each.mean(-1)
    error = each.std(-1, ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.full_like(mean, np.inf)
    better = np.array([-1 if metric == "bits_per_char" else 1 for metric in METRICS])
    with plots.drawing(path / "plots" / "changes.png", (7.6, 0.75 * len(methods) + 1.9), "") as figure:
        axes = figure.add_subplot()
        image = axes.imshow(better * mean / np.maximum(error, 1e-12), cmap="RdBu", vmin=-10, vmax=10, aspect="auto")
        axes.set_xticks(range(len(METRICS)), [name.replace(" (", "\n(") for name in METRICS.values()])
        axes.set_yticks(range(len(methods)), list(methods))
        axes.grid(visible=False)
        for (row, column), value in np.ndenumerate(mean):
            dark = abs(value) / max(error[row, column], 1e-12) > 6
            text = f"{value:+.3f} ± {error[row, column]:.3f}" if np.isfinite(error[row, column]) else f"{value:+.3f}"
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=9)
        figure.colorbar(image, ax=axes, label="standard errors,\nblue is better")
    return Image("plots/changes.png", f"Change of each metric on the test text against {base}, ± its standard error")
