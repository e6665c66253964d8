"""Retrieval of the right answer among candidates: ranks, recall, nearest neighbours, plots."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.records import plots
from train.records.report import Image, Table

Row = Mapping[str, Any]
PLACES = (1, 2, 5, 10, 20, 50)
"""Numbers of answers at which a recall curve is drawn."""


def ranks_of(scores: Any) -> np.ndarray:
    """For each row the number of columns that score higher than its own, the diagonal; a tie counts as half.

    >>> ranks_of(np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [5.0, 4.0, 3.0]])).tolist()
    [0.0, 0.5, 2.0]
    """
    values = np.asarray(scores)
    own = np.diagonal(values)[:, None]
    return (values > own).sum(1) + ((values == own).sum(1) - 1) / 2


def cosines(a: Any, b: Any) -> np.ndarray:
    """Cosines of the rows of two matrices, [n, m]."""
    x, y = (np.asarray(z) / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12) for z in (a, b))
    return np.asarray(x @ y.T)


def scores_by_language(model: Any, params: Any, inputs: Any, languages: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """For each of R encoders, cosines [n, n] of names in the first language with names in each other language.

    Args:
        model: The encoder.
        params: Parameters [R, ...].
        inputs: Arguments of the model, [L n, ...]: n names in each of L languages.
        languages: The L languages.
    """
    asking, *answering = np.split(np.asarray(_embed(model, params, inputs)), len(languages), axis=1)
    return [
        {code: cosines(asking[r], z[r]) for code, z in zip(languages[1:], answering, strict=True)}
        for r in range(len(asking))
    ]


@functools.partial(jax.jit, static_argnums=0)
def _embed(model: Any, params: Any, inputs: Any) -> jax.Array:
    found: jax.Array = jax.lax.map(lambda one: model.apply({"params": one}, *inputs), params)
    return found


def measure(ranks: Any) -> dict[str, Any]:
    """Recall from ranks [languages, n], averaged over languages; "recall_at_1 examples" has a value for each concept.

    >>> {name: value for name, value in measure([[0.0, 3.0], [0.0, 0.0]]).items() if name != "curve"}
    {'recall_at_1': 0.75, 'recall_at_10': 1.0, 'recall_at_1 examples': [1.0, 0.5], 'recall_at_10 examples': [1.0, 1.0]}
    """
    found = np.asarray(ranks)
    parts = {f"recall_at_{k}": (found < k).mean(0) for k in (1, 10)}
    examples = {f"{name} examples": values.tolist() for name, values in parts.items()}
    curve = {"curve": [float(np.mean(found < k)) for k in PLACES]}
    return {name: float(values.mean()) for name, values in parts.items()} | examples | curve


def nearest(scores: np.ndarray, answers: Sequence[str], row: int, count: int = 3) -> str:
    """The answers with the highest scores for a row, the best first; the right one is marked.

    >>> nearest(np.array([[0.1, 0.9], [0.0, 0.0]]), ["Hund", "Katze"], 0)
    'Katze; Hund ✓'
    """
    found = np.argsort(-scores[row], kind="stable")[:count]
    return "; ".join(f"{answers[i]} ✓" if i == row else answers[i] for i in found)


def misses(scores: Mapping[str, np.ndarray]) -> float:
    """Share of names with a wrong first answer, from scores [n, n] by language."""
    return float(np.mean([np.mean(ranks_of(found) >= 1) for found in scores.values()]))


def recalls(groups: Mapping[str, Sequence[str]], scores: Mapping[str, np.ndarray], **same: Any) -> list[dict[str, Any]]:
    """A row of recall for each group of languages, from scores [n, n] by language; `same` is added to all rows."""
    ranks = {language: ranks_of(found) for language, found in scores.items()}
    return [same | {"to": name} | measure([ranks[one] for one in languages]) for name, languages in groups.items()]


def nearest_names(
    names: Mapping[str, Sequence[str]], scores: Mapping[str, np.ndarray], shown: Sequence[str], count: int = 12
) -> list[list[str]]:
    """A table of names in the first language with the nearest names in others; its first line has the languages.

    Args:
        names: [n] by language.
        scores: [n, n] by language.
        shown: Languages to show; all if none of them occurs.
        count: Number of lines.
    """
    (asking, texts), codes = next(iter(names.items())), [code for code in shown if code in scores] or [*scores]
    lines = [[asking, *codes]]
    for row in np.linspace(0, len(texts), count, endpoint=False).astype(int):
        lines.append([texts[row], *(nearest(scores[code], names[code], row) for code in codes)])
    return lines


def draw_curves(folder: Path, results: Sequence[Row], group: str, methods: Sequence[str]) -> Image:
    """Draws recall over the number of answers, for the methods with results.

    Args:
        folder: The study's folder.
        results: Rows with "method", "to" and "curve".
        group: The value of "to".
        methods: The methods to draw.
    """
    rows = [row for row in results if row.get("to") == group]
    series = {name: np.transpose([row["curve"] for row in rows if row["method"] == name]) for name in methods}
    path = folder / "plots" / f"recall_{group.replace(' ', '_')}.png"
    plots.lines_with_spread(
        path,
        PLACES,
        {name: curve for name, curve in series.items() if curve.size},
        xlabel="answers looked at",
        ylabel="recall of the right one",
        title=group,
        log_x=True,
        limits=(0, 1),
    )
    return Image(f"plots/{path.name}", f"Recall by the number of answers looked at, {group}")


def table_of(results: Sequence[Row]) -> Table:
    """recall@1 of every method and group: mean and standard deviation over seeds."""
    groups = [*dict.fromkeys(row["to"] for row in results)]
    lines = []
    for method in dict.fromkeys(row["method"] for row in results):
        line: list[Any] = [method]
        for group in groups:
            of = [row["recall_at_1"] for row in results if (row["method"], row["to"]) == (method, group)]
            line.append(f"{np.mean(of):.3f}" + (f" ± {np.std(of, ddof=1):.3f}" if len(of) > 1 else ""))
        lines.append(line)
    return Table(["recall@1", *groups], lines)


def tables_of_choices(tuned: Sequence[Row], temperatures: Sequence[float], results: Sequence[Row]) -> list[Table]:
    """The choices made on validation data.

    Args:
        tuned: Rows with "tuned" (the arm), "temperature" (the chosen one) and "temperatures" (the loss of each).
        temperatures: The temperatures tried.
        results: All results; the rows of baselines have "chosen" and "validation".
    """
    first = {row["tuned"]: row for row in reversed(tuned)}
    lines = []
    for arm in dict.fromkeys(row["tuned"] for row in tuned):
        best = first[arm]["temperature"]
        edge = "" if min(temperatures) < best < max(temperatures) else "at the edge"
        lines.append([arm, f"{best:g}", *first[arm]["temperatures"], edge])
    found = dict.fromkeys((row["method"], row["chosen"], row["validation"]) for row in results if "chosen" in row)
    return [
        Table(["method", "temperature", *(f"loss at {t:g}" for t in temperatures), ""], lines),
        Table(["baseline", "chosen", "recall@1 on validation"], [*map(list, found)]),
    ]
