"""What the studies of surfaces, minima and optimizers measure: slopes, sharpness, pools, networks, pictures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from experiments import landscape, minima, optimizers
from experiments.data import pools, tables
from experiments.evaluation import landscapes, pictures
from experiments.evaluation.optimizers import FAMILIES, good_decades
from experiments.evaluation.sharpness import rescaled, sharpness
from experiments.models.mlp import MLP, errors, mean_loss, outputs_of_all
from experiments.models.pooled import init_of, judge
from experiments.models.transformer import CausalLM, TransformerConfig
from experiments.models.vit import ViT
from train.objective import Context
from train.optimizers import OPTIMIZERS

CTX = Context(jax.random.key(0), jnp.int32(0), train=False)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("margin", [-10.0, -2.0, 0.0, 3.0])
def test_slopes_over_the_margin_are_those_of_the_formulas(margin):
    p = sigmoid(margin)
    right = {
        "MSE": 2 * (p - 1) * p * (1 - p),
        "cross-entropy": p - 1,
        "focal": (1 - p) ** 2 * (2 * p * np.log(p) + p - 1),
    }
    z, ones = jnp.array([margin]), jnp.ones(1)
    for name, slope in right.items():
        np.testing.assert_allclose(landscapes.slopes(landscapes.OF_MARGIN[name], z, ones), [slope], rtol=2e-5)
        mirrored = landscapes.slopes(landscapes.OF_MARGIN[name], -z, 1 - ones)
        np.testing.assert_allclose(mirrored, [-slope], rtol=1e-3)  # 1 - p near p = 1


def test_one_program_holds_several_losses():
    chosen, z, t = landscapes.select(landscapes.OF_MARGIN), jnp.array([-1.0, 2.0]), jnp.array([1.0, 0.0])
    for number, loss in enumerate(landscapes.OF_MARGIN.values()):
        np.testing.assert_allclose(chosen(z, t, jnp.int32(number)), loss(z, t), rtol=1e-6)


def test_a_path_descends_its_own_loss():
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([1.0, 2.0], np.float32)
    pool = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    paths = landscapes.descend(landscapes.OF_RESIDUAL, pool, (3.0, -1.0), "SGD", 2)
    w = np.array([3.0, -1.0])
    for step in range(3):  # half the squared error, at rate 0.5
        np.testing.assert_allclose(paths[0][step], w, rtol=1e-6)
        w = w - 0.5 * x.T @ (x @ w - y) / 2
    assert not np.allclose(paths[0][2], paths[1][2])  # Huber's


def test_minima_over_two_weights():
    examples = landscapes.diabetes_with_outliers(0.1, seed=3)
    x, y = examples.features, examples.targets
    least_squares = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(
        landscapes.minimum(landscapes.OF_RESIDUAL["squared error / 2"], examples), least_squares, atol=1e-4
    )

    def cauchy(weights):  # Barron's loss at shape 0
        return np.mean(np.log1p(0.5 * (y - x @ weights) ** 2))

    expected = optimize.minimize(cauchy, [0, 0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12}).x
    np.testing.assert_allclose(
        landscapes.minimum(landscapes.OF_RESIDUAL["Barron, alpha 0"], examples), expected, atol=1e-3
    )


def test_trimmed_least_squares_drops_what_is_far():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = x @ [1.0, -2.0] + 0.1 * rng.uniform(-1, 1, 60)
    y[:6] += 50
    found = landscapes.trimmed_least_squares(landscapes.TwoFeatures(x, y))
    np.testing.assert_allclose(found, np.linalg.lstsq(x[6:], y[6:], rcond=None)[0], rtol=1e-6)


def test_sharpness_is_the_largest_eigenvalue_of_the_hessian():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(40, 5)), rng.normal(size=5)
    p = sigmoid(x @ w)
    hessian = (x * (p * (1 - p))[:, None]).T @ x / 40  # of logistic regression, whatever the labels
    y = (rng.random(40) < 0.5).astype(np.float32)
    params = {"a": jnp.asarray(w[:2], jnp.float32), "b": jnp.asarray(w[2:], jnp.float32)}

    def loss(params):
        z = jnp.asarray(x, jnp.float32) @ jnp.concatenate([params["a"], params["b"]])
        return jnp.mean(jnp.logaddexp(0.0, z) - y * z)

    np.testing.assert_allclose(sharpness(loss, params, 100), np.linalg.eigvalsh(hessian)[-1], rtol=1e-4)
    assert float(sharpness(lambda w: -(w @ w), jnp.ones(3))) == pytest.approx(-2)


def networks(outputs, count=3):
    model = MLP((4, outputs))
    params = [model.init(jax.random.key(seed), jnp.zeros((1, 6)))["params"] for seed in range(count)]
    return model, params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)


@pytest.mark.parametrize("outputs", [1, 3])
def test_errors_are_counted_of_each_network(outputs):
    model, params, stacked = networks(outputs)
    rng = np.random.default_rng(0)
    pool = {"x": rng.normal(size=(9, 6)).astype(np.float32), "y": rng.integers(0, max(outputs, 2), 9)}
    rows, right = np.array([1, 2, 5, 7]), []
    for one in params:
        z = np.asarray(model.apply({"params": one}, pool["x"][rows]))
        said = (z[:, 0] > 0).astype(int) if outputs == 1 else z.argmax(1)
        right.append(np.mean(said != pool["y"][rows]))
    np.testing.assert_allclose(errors(model, stacked, pool, rows), right)


def test_rescaled_layers_are_the_same_function():
    model, params, _ = networks(3)
    biased = jax.tree.map(lambda leaf: leaf + 0.3, params[0])
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    before, after = (model.apply({"params": p}, x) for p in (biased, rescaled(biased, 10.0)))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)


def test_pools_are_split_without_overlap():
    for pool in (pools.spam(), pools.digits(), pools.tumours(scaled=True)):
        count = len(pool.leaves["y"])
        assert sorted(np.concatenate(pool.split).tolist()) == list(range(count))
        assert len(pool.split[0]) % 64 == 0
        assert len(pool.part(2)["x"]) == len(pool.split[2])
    scaled, raw = pools.tumours(scaled=True), pools.tumours(scaled=False)
    np.testing.assert_allclose(scaled.part(0)["x"].mean(0), 0, atol=1e-5)
    assert raw.part(0)["x"].max() > 1_000
    assert (scaled.leaves["y"] == raw.leaves["y"]).all()


def test_without_the_extra_the_table_has_another_name(monkeypatch):
    monkeypatch.setattr(tables, "has_tables", lambda: False)
    assert pools.spam().name == "breast_cancer"


def test_vit_reads_each_patch_at_its_place():
    model = ViT(TransformerConfig(width=4, depth=0, heads=1), 3, patch=2)
    images = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    params = model.init(jax.random.key(0), images)["params"]
    kernel, places = (np.asarray(leaf) for leaf in (params["patch_embedding"]["kernel"], params["position_embedding"]))
    tokens = []
    for row, column in ((0, 0), (0, 2), (2, 0), (2, 2)):
        patch = images[:, row : row + 2, column : column + 2].reshape(2, 4)
        tokens.append(patch @ kernel + places[len(tokens)])
    x = np.stack(tokens, 1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    right = x.mean(1) @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    np.testing.assert_allclose(model.apply({"params": params}, images), right, rtol=2e-4, atol=2e-5)


def test_a_language_model_is_judged_on_the_next_tokens():
    model = CausalLM(TransformerConfig(width=8, depth=1, heads=1), 5)
    examples = {"tokens": np.array([[1, 2, 3, 4]], np.int32)}
    params = init_of(model, examples)(jax.random.key(0))
    logits = np.asarray(model.apply({"params": params}, examples["tokens"], valid=np.ones((1, 4), bool)))[0]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    values, wrong = judge(model, params, examples)
    np.testing.assert_allclose(values[0], [-logs[t, t + 2] for t in range(3)], rtol=1e-5)
    assert wrong[0].tolist() == [int(logits[t].argmax()) != t + 2 for t in range(3)]


def test_objectives_of_the_three_studies_on_a_batch():
    model, params, stacked = networks(1)
    x, y = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32), np.array([0.0, 1.0, 1.0, 0.0])
    z = np.asarray(outputs_of_all(model, stacked, x))[0]
    for number, right in ((0, (sigmoid(z) - y) ** 2), (1, np.log1p(np.exp(-z * (2 * y - 1))))):
        batch = {"x": x, "y": jnp.asarray(y), "loss": jnp.full(4, number)}
        term = landscape.make_objective(model)(params[0], batch, CTX)["value"]
        np.testing.assert_allclose(term.values, right, rtol=1e-5)
    model, params, _ = networks(3)
    labels = np.array([0, 2, 1, 1])
    logits = np.asarray(model.apply({"params": params[0]}, x))
    right = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labels]
    for study in (minima, optimizers):
        terms = study.make_objective(model)(params[0], {"x": x, "y": labels}, CTX)
        np.testing.assert_allclose(terms["value"].values, right, rtol=1e-5)
    pool = {"x": x, "y": labels}
    loss = mean_loss(model, minima.CROSS_ENTROPY, params[0], pool, np.array([1, 3]))
    np.testing.assert_allclose(loss, right[[1, 3]].mean(), rtol=1e-5)


def test_every_optimizer_is_compared_and_drawn_once():
    grid = [setting["method"] for setting in optimizers.settings(optimizers.Config()) if setting["task"] == "spam"]
    assert sorted(grid) == sorted(OPTIMIZERS)
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(OPTIMIZERS)


def test_arms_take_the_same_number_of_gradients():
    config = minima.Config()
    taken = {
        minima.steps_of(config, arm) * config.looks * arm.batch * arm.gradients / len(minima.TRAIN)
        for arm in minima.ARMS.values()
    }
    assert taken == {float(config.epochs)}


def test_good_decades_do_not_depend_on_the_grid():
    rates = 10.0 ** np.arange(-3, 1.1, 0.5)
    losses = 1 + np.maximum(np.abs(np.log10(rates) + 1) - 1, 0)  # flat from 0.01 to 1, then 1 a decade
    assert good_decades(rates, losses) == pytest.approx(2.2, abs=0.01)
    fewer = [place for place in range(len(rates)) if place != 4]
    assert good_decades(rates[fewer], losses[fewer]) == pytest.approx(2.2, abs=0.01)


def test_pictures_are_the_same_bytes_each_time(tmp_path):
    x = np.linspace(-1, 1, 5)
    surface = pictures.Surface(x, x, x[:, None] ** 2 + x[None] ** 2, {"a": [[0.5, 0.5], [0.1, 0.0]]})
    points = {"a": ([1.0, 2.0], [0.1, 0.2]), "b": ([3.0], [0.3])}
    for name in ("one", "two"):
        pictures.surfaces(tmp_path / name / "surfaces.png", {"$f$": surface}, xlabel="x", ylabel="y")
        pictures.scatter(tmp_path / name / "scatter.png", points, xlabel="x", ylabel="y", log_x=True)
        pictures.line_panels(tmp_path / name / "lines.png", {"p": points}, xlabel="x", ylabel="y", log="xy")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def small(module, **changes):
    """A config of seconds that is no dry run, and its learning rate."""
    config = dataclasses.replace(module.Config(), seeds=3, tuning_seeds=1, **changes)
    return config


def with_rate(config, rate):
    training = dataclasses.replace(
        config.training, optimizer=dataclasses.replace(config.training.optimizer, learning_rate=rate)
    )
    return dataclasses.replace(config, training=training)


def mean_error(summary, **setting):
    rows = [row for row in summary["runs"] if all(row.get(name) == value for name, value in setting.items())]
    return np.mean([row["test_error"] for row in rows])


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(1.0, True), (0.0, False)])
def test_optimizers_learn_digits(rate, learns, tmp_path, monkeypatch):
    monkeypatch.setattr(optimizers, "BATCHES", ())
    monkeypatch.setattr(optimizers, "SCHEDULES", ())
    monkeypatch.setattr(optimizers, "QUESTIONS", ())  # they ask of more than one optimizer
    config = small(optimizers, optimizers=("adam",), tasks=("digits",), epochs=5, workdir=str(tmp_path / "run"))
    summary = optimizers.main(with_rate(config, rate))
    assert (mean_error(summary, task="digits", method="adam") < 0.9 - 0.6) == learns  # of ten classes


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(1.0, True), (0.0, False)])
def test_confidently_wrong_networks_are_corrected(rate, learns, tmp_path, monkeypatch):
    monkeypatch.setattr(landscapes, "draw_losses", lambda *args, **kwargs: [])
    names = ("cross-entropy, SGD", "MSE, SGD")
    monkeypatch.setattr(landscape, "TEACHERS", {name: landscape.TEACHERS[name] for name in names})
    summary = landscape.main(with_rate(small(landscape, workdir=str(tmp_path / "run")), rate))
    assert (mean_error(summary, method=names[0]) < 0.5 - 0.3) == learns  # of two classes


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(1.0, True), (0.0, False)])
def test_minima_are_those_of_networks_that_learn(rate, learns, tmp_path, monkeypatch):
    monkeypatch.setattr(minima, "QUESTIONS", ())  # they ask of more than these two
    monkeypatch.setattr(minima, "ARMS", {name: minima.ARMS[name] for name in ("momentum", "SAM")})
    config = small(minima, epochs=4, looks=2, descent_rates=(), workdir=str(tmp_path / "run"))
    summary = minima.main(with_rate(config, rate))
    for name in ("momentum", "SAM"):
        assert (mean_error(summary, method=name) < 0.9 - 0.6) == learns  # of ten classes
