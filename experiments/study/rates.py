"""Arms that are tuned before they are tested: each gets the value of a grid that was best on validation data.

results, choices = tune_and_test(run, arms, evaluate, metric, better="higher")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.study.grid import Row
from experiments.study.workdir import Run
from train.records.report import Table

TUNING = {"stage": "tuning"}
"""What the setting of a run has besides its arm, where the grid is tried."""


class Choice(NamedTuple):
    """What was chosen for an arm."""

    value: float
    score: float
    """Mean over seeds at that value."""
    at_edge: bool
    """Whether it is the first or last value of the grid, so that a wider grid might have a better one."""


def choose_values(
    rows: Sequence[Row],
    metric: str,
    arm: Sequence[str],
    *,
    name: str = "rate",
    better: Literal["higher", "lower"],
    central: bool = False,
) -> dict[tuple[Any, ...], Choice]:
    """Chooses for each arm the value with the best mean of the metric; of equal ones the first.

    Args:
        rows: One a seed and value, in the same order of seeds for each value, with the settings that name the arm.
            Rows without the metric are passed over.
        metric: Judged by it, on validation data.
        arm: The settings that make an arm.
        name: What the value is called in the rows.
        better: Whether a higher or a lower metric is better.
        central: Choose, of the values that are within one standard error of the best, paired by seed, the one nearest
            to the middle of the grid: where many are as good, as of a convex problem, chance would choose an edge.

    Returns:
        The choice by arm. A metric that is not finite loses.

    >>> rows = [{"m": "a", "rate": r, "accuracy": v} for r, v in [(0.1, 0.5), (1.0, 0.75), (10.0, 0.5)]]
    >>> choose_values(rows, "accuracy", ["m"], better="higher")
    {('a',): Choice(value=1.0, score=0.75, at_edge=False)}
    """
    scores: dict[tuple[Any, ...], dict[float, list[float]]] = {}
    for row in rows:
        if metric in row:
            of_arm = scores.setdefault(tuple(row[part] for part in arm), {})
            of_arm.setdefault(row[name], []).append(row[metric])
    sign = 1 if better == "higher" else -1
    choices = {}
    for key, of_arm in scores.items():
        means = {value: sign * float(np.mean(found)) for value, found in of_arm.items()}
        best = max(means, key=lambda value: means[value] if np.isfinite(means[value]) else -np.inf)
        if central:
            grid, middle = sorted(of_arm), (len(of_arm) - 1) / 2
            equal = [value for value in grid if _is_within_error(of_arm[value], of_arm[best])]
            best = min(equal, key=lambda value: abs(grid.index(value) - middle))
        choices[key] = Choice(best, sign * means[best], len(means) > 1 and best in (min(means), max(means)))
    return choices


def _is_within_error(values: Sequence[float], best: Sequence[float]) -> bool:
    gaps = np.subtract(values, best)
    error = float(gaps.std(ddof=1)) / np.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return bool(abs(gaps.mean()) <= error)  # of the best itself 0 <= 0; not of NaN


def choices_table(choices: Mapping[tuple[Any, ...], Choice], arm: Sequence[str], metric: str) -> Table:
    """A table of the choices for the report; a star marks the edge of a grid."""
    lines = [[*map(str, key), f"{c.value:g}{'*' if c.at_edge else ''}", c.score] for key, c in choices.items()]
    return Table([*arm, "chosen", f"{metric} on validation"], lines)


def tune_and_test(
    run: Run,
    arms: Sequence[Row],
    evaluate: Callable[..., Sequence[Row]],
    metric: Callable[[Row], tuple[str, Literal["higher", "lower"]]],
    central: bool = False,
) -> tuple[list[Row], list[Table]]:
    """Tries the grid of every arm on validation data, and then its best value on the test.

    Args:
        run: The study.
        arms: Settings of which each is tuned on its own.
        evaluate: Called with the setting and `value`: None for a row with `rate` of each value and seed on validation
            data, else that value is to be tested. It must have seeds of its own for each stage.
        metric: Of an arm, the metric that it is tuned by, and which is better.
        central: See `choose_values`.

    Returns:
        The rows of the test, and a table of what was chosen for each metric.
    """
    tried = run.all([arm | TUNING for arm in arms], lambda **setting: evaluate(setting, None))
    names, tables = [*arms[0]], []
    chosen: dict[tuple[Any, ...], float] = {}
    for name, better in dict.fromkeys(metric(arm) for arm in arms):
        found = choose_values(tried, name, names, better=better, central=central)
        chosen |= {key: choice.value for key, choice in found.items()}
        tables += [choices_table(found, names, name)] if found else []

    def test(**setting: Any) -> Sequence[Row]:
        return evaluate(setting, chosen.get(tuple(setting.values()), math.nan))

    return run.all(arms, test, on=tried), tables
