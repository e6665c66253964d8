"""Questions of a study and their answers: differences, confidence intervals, verdicts.

The unit is a pair: two runs with the same seed, the same fold, or the same values of the settings in `pairs`. A
difference over pairs has a t interval. If the pairs share examples (folds, or seeds that each draw a split), they are
not independent. The variance of the mean is then `s^2 (1/n + n_test / n_train)` (Nadeau and Bengio 2003); runs request
it by returning `n_test` and `n_train`. A deterministic baseline (xz, an n-gram) has one result without spread. The
randomness is then in the shared test examples: they are resampled (bootstrap, Efron 1979), and the variance over the
treatment's seeds is added. For this a run returns `"METRIC examples"`: a number for each example, or a pair (value,
weight) if the metric is a ratio of sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from train.errors import UsageError

Setting = Mapping[str, Any]
Row = Mapping[str, Any]
Runs = dict[tuple[Any, ...], Row]
Expected = Literal["better", "same", "worse"]
LEVEL = 0.05
LEAST_PAIRS = 5
RESAMPLES = 1_000
CURVE = "step"
"""A question by this name is evaluated at its last value."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about the results, stated before the run.

    Args:
        metric: A value that the runs return.
        treatment: The settings of the runs in question; or several of them, each compared.
        baselines: Settings to compare with, or numbers as thresholds.
        by: A setting or value; the comparison is made and plotted for each, such as the number of labels.
        at: Values of `by` for the claim. A pair of values compares the differences: does the treatment help more at
            the first? By default all values; for a curve (by="step") the last.
        better: Whether higher or lower values are better.
        expected: The claim about the treatment: better, worse, or the same within the margin.
        margin: Largest difference without practical relevance.
        pairs: The settings that two runs must share to be compared.
        claim: The claim in words.

    Raises:
        UsageError: "same" is expected without a margin, or there is nothing to compare with.
    """

    metric: str
    treatment: Setting | tuple[Setting, ...]
    baselines: tuple[Setting | float, ...]
    by: str | None = None
    at: tuple[Any, ...] = ()
    better: Literal["higher", "lower"] = "higher"
    expected: Expected = "better"
    margin: float = 0.0
    pairs: tuple[str, ...] = ("seed",)
    claim: str = ""

    def __post_init__(self) -> None:
        if self.expected == "same" and not self.margin > 0:
            raise UsageError(f"the question on {self.metric} expects 'same': give a margin above 0")
        if not self.baselines or self.margin < 0 or self.better not in ("higher", "lower"):
            raise UsageError(
                f"the question on {self.metric} needs a baseline, a margin >= 0 and better=higher or lower"
            )

    @property
    def treatments(self) -> tuple[Setting, ...]:
        """All treatments."""
        return (self.treatment,) if isinstance(self.treatment, Mapping) else self.treatment


class Estimate(NamedTuple):
    """A difference, its standard error and degrees of freedom, and the method."""

    difference: float
    error: float
    freedom: float
    method: str

    def interval(self) -> tuple[float, float]:
        """Returns the 95 % interval; without a standard error it is unbounded."""
        if not math.isfinite(self.error):
            return -math.inf, math.inf
        half = float(stats.t.ppf(1 - LEVEL / 2, self.freedom)) * self.error
        return self.difference - half, self.difference + half

    def p_value(self, margin: float = 0.0) -> float:
        """Returns the two-sided p of no difference; with a margin, of a larger one (two one-sided tests, doubled)."""
        if not math.isfinite(self.error):
            return 1.0
        if margin == 0:
            return float(2 * stats.t.sf(_ratio(abs(self.difference), self.error), self.freedom))
        inside = margin - abs(self.difference)  # the nearer edge decides
        return float(min(1.0, 2 * stats.t.sf(_ratio(inside, self.error), self.freedom)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A treatment against a baseline at one value of `by`: figures and verdict."""

    treatment: str
    baseline: str
    at: Any
    mean: float
    deviation: float
    runs: int
    baseline_mean: float
    baseline_deviation: float
    difference: float
    low: float
    high: float
    p: float
    """P value of no difference, after Holm's correction for all comparisons of the question."""
    method: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """All comparisons of a question, and whether its claim holds."""

    question: Question
    comparisons: tuple[Comparison, ...]
    verdict: Literal["holds", "does not hold", "undecided"]
    missing: tuple[str, ...] = ()
    """Settings of the question without runs."""


def _ratio(distance: float, error: float) -> float:
    return distance / error if error > 0 else math.copysign(math.inf, distance) if distance else 0.0


def paired(differences: Any, share: float = 0.0) -> Estimate:
    """Returns the mean difference over pairs.

    Args:
        differences: One for each pair.
        share: n_test / n_train if the pairs share examples; 0 if they are independent.

    >>> paired([1.0, 2.0, 3.0]).interval()  # 2 -+ 4.303 / sqrt(3)
    (-0.48..., 4.48...)
    """
    values = np.asarray(differences, np.float64)
    n = len(values)
    error = float(values.std(ddof=1)) * math.sqrt(1 / n + share) if n > 1 else math.inf
    kind = "t, corrected for shared examples" if share else "t"
    return Estimate(float(values.mean()), error, max(n - 1, 1), f"{kind} over {n} pair{'s' if n > 1 else ''}")


