"""What the study of tables prepares, trains and measures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tabular
from experiments.baselines.tables import BASELINES
from experiments.data import dirty, folds, tables
from experiments.data.tables import Table
from experiments.evaluation import tabular as measured
from experiments.models import pipelines
from experiments.models.mlp import MLP
from train.objective import Context

CTX = Context(jax.random.key(0), jnp.int32(0), train=True)


def table(count=60, *, classify=True):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    target = (x[:, 0] > 0).astype(np.int32) if classify else (10 + x[:, 0]).astype(np.float32)
    x[::7, 1] = np.nan
    return Table("test", x, target, ("a", "b", "c"))


def test_credits_have_gaps_and_prices_are_thousands_of_dollars():
    credit, houses = dirty.read_credit(), dirty.read_houses()
    assert (credit.features.shape, int(credit.target.sum())) == ((4_454, 21), 1_254)
    assert np.isnan(credit.features).any(1).mean() == pytest.approx(414 / 4_454)  # of 9.3 % a number is missing
    assert houses.features.shape == (2_930, 129)
    assert np.isnan(houses.features).sum() == 490
    assert houses.target.mean() == pytest.approx(180.796, abs=0.001)


def test_without_the_extra_there_is_a_fallback(monkeypatch):
    for module in (tables, dirty):
        monkeypatch.setattr(module, "has_tables", lambda: False)
    assert [(t.name, len(t)) for t in (dirty.read_credit(), dirty.read_houses())] == [
        ("breast_cancer", 569),
        ("diabetes", 442),
    ]


def test_every_row_is_tested_once_and_never_trained_on_in_its_fold():
    drawn = folds.draw_folds(53, 5, seed=3)
    assert len({*np.concatenate([fold.test for fold in drawn]).tolist()}) == 50
    for number, fold in enumerate(drawn):
        assert not {*fold.train} & {*fold.test, *fold.validation}
        assert [len(part) for part in fold] == [30, 10, 10]
        np.testing.assert_array_equal(fold.validation, drawn[(number + 1) % 5].test)
    assert max(len(fold.test) for fold in folds.draw_folds(53, 5, seed=3, most=20)) == 4


@pytest.mark.parametrize("cleaning", folds.CLEANINGS)
@pytest.mark.parametrize("scaling", folds.SCALINGS)
def test_what_is_not_trained_on_changes_no_preparation(cleaning, scaling):
    data, fold = table(), folds.draw_folds(60, 5, seed=0)[0]
    x, train = folds.prepare(data, fold, cleaning, scaling)
    assert np.isfinite(x).all()
    features = data.features.copy()
    features[[*fold.validation, *fold.test]] *= 1_000
    again, _ = folds.prepare(dataclasses.replace(data, features=features), fold, cleaning, scaling)
    np.testing.assert_array_equal(x[train], again[train])
    dropped = np.isnan(data.features[fold.train]).any(1).sum()
    assert len(fold.train) - len(train) == (dropped if cleaning == folds.DROPPED else 0)


def test_outliers_are_clipped_to_quantiles_and_gaps_are_medians():
    x = np.arange(1.0, 102.0)[:, None]
    x[:1] = np.nan  # of 100 numbers from 2 to 101
    found = folds.clean(x, np.arange(101), folds.CLIPPED)
    assert found.min() == pytest.approx(2 + 0.01 * 99)
    assert found.max() == pytest.approx(2 + 0.99 * 99)
    assert found[0, 0] == pytest.approx(51.5)


def test_scales_are_those_of_the_training_rows():
    x, train = np.array([[1.0, 5.0], [3.0, 5.0], [9.0, 6.0]]), np.array([0, 1])
    np.testing.assert_allclose(folds.scale(x, train, folds.STANDARDISED), [[-1, 0], [1, 0], [7, 0]])
    np.testing.assert_allclose(folds.scale(x, train, folds.TO_ONE), [[0, 0], [1, 0], [4, 0]])
    np.testing.assert_allclose(folds.scale(x, train, folds.UNSCALED), x)


def test_stacked_folds_have_their_own_targets():
    data, drawn = table(classify=False), folds.draw_folds(60, 5, seed=0)
    stacked = folds.stack_folds(data, drawn, folds.CLIPPED, folds.STANDARDISED, 0.5, 4)
    for number, fold in enumerate(drawn):
        half = fold.train[:18]
        np.testing.assert_array_equal(stacked.folds[number].train, half + 60 * number)
        y = data.target[half].astype(float)
        expected = (data.target[fold.test] - y.mean()) / y.std()
        np.testing.assert_allclose(stacked.pool["y"][stacked.folds[number].test], expected, atol=1e-5)
        positive = stacked.part(number)["positive"][fold.test]
        np.testing.assert_allclose(positive, data.target[fold.test] / y.mean(), rtol=1e-5)


def formulas(out, y, positive):
    """Each loss of outputs [N, 2], from its formula."""
    error, z, log_variance = y - out[:, 0], out[:, 0], 10 * np.tanh(out[:, 1] / 10)
    asymmetric = np.where(error > 0, 0.9, 0.1)
    return {
        "cross-entropy": np.log1p(np.exp(z)) - y * z,
        "MSE": error**2,
        "MAE": abs(error),
        "Huber": np.where(abs(error) < 0.5, error**2 / 2, 0.5 * (abs(error) - 0.25)),
        "log-cosh": np.log(np.cosh(error)),
        "quantile 0.9": asymmetric * abs(error),
        "expectile 0.9": asymmetric * error**2,
        "Gaussian likelihood": (log_variance + error**2 / np.exp(log_variance)) / 2,
        "Poisson likelihood": np.exp(z) - positive * z,
    }


@pytest.mark.parametrize("loss", pipelines.LOSSES)
def test_objective_is_the_loss_and_the_penalties(loss):
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(8, 3)), "y": rng.integers(0, 2, 8), "positive": rng.uniform(0.5, 2, 8)}
    batch = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in batch.items()} | {"row": jnp.arange(8)}
    model = MLP((4, 2))
    net = model.init(jax.random.key(0), batch["x"])["params"]
    params = {"net": net, "penalty": {"l1": jnp.float32(0.3), "l2": jnp.float32(0.2), "dropout": jnp.float32(0)}}
    terms = tabular.make_objective(model, loss, dropping=False)(params, batch, CTX)
    outputs = np.asarray(model.apply({"params": net}, batch["x"]), float)
    y, positive = (np.asarray(batch[name], float) for name in ("y", "positive"))
    np.testing.assert_allclose(terms["value"].values, formulas(outputs, y, positive)[loss], rtol=2e-4, atol=2e-5)
    kernels = [np.asarray(layer["kernel"], float) for layer in net.values()]
    expected = sum(0.3 * abs(kernel).sum() + 0.2 * (kernel**2).sum() for kernel in kernels)
    assert float(terms["penalty"].values) == pytest.approx(expected, rel=1e-5)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    hidden = jnp.ones((200, 100))
    found = np.asarray(pipelines.drop(jax.random.key(1), jnp.float32(0.4), hidden))
    assert np.mean(found == 0) == pytest.approx(0.4, abs=0.02)
    np.testing.assert_allclose(found[found > 0], 1 / 0.6, rtol=1e-6)
    batch = {"x": jnp.ones((64, 3)), "y": jnp.ones(64), "row": jnp.arange(64)}
    model = MLP((16, 1))
    net = model.init(jax.random.key(0), batch["x"])["params"]
    penalty = {"l1": jnp.float32(0), "l2": jnp.float32(0), "dropout": jnp.float32(0.5)}
    objective = tabular.make_objective(model, "MSE", dropping=True)
    params = {"net": net, "penalty": penalty}
    dropped, kept = (objective(params, batch, dataclasses.replace(CTX, train=t))["value"].values for t in (True, False))
    assert np.unique(np.asarray(kept)).size == 1
    assert np.unique(np.asarray(dropped)).size > 10
    other = objective(params, batch | {"row": batch["row"] + 1}, CTX)["value"].values
    assert not np.allclose(dropped, other)  # runs have masks of their own


def test_each_fold_takes_its_best_rate_and_strength():
    def tried(arm, rate, *losses):
        return {"task": "t", "arm": arm, "rate": rate, "losses": list(losses)}

    search = [tried("L2 1", 0.1, 3.0, 1.0), tried("L2 1", 1.0, 2.0, np.nan), tried("L2 9", 0.1, 5.0, 0.5)]
    rates, losses = measured.best_rates(search, "t", "L2 1")
    assert (rates.tolist(), losses.tolist()) == ([1.0, 0.1], [2.0, 1.0])
    rows = [
        {"task": "t", "arm": arm, "seed": n, "test_loss": v} for arm, v in (("L2 1", 7), ("L2 9", 8)) for n in (0, 1)
    ]
    chosen = measured.choose_strengths(rows, search, {"L2": ("L2 1", "L2 9", "L2 99")})
    assert [(row["arm"], row["seed"], row["test_loss"], row["strength"]) for row in chosen] == [
        ("L2", 0, 7, "L2 1"),
        ("L2", 1, 8, "L2 9"),
    ]
    assert measured.table_of_rates(search).rows[0] == ["t", "L2 1", "0.1 to 1", "0.1 to 1", 2]


def test_measures_are_those_of_their_formulas():
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=50), rng.integers(0, 2, 50)
    found = measured.measure_classes(z, t)
    hits, said = np.sum((z > 0) & (t == 1)), np.sum(z > 0)
    expected = [np.mean((z > 0) == t), hits / said, hits / t.sum(), 2 * hits / (said + t.sum())]
    np.testing.assert_allclose([found[name] for name in ("accuracy", "precision", "recall", "f1")], expected)
    assert found["test_loss"] == pytest.approx(np.mean(np.log1p(np.exp(z)) - t * z), rel=1e-5)
    points, targets = rng.normal(size=50), rng.normal(size=50)
    found = measured.measure_numbers(points, targets, 2.0)
    square = np.mean((points - targets) ** 2)
    assert [found["test_loss"], found["rmse"]] == pytest.approx([square / 4, square**0.5], rel=1e-5)
    found = measured.measure_normal(points, 0.5, targets)
    nll = np.mean(np.log(0.5 * np.sqrt(2 * np.pi)) + (points - targets) ** 2 / (2 * 0.25))
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["coverage"] == np.mean(targets <= points + 1.2815515655 * 0.5)


@pytest.mark.parametrize("classify", [True, False])
def test_baselines_know_more_than_the_base_rate(classify):
    data = table(200, classify=classify)
    data = dataclasses.replace(data, features=np.nan_to_num(data.features))
    drawn = folds.draw_folds(200, 5, seed=0)[:1]
    loss = {name: measured.measure_baseline(data, drawn, name)[0]["test_loss"] for name in BASELINES}
    assert loss["linear model"] < 0.5 * loss["base rate"]
    assert loss["gradient boosting"] < 0.8 * loss["base rate"]


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(1.0, True), (0.0, False)])
def test_networks_know_more_than_the_base_rate(rate, learns, tmp_path, monkeypatch):
    monkeypatch.setattr(tabular, "QUESTIONS", ())  # they ask of more arms
    config = dataclasses.replace(tabular.Config(), folds=5, max_rows=1_000, axes=(), workdir=str(tmp_path / "run"))
    optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
    training = dataclasses.replace(config.training, optimizer=optimizer, steps=200)
    rows = tabular.main(dataclasses.replace(config, training=training))["runs"]
    for task, least in ((tabular.CREDITS, 0.05), (tabular.HOUSES, 0.5)):
        loss = {
            arm: np.mean([row["test_loss"] for row in rows if (row["task"], row["arm"]) == (task, arm)])
            for arm in ("base rate", "the usual pipeline")
        }
        assert (loss["the usual pipeline"] < loss["base rate"] - least) == learns


def test_chosen_strengths_are_counted_and_those_at_an_edge():
    picks = ["L1 0.01", "L1 0.1", "L1 0.1", "L1 1"]
    rows = [{"task": "regression", "arm": "L1", "strength": pick} for pick in picks]
    table = measured.table_of_strengths(rows, {"L1": ("L1 0.01", "L1 0.1", "L1 1"), "L2": ("L2 1",)})
    assert table.rows == [["regression", "L1", "0.01: 1, 0.1: 2, 1: 1", 2]]
