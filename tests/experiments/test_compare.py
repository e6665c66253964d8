"""What results answer: intervals that cover as often as they say, verdicts, and questions that cannot be answered."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.study.compare import Question, answer, holm, paired, resampled
from train.errors import UsageError

TRIALS = 2_000
BAND = 3.5 * math.sqrt(0.95 * 0.05 / TRIALS)
"""Half the width in which the share of intervals that cover lies, if 95 % do: 3.5 binomial standard deviations."""


def coverage(estimates, truth=0.0):
    edges = np.array([estimate.interval() for estimate in estimates])
    return np.mean((edges[:, 0] <= truth) & (truth <= edges[:, 1]))


@pytest.mark.parametrize("seeds", [5, 10])
def test_interval_over_seeds_covers(seeds):
    rng = np.random.default_rng(seeds)
    shared, own = rng.normal(0, 5, (TRIALS, seeds)), rng.normal(0, 1, (2, TRIALS, seeds))
    differences = (shared + own[0]) - (shared + own[1])
    assert abs(coverage(map(paired, differences)) - 0.95) < BAND


def test_interval_over_folds_covers_where_its_assumption_holds():
    """Folds correlated by n_test / (n_test + n_train), as Nadeau and Bengio assume: there it is exact."""
    rng = np.random.default_rng(0)
    rho, count = 20 / (20 + 80), 25
    drawn = math.sqrt(rho) * rng.normal(size=(TRIALS, 1)) + math.sqrt(1 - rho) * rng.normal(size=(TRIALS, count))
    assert abs(coverage(paired(values, share=20 / 80) for values in drawn) - 0.95) < BAND
    assert coverage(map(paired, drawn)) < 0.7  # as if the folds were independent


def folds(rng, size=50, repeats=5, count=5):
    """Differences in squared error of two predictors of numbers of mean 1, their mean and 0, in 5 x 5 folds."""
    data = rng.normal(1.0, 1.0, size)
    tests = [test for _ in range(repeats) for test in np.array_split(rng.permutation(size), count)]
    means = [np.delete(data, test).mean() for test in tests]
    return [np.mean((data[test] - mean) ** 2 - data[test] ** 2) for test, mean in zip(tests, means, strict=True)]


def test_interval_over_folds_covers_for_a_learner():
    rng = np.random.default_rng(0)
    drawn = [folds(rng) for _ in range(TRIALS // 2)]
    truth = 1 / 40 - 1  # a mean of 40 numbers errs by 1 / 40 more than their variance, and 0 by 1 more
    assert coverage(map(paired, drawn), truth) < 0.65
    assert abs(coverage((paired(values, share=10 / 40) for values in drawn), truth) - 0.95) < 0.03


@pytest.mark.parametrize(("runs", "noise"), [(1, 0.0), (4, 0.0), (4, 0.1)])
def test_interval_against_a_deterministic_baseline_covers(runs, noise):
    rng = np.random.default_rng(runs)
    trials, examples, found = 600, 60, []
    for _ in range(trials):
        difficulty = rng.normal(0, 1, examples)
        baseline = difficulty + rng.normal(0, 0.5, examples)
        seed = rng.normal(0, noise, (runs, 1)) if noise else np.zeros((runs, 1))
        treatment = difficulty + seed + rng.normal(0, 0.5, examples)
        ones = np.ones(examples)
        found.append(resampled(np.stack([treatment, np.ones_like(treatment)], -1), np.stack([baseline, ones], -1)))
    assert abs(coverage(found) - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials) + 0.01


def test_ratio_of_sums_is_weighed():
    treatment, baseline = [[[8.0, 2.0], [1.0, 1.0]]], [[6.0, 2.0], [3.0, 1.0]]
    assert resampled(treatment, baseline).difference == 9 / 3 - 9 / 3
    assert resampled([[[9.0, 2.0], [3.0, 1.0]]], baseline).difference == pytest.approx(1.0)


def test_p_values_are_those_of_scipy():
    rng = np.random.default_rng(1)
    values = rng.normal(0.4, 1.0, 9)
    assert paired(values).p_value() == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-12)
    found = paired(values)
    upper = stats.ttest_1samp(values, 2.0, alternative="less").pvalue
    lower = stats.ttest_1samp(values, -2.0, alternative="greater").pvalue
    assert found.p_value(margin=2.0) == pytest.approx(2 * max(upper, lower), rel=1e-9)
    assert paired([1.0]).interval() == (-math.inf, math.inf)
    assert paired([1.0]).p_value() == 1.0


def test_holm_against_the_definition():
    p = [0.011, 0.02, 0.6, 0.001]
    found = holm(p)
    for alpha in (0.004, 0.01, 0.033, 0.04, 0.05, 0.5, 0.7):
        rejected, order = set(), np.argsort(p)
        for rank, index in enumerate(order):  # step down until one is kept
            if p[index] > alpha / (len(p) - rank):
                break
            rejected.add(index)
        assert {i for i, q in enumerate(found) if q <= alpha} == rejected


def runs(method, values, **more):
    return [{"method": method, "seed": i, "accuracy": v} | more for i, v in enumerate(values)]


A, B = {"method": "a"}, {"method": "b"}
ROWS = [*runs("a", [0.9, 0.8, 0.85, 0.95, 0.9]), *runs("b", [0.7, 0.65, 0.6, 0.75, 0.72])]


def ask(rows, *baselines, **options):
    options = {"metric": "accuracy", "treatment": A, "baselines": baselines} | options
    return answer(rows, Question(**options))


@pytest.mark.parametrize(
    ("baselines", "options", "verdict", "claim"),
    [
        ((B,), {}, "better", "holds"),
        ((B,), {"better": "lower"}, "worse", "does not hold"),
        ((B,), {"better": "lower", "expected": "worse"}, "worse", "holds"),
        ((0.5,), {}, "better", "holds"),
        ((0.89,), {}, "undecided", "undecided"),
        ((0.88,), {"expected": "same", "margin": 0.2}, "same", "holds"),
        ((0.88,), {"expected": "same", "margin": 0.01}, "undecided", "undecided"),
        ((B,), {"expected": "same", "margin": 0.1}, "better", "does not hold"),
        ((B,), {"margin": 0.9}, "same", "does not hold"),
    ],
)
def test_verdicts(baselines, options, verdict, claim):
    found = ask(ROWS, *baselines, **options)
    assert [c.verdict for c in found.comparisons] == [verdict]
    assert found.verdict == claim


def test_differences_are_of_pairs():
    (comparison,) = ask(ROWS[::-1], B).comparisons
    differences = np.array([0.9, 0.8, 0.85, 0.95, 0.9]) - [0.7, 0.65, 0.6, 0.75, 0.72]
    assert comparison.difference == pytest.approx(differences.mean())
    half = 2.7764451051977987 * differences.std(ddof=1) / math.sqrt(5)  # the t table's value of 4 degrees of freedom
    assert (comparison.low, comparison.high) == pytest.approx((differences.mean() - half, differences.mean() + half))


def test_four_pairs_are_no_answer():
    found = ask([row for row in ROWS if row["seed"] < 4], B)
    assert found.verdict == "undecided"


def test_folds_are_corrected_where_the_runs_say_their_sizes():
    plain, sized = (ask([row | sizes for row in ROWS], B) for sizes in ({}, {"n_test": 20, "n_train": 80}))
    wide, narrow = (found.comparisons[0].high - found.comparisons[0].low for found in (sized, plain))
    assert wide / narrow == pytest.approx(math.sqrt((1 / 5 + 1 / 4) * 5))
    assert sized.comparisons[0].method == "t, corrected for shared examples over 5 pairs"


def test_a_deterministic_baseline_is_compared_over_examples():
    rng = np.random.default_rng(0)
    base = rng.normal(1.0, 0.1, 50)
    rows = [{"method": "b", "accuracy": base.mean(), "accuracy examples": base.tolist()}]
    rows += [row | {"accuracy examples": (base + 0.2).tolist()} for row in runs("a", [base.mean() + 0.2] * 2)]
    (comparison,) = ask(rows, B).comparisons
    assert comparison.method == "bootstrap over 50 examples and 2 runs"
    assert (comparison.difference, comparison.verdict) == (pytest.approx(0.2), "better")
    turned = ask(rows, A, treatment=B).comparisons[0]
    assert (turned.difference, turned.verdict) == (pytest.approx(-0.2), "worse")


def test_two_results_of_a_pair_are_an_error():
    with pytest.raises(UsageError, match=r"belong to the same pair \{'seed': 0\}; a run was counted twice"):
        ask([*ROWS, ROWS[0]], B)
    rows = [row | {"labels": n} for n in (1, 2) for row in ROWS]
    with pytest.raises(UsageError, match="they differ in labels: name it in the setting, in by= or in pairs="):
        ask(rows, B)
    assert len(ask(rows, B, by="labels").comparisons) == 2


def test_differences_of_differences():
    gain = {1: 0.3, 9: 0.1}
    noise = iter(np.random.default_rng(0).normal(0, 0.01, 99))
    rows = [
        {"method": m, "seed": s, "labels": n, "accuracy": 0.5 + gain[n] * (m == "a") + next(noise)}
        for n in gain
        for m in "ab"
        for s in range(6)
    ]
    (comparison,) = ask(rows, B, by="labels", at=((1, 9),)).comparisons
    assert comparison.difference == pytest.approx(0.2, abs=0.02)
    assert comparison.verdict == "better"


def test_a_curve_is_judged_at_its_last_step():
    rows = [row | {"step": n, "accuracy": row["accuracy"] * n} for n in (2, 1) for row in ROWS]
    (comparison,) = ask(rows, B, by="step").comparisons
    assert comparison.mean == pytest.approx(2 * 0.88)


def test_what_was_not_run_is_named():
    rows = [row | {"labels": 2} for row in ROWS]
    found = ask(rows, B, {"method": "c"}, by="labels", at=(2, 8))
    assert found.missing == ("labels = 8", "c at labels = 2")
    assert found.verdict == "undecided"
    assert ask(rows, B, by="labels", at=((2, 8),)).comparisons == ()
    with pytest.raises(UsageError, match="returns no number 'loss'; it has accuracy"):
        ask(ROWS, B, metric="loss")


def test_questions_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="expects 'same': give a margin above 0"):
        Question("accuracy", A, (B,), expected="same")
    with pytest.raises(UsageError, match="needs a baseline"):
        Question("accuracy", A, ())