def resampled(treatment: Any, baseline: Any, seed: int = 0) -> Estimate:
    """Returns the difference of two means over the same examples, against a deterministic baseline.

    The variance is the bootstrap variance over examples plus, for several runs, the variance of their mean; the degrees
    of freedom follow Welch and Satterthwaite.

    Args:
        treatment: [runs, examples, 2], value and weight of each.
        baseline: [examples, 2].
        seed: Seed of the resampling.
    """
    x, y = np.asarray(treatment, np.float64), np.asarray(baseline, np.float64)
    runs, count = x.shape[:2]

    def difference(weights: np.ndarray) -> np.ndarray:  # [..., examples] -> [...]
        ours = np.einsum("...e,rek->...rk", weights, x)
        theirs = np.einsum("...e,ek->...k", weights, y)
        return np.asarray((ours[..., 0] / ours[..., 1]).mean(-1) - theirs[..., 0] / theirs[..., 1])

    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    by_examples = float(np.var(difference(draws), ddof=1))
    each = x[..., 0].sum(1) / x[..., 1].sum(1)
    by_runs = float(np.var(each, ddof=1)) / runs if runs > 1 else 0.0
    total = by_examples + by_runs
    parts = by_examples**2 / max(count - 1, 1) + (by_runs**2 / (runs - 1) if runs > 1 else 0.0)
    freedom = total**2 / parts if parts > 0 else float(count - 1)
    method = f"bootstrap over {count} examples" + (f" and {runs} runs" if runs > 1 else ", of one run")
    return Estimate(float(difference(np.ones(count))), math.sqrt(total), freedom, method)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for multiple comparisons (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def choose(rows: Sequence[Row], question: Question, setting: Setting, at: Any = None) -> Runs:
    """Returns the rows with a setting at a value of `by`, keyed by pair; for a curve the last row of each pair.

    Raises:
        UsageError: There are none, or two have the same pair, or one lacks the metric.
    """
    found: Runs = {}
    for row in rows:
        fits = all(row.get(name) == value for name, value in setting.items())
        if not fits or (question.by is not None and at is not None and row.get(question.by, at) != at):
            continue
        pair = tuple(row[name] for name in question.pairs if name in row)
        is_last = question.by == CURVE and at is None
        if pair in found and not is_last:
            raise UsageError(_ambiguous(question, setting, found[pair], row))
        if pair not in found or row[CURVE] > found[pair][CURVE]:
            found[pair] = row
    if not found:
        place = "" if at is None else f" at {question.by} = {at}"
        raise UsageError(f"no run has the setting {dict(setting)}{place} of the question on {question.metric}")
    lacking = [row for row in found.values() if not isinstance(row.get(question.metric), int | float)]
    if lacking:
        raise UsageError(f"a run returns no number {question.metric!r}; it has {', '.join(sorted(lacking[0]))}")
    return found


def _ambiguous(question: Question, setting: Setting, one: Row, other: Row) -> str:
    short = {name for name in one if not isinstance(one[name], list | float) and one[name] != other.get(name)}
    advice = f"they differ in {', '.join(sorted(short))}: name it in the setting, in by= or in pairs=" if short else ""
    pair = {name: one[name] for name in question.pairs if name in one}
    return f"two results of {dict(setting)} belong to the same pair {pair}; {advice or 'a run was counted twice'}"


def estimate(question: Question, treatment: Runs, baseline: Runs | float) -> Estimate:
    """Estimates the difference between a treatment and a baseline, with the method that fits their runs."""
    metric, examples = question.metric, f"{question.metric} examples"
    if not isinstance(baseline, float) and () not in baseline and () not in treatment:
        common = [pair for pair in treatment if pair in baseline]
        if not common:
            return Estimate(_mean(treatment, metric) - _mean(baseline, metric), math.inf, 1, "no pair in common")
        rows = [treatment[pair] for pair in common]
        shares = [row["n_test"] / row["n_train"] for row in rows if "n_test" in row and "n_train" in row]
        return paired([treatment[p][metric] - baseline[p][metric] for p in common], float(np.mean(shares or [0.0])))
    if isinstance(baseline, float):
        fixed = baseline
        theirs = [np.full(len(row[examples]), fixed) for row in treatment.values() if examples in row][:1]
    elif () in baseline:
        fixed = baseline[()][metric]
        theirs = [row[examples] for row in baseline.values() if examples in row]
        theirs = theirs or [np.full(len(row[examples]), fixed) for row in treatment.values() if examples in row][:1]
    else:  # the treatment is the deterministic one
        turned = estimate(question, baseline, treatment)
        return turned._replace(difference=-turned.difference)
    ours = [row[examples] for row in treatment.values() if examples in row]
    if theirs and len(ours) == len(treatment):
        return resampled([_weighed(values) for values in ours], _weighed(theirs[0]))
    found = paired([row[metric] - fixed for row in treatment.values()])
    return found._replace(method=found.method.replace("pair", "run"))


def _weighed(examples: Any) -> np.ndarray:
    values = np.asarray(examples, np.float64)
    return values if values.ndim == 2 else np.stack([values, np.ones_like(values)], -1)


def _mean(runs: Runs, metric: str) -> float:
    return float(np.mean([row[metric] for row in runs.values()]))


def label_of(setting: Setting | float) -> str:
    """Returns the label of a treatment or baseline.

    >>> label_of({"labels": "random", "method": "deep", "chosen": True}), label_of(0.5)
    ('random, deep, chosen', '0.5')
    """
    if not isinstance(setting, Mapping):
        return f"{setting:.4g}"
    return ", ".join(name if value is True else str(value) for name, value in setting.items())


def answer(rows: Sequence[Row], question: Question) -> Answer:
    """Compares every treatment with every baseline at every value of the claim, and decides whether it holds.

    Settings without runs (a method excluded on the command line) are listed in `missing`.

    Raises:
        UsageError: Two results have the same pair, or a run lacks the metric.
    """
    places, drawn = places_of(rows, question), []
    missing = [f"{question.by} = {at}" for at in question.at if at not in places]
    for at in places:
        for treatment in question.treatments:
            for baseline in question.baselines:
                sides = [_runs(rows, question, setting, at) for setting in (treatment, baseline)]
                lacking = [label_of(s) for s, runs in zip((treatment, baseline), sides, strict=True) if runs is None]
                missing += [f"{name}{'' if at is None else f' at {question.by} = {at}'}" for name in lacking]
                if not lacking:
                    drawn.append((treatment, baseline, at, *sides))
    found: list[Estimate] = [estimate(question, ours, theirs) for *_, ours, theirs in drawn]
    different = holm([e.p_value() for e in found])
    same = holm([e.p_value(question.margin) for e in found]) if question.margin else [1.0] * len(found)
    comparisons = []
    for (treatment, baseline, at, ours, theirs), e, p, p_same in zip(drawn, found, different, same, strict=True):
        mean, deviation = _spread(ours, question.metric)
        base = (theirs, math.nan) if isinstance(theirs, float) else _spread(theirs, question.metric)
        low, high = e.interval()
        comparisons.append(
            Comparison(
                treatment=label_of(treatment),
                baseline=label_of(baseline),
                at=at,
                mean=mean,
                deviation=deviation,
                runs=len(ours),
                baseline_mean=base[0],
                baseline_deviation=base[1],
                difference=e.difference,
                low=low,
                high=high,
                p=p,
                method=e.method,
                verdict=_verdict(question, e, p, p_same),
            )
        )
    verdicts = {c.verdict for c in comparisons}
    holds: Any = "holds" if verdicts == {question.expected} and not missing else "undecided"
    if verdicts - {question.expected, "undecided"}:
        holds = "does not hold"
    return Answer(question, tuple(comparisons), holds, tuple(dict.fromkeys(missing)))


def places_of(rows: Sequence[Row], question: Question) -> tuple[Any, ...]:
    """Returns the values of `by` to compare at: the ones in `at` that were run, else all; None without `by`."""
    if question.by is None or (question.by == CURVE and not question.at):
        return (None,)
    values = tuple(dict.fromkeys(row[question.by] for row in rows if question.by in row))
    if not question.at:
        return values
    asked = tuple(at for at in question.at if {*(at if isinstance(at, tuple) else (at,))} <= {*values})
    return asked or (() if any(isinstance(at, tuple) for at in question.at) else values)


def _runs(rows: Sequence[Row], question: Question, setting: Setting | float, at: Any) -> Any:
    """Returns the runs of one side, the threshold itself, or None if nothing was run."""
    if not isinstance(setting, Mapping):
        return 0.0 if isinstance(at, tuple) else float(setting)
    if isinstance(at, tuple):
        first, second = (_runs(rows, question, setting, place) for place in at)
        if first is None or second is None:
            return None
        kept = ("n_test", "n_train")
        return {
            pair: {name: first[pair][name] for name in kept if name in first[pair]}
            | {question.metric: first[pair][question.metric] - second[pair][question.metric]}
            for pair in first
            if pair in second
        }
    known = any(all(row.get(name) == value for name, value in setting.items()) for row in rows)
    return choose(rows, question, setting, at) if known else None


def _spread(runs: Runs, metric: str) -> tuple[float, float]:
    values = [row[metric] for row in runs.values()]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _verdict(question: Question, found: Estimate, p: float, p_same: float) -> str:
    if found.method.startswith("t") and found.freedom < LEAST_PAIRS - 1:
        return "undecided"
    if p_same < LEVEL:
        return "same"
    if not p < LEVEL:
        return "undecided"
    return "better" if (found.difference > 0) == (question.better == "higher") else "worse"
