"""Many trainings as one program: each is the training that it would be alone, and rates are searched as they say."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.study import many
from experiments.study.many import Bench, Runs, make_trainer, tune
from train.objective import Term
from train.optimizers import OptimizerConfig

POOL = {"x": np.array([1.0, 2.0, 4.0, 9.0], np.float32)}


def objective(params, batch, ctx):
    """Half the squared distance from the examples: its gradient is w - mean(x)."""
    return {"value": Term(0.5 * (params - batch["x"]) ** 2, 1.0)}


def trainer(name="sgd", every=2, **options):
    config = OptimizerConfig(name=name, learning_rate=1.0, schedule="constant")
    return make_trainer(objective, {"value": 1.0}, config, every=every, **options)


def test_each_run_has_its_own_rate_start_and_rows():
    rows = np.array([[[0, 1], [2, 3], [0, 3], [1, 2]], [[3, 3], [0, 0], [1, 1], [2, 2]]])
    rates, starts = [0.5, 0.1], [3.0, -1.0]
    runs = Runs(jnp.array(rates), jnp.array(starts), jnp.array(rows), jnp.array([10.0, 20.0]))
    found = trainer(watch=lambda w, sets, pool: {"seen": w + sets + pool["x"][0]})(runs, POOL)
    for r in range(2):
        w, losses, seen = starts[r], [], []
        for step in range(4):  # w - rate (w - mean)
            x = POOL["x"][rows[r, step]]
            losses.append(np.mean(0.5 * (w - x) ** 2))
            w -= rates[r] * (w - x.mean())
            if step % 2:
                seen.append(w + (10.0, 20.0)[r] + 1.0)
        np.testing.assert_allclose(found.params[r], w, rtol=1e-6)
        np.testing.assert_allclose(found.curves["seen"][r], seen, rtol=1e-6)
        np.testing.assert_allclose(found.curves["loss"][r], np.reshape(losses, (2, 2)).mean(1), rtol=1e-6)


def test_runs_one_after_the_other_are_those_at_once():
    rows = jnp.array([[[0, 1], [2, 3]], [[3, 3], [0, 0]], [[1, 1], [2, 2]]])
    runs = Runs(jnp.array([0.5, 0.1, 0.2]), {"w": jnp.array([3.0, -1.0, 0.0])}, rows)
    train = make_trainer(
        lambda params, batch, ctx: objective(params["w"], batch, ctx),
        {"value": 1.0},
        OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant"),
        every=1,
    )
    at_once, in_turn = train(runs, POOL), many.one_by_one(train)(runs, POOL)
    np.testing.assert_allclose(in_turn.params["w"], at_once.params["w"], rtol=1e-6)
    np.testing.assert_allclose(in_turn.curves["loss"], at_once.curves["loss"], rtol=1e-6)
    assert in_turn.curves["loss"].shape == (3, 2)


def test_micro_batches_change_nothing():
    runs = Runs(jnp.array([0.3]), jnp.array([5.0]), jnp.array([[[0, 1, 2, 3]] * 4]))
    whole, cut = (trainer(accumulate=parts)(runs, POOL) for parts in (1, 2))
    np.testing.assert_allclose(whole.params, cut.params, rtol=1e-6)


def test_rates_are_tuned_by_the_mean_over_seeds():
    runs = Runs(None, jnp.array([0.0, 8.0]), jnp.zeros((2, 2, 1), jnp.int32))
    rows = tune(trainer(), POOL, runs, 0.1, lambda end: (end.params - 1.0) ** 2)
    rates = [row["rate"] for row in rows]
    np.testing.assert_allclose(rates[:5], 0.1 * 10.0 ** np.arange(-1, 1.5, 0.5))
    for row in rows:  # two steps towards 1 leave (1 - rate)^2 of the distance
        np.testing.assert_allclose(
            row["losses"], [(1 - row["rate"]) ** 4, 49 * (1 - row["rate"]) ** 4], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(row["loss"], np.mean(row["losses"]), rtol=1e-6, atol=1e-9)
    best = many.best_rate({row["rate"]: row["loss"] for row in rows})
    assert best == pytest.approx(1.0)
    assert min(rates) < best < max(rates)  # the first grid ended there, so it was extended


def test_what_diverges_is_never_chosen():
    found = many.search_rates(lambda rates: [np.nan if rate > 0.2 else 1 - rate for rate in rates], 0.1)
    assert many.best_rate(found) == pytest.approx(0.1)
    assert max(found.values()) == np.inf


def test_a_best_rate_at_the_edge_is_said():
    rows = [{"tuned": "sgd", "rate": rate, "loss": loss} for rate, loss in ((0.1, 3.0), (1.0, 2.0))]
    assert Bench(None, None, {}, rows).table().rows[0][-1] == "at the edge"
    rows.append({"tuned": "sgd", "rate": 10.0, "loss": 2.5})
    assert Bench(None, None, {}, rows).table().rows[0][-1] == ""
    assert Bench(None, None, {}, rows).rate("sgd", 7.0) == 1.0
    assert Bench(None, None, {}, []).rate("sgd", 7.0) == 7.0


def test_the_middle_of_equally_good_rates_is_chosen_if_asked():
    losses = {0.1: [3.0, 3.1, 3.2], 1.0: [1.0, 2.0, 3.0], 10.0: [1.1, 1.8, 3.0], 100.0: [1.0, 1.9, 2.95]}
    rows = [{"tuned": "a", "rate": rate, "loss": np.mean(each), "losses": each} for rate, each in losses.items()]
    assert Bench(None, None, {}, rows).rate("a", 7.0) == 100.0
    assert Bench(None, None, {}, rows, central=True).rate("a", 7.0) == 10.0


class Study:
    """Runs of a study that are counted and not kept."""

    def __init__(self):
        self.settings = []

    def all(self, wanted, function):
        self.settings += wanted
        return [{**setting, **function(**setting)} for setting in wanted]


def test_rates_are_searched_by_runs_of_the_study():
    study = Study()
    rows = many.tune_runs(study, ("a", "b"), lambda tuned, rate: {"loss": abs(np.log10(rate) + (tuned == "b"))}, 0.1)
    assert [{name: row[name] for name in ("tuned", "rate")} for row in rows] == study.settings
    bench = Bench(None, None, {}, rows)
    assert (bench.rate("a", 7.0), bench.rate("b", 7.0)) == (pytest.approx(1.0), pytest.approx(0.1))
    assert [row["tuned"] for row in rows] == ["a"] * 10 + ["b"] * 5  # the best of the first grid for a is at its edge
    assert [row[-1] for row in bench.table().rows] == ["", ""]
    only = many.tune_runs(study, ("a",), lambda tuned, rate: {"loss": 0.0}, 0.1, extend=False)
    assert [row["rate"] for row in only] == [0.1]


def test_each_seed_has_its_best_rate_inside():
    """One is best at 0.1, the other at 1,000: the grid is extended until both are inside."""
    loss = lambda rates: np.abs(np.log10(rates)[:, None] - [-1.0, 3.0])  # noqa: E731
    together, apart = (many.search_rates(of, 0.1) for of in (lambda r: loss(r).mean(1), loss))
    assert max(together) < 1_000 < max(apart)


def test_rates_that_are_all_too_large_are_left():
    """Above 1e-3 nothing is learnt, and the loss is about the base rate's; the best is at 1e-4."""
    loss = lambda rate: 0.66 + 1e-3 * np.sin(1e3 * rate) if rate > 1e-3 else abs(np.log10(rate) + 4) / 2  # noqa: E731
    found = many.search_rates(lambda rates: [loss(rate) for rate in rates], 1.0)
    assert many.best_rate(found) == pytest.approx(1e-4)
