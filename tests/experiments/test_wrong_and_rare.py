"""Labels that are wrong or rare, the objectives that meet them, and the studies of them, which must learn something."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score

from experiments.data.draws import Pool
from experiments.data.long_tail import draw_rare, tail_counts
from experiments.data.noise import add_outliers, draw_noisy, flip_labels, transition
from experiments.evaluation.rare import f1_of, measure_rare, tune_offset
from experiments.models.mlp import MLP, init_of
from experiments.study import many
from train.errors import UsageError
from train.optimizers import OptimizerConfig


def module(name):
    return importlib.import_module(f"experiments.{name}")


def pool(classes=3, size=60, numbers=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 4)).astype(np.float32)
    y = x[:, 0].astype(np.float32) if numbers else np.arange(size, dtype=np.int32) % classes
    strata = np.zeros(size, np.int32) if numbers else y
    return Pool("test", x, y, x[:9], y[:9], strata)


def robust_case(method):
    """Objective, initialiser, data and what each of two networks has of its own."""
    data, model = pool(), MLP((5, 3))
    own = draw_noisy(data, 0.4, "symmetric", (0, 1), 0)
    state = jnp.zeros((*own["given"].shape, 3)) if method == "ELR" else None
    return module("robust").make_objective(model, method), init_of(model, 4), data, own, state


def outliers_case(method):
    study, data = module("outliers"), pool(numbers=True)
    model = study.make_model(study.Config())
    init = functools.partial(study.init, model, 4)
    return study.make_objective(model, method), init, data, draw_noisy(data, 0.2, "", (0, 1), 0), None


def imbalance_case(method):
    study, data = module("imbalance"), pool()
    model = study.make_model(study.Config(hidden=5), method, 3)
    own = draw_rare(data, np.array([8, 4, 2]), (0, 1), 0)
    return study.make_objective(model, method), init_of(model, 4), data, own, None


TERMS = {robust_case: "loss_of_given", outliers_case: "value", imbalance_case: "value"}
CASES = [
    *((robust_case, method) for method in ("cross-entropy", "forward-corrected", "ELR")),
    *((outliers_case, method) for method in ("MSE", "Barron, adaptive")),
    *((imbalance_case, method) for method in ("cross-entropy", "LDAM", "asymmetric", "soft F1")),
]


@pytest.mark.parametrize(("case", "method"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_a_network_is_trained_as_if_alone(case, method):
    """Two updates of two networks, and of the second by itself: the same, on its labels and at its rate."""
    objective, init, data, own, state = case(method)
    config = OptimizerConfig(name="adam", learning_rate=1.0, schedule="constant")
    train = many.make_trainer(objective, {TERMS[case]: 1.0}, config, every=2)
    params = many.stack([init(jax.random.key(number)) for number in (0, 1)])
    rows = jnp.asarray(own["rows"][:, :6].reshape(2, 2, 3))
    both = train(many.Runs(jnp.array([0.1, 0.01]), params, rows, own, state), data.examples)
    second = jax.tree.map(lambda leaf: leaf[1:], (params, rows, own, state))
    alone = train(many.Runs(jnp.array([0.01]), *second), data.examples)
    before, after, expected = (
        jax.tree.map(lambda leaf, k=k: leaf[k], x) for x, k in ((params, 1), (both.params, 1), (alone.params, 0))
    )
    moved = [float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (after, before)), strict=True)]
    assert 0 < max(moved) < 0.021  # an update of Adam is at most near the rate
    for a, b in zip(*map(jax.tree.leaves, (after, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)  # Adam's first update is a sign, but for gradients as small as eps


def test_labels_flip_in_the_share_and_to_the_classes_that_are_said():
    labels = np.repeat(np.arange(10), 2_000)
    flipped = flip_labels(labels, transition("symmetric", 0.4), np.random.default_rng(0))
    assert np.mean(flipped != labels) == pytest.approx(0.4, abs=0.02)
    others = np.bincount(flipped[(labels == 0) & (flipped != 0)], minlength=10)
    assert others[0] == 0
    assert others[1:] == pytest.approx(2_000 * 0.4 / 9, rel=0.4)
    lookalike = flip_labels(labels, transition("by class", 0.4), np.random.default_rng(0))
    changed = {(int(a), int(b)) for a, b in zip(labels, lookalike, strict=True) if a != b}
    assert changed == {(2, 7), (3, 8), (5, 6), (6, 5), (7, 1)}
    assert np.mean(lookalike[labels == 7] == 1) == pytest.approx(0.4, abs=0.05)


def test_outliers_are_a_share_and_far_above():
    targets = np.random.default_rng(0).normal(size=1_000)
    found = add_outliers(targets, 0.2, np.random.default_rng(1)) - targets
    assert np.sum(found != 0) == 200
    assert found[found != 0].min() >= 5 * targets.std()
    own = draw_noisy(pool(numbers=True), 0.2, "", [0], 0)
    given = own["given"][0][own["rows"][0]]
    np.testing.assert_allclose(own["centre"] + own["scale"] * given, own["raw"][0], rtol=1e-5)
    assert np.median(given) == pytest.approx(0, abs=1e-6)


def test_labels_to_validate_on_are_right():
    data = pool()
    own = draw_noisy(data, 0.4, "symmetric", [3], 0)
    rows, held, given = own["rows"][0], own["held"][0], own["given"][0]
    np.testing.assert_array_equal(given[held], data.y[held])
    assert np.mean(given[rows] != data.y[rows]) == pytest.approx(0.4, abs=0.15)


def test_the_training_and_validation_examples_of_a_seed_are_disjoint():
    for draw in (draw_noisy(pool(), 0.2, "symmetric", [0, 1], 0), draw_rare(pool(), np.array([9, 3, 1]), [0, 1], 0)):
        assert draw["rows"].tolist()[0] != draw["rows"].tolist()[1]
        for rows, held in zip(draw["rows"].tolist(), draw["held"].tolist(), strict=True):
            assert not {*rows} & {*held}


def test_a_tail_has_the_counts_that_are_asked_for():
    assert tail_counts(10, 320, 3).tolist() == [320, 190, 113, 67, 40, 24, 14, 8, 5, 3]
    own = draw_rare(pool(), np.array([9, 3, 1]), range(4), 0)
    for counts, order in zip(own["counts"], own["order"], strict=True):
        assert counts[order].tolist() == [9, 3, 1]
    assert len({tuple(order) for order in own["order"].tolist()}) > 1


def test_metrics_of_rare_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(300, 5)), rng.integers(0, 4, 300)
    scores[np.arange(300), labels] += 1
    assert f1_of(scores, labels) == pytest.approx(f1_score(labels, scores.argmax(-1), average="macro"))
    counts = np.array([50.0, 20.0, 10.0, 5.0, 1.0])
    offset = tune_offset(scores, labels, counts)
    found = measure_rare(scores, labels, offset, np.arange(5))
    assert found["tuned_f1"] >= found["macro_f1"]
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([np.mean(scores[labels == k].argmax(-1) == k) for k in range(4)])
    )


def test_cosines_do_not_depend_on_the_length_of_the_features():
    model = MLP((3,), cosine=True)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    params = model.init(jax.random.key(0), x)
    found = np.asarray(model.apply(params, x))
    np.testing.assert_allclose(found, model.apply(params, 7 * x), atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-6
    assert np.isfinite(jax.grad(lambda p: model.apply(p, 0 * x).sum())(params)["params"]["layer_0"]).all()


LEARNS = {  # options, and by what margin the trivial baseline is beaten: the most frequent class, or the median
    "robust": ({"losses": ("cross-entropy",), "shares": (0.4,)}, 0.5),
    "outliers": ({"losses": ("MSE",), "outliers": (0.0,)}, 0.15),
    "imbalance": ({"losses": ("cross-entropy",)}, 0.4),
}


def margin(name, rows):
    """How much better a study's first loss is than what needs no learning."""
    if name == "robust":
        return (
            np.mean([r["accuracy"] for r in rows if r.get("noise") == "symmetric" and r["method"] == "cross-entropy"])
            - 0.1
        )
    if name == "imbalance":
        return (
            np.mean([r["balanced_accuracy"] for r in rows if (r["data"], r["method"]) == ("digits", "cross-entropy")])
            - 0.1
        )
    data = module(name).make_data(module(name).Config())["patients"]
    trivial = np.sqrt(np.mean((data.test_y - np.median(data.y)) ** 2))
    return 1 - np.mean([r["error"] for r in rows if (r["data"], r["method"]) == ("patients", "MSE")]) / trivial


@pytest.mark.study
@pytest.mark.parametrize("name", LEARNS)
@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_a_study_learns_unless_its_rates_are_0(name, factor, tmp_path, monkeypatch):
    monkeypatch.setattr(many, "MOST", 1)  # one grid of rates is enough
    options, least = LEARNS[name]
    config = module(name).Config(workdir=str(tmp_path / "run"), seeds=2, tuning_seeds=1, **options)
    optimizer = dataclasses.replace(config.training.optimizer, learning_rate=factor)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=300, optimizer=optimizer))
    found = margin(name, module(name).main(config)["runs"])
    assert found > least if factor else found < least / 2


def test_more_examples_of_a_class_than_there_are_are_refused():
    with pytest.raises(UsageError, match=r"--most may be at most \d+, what there is of each class, got 9000"):
        draw_rare(pool(), np.array([9000, 3, 1]), [0], 0)
