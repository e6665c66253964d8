"""Networks that are trained together are those that would be trained alone, and each study of them learns something."""

import dataclasses
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
from experiments.models.ensemble import by_member, index_batches, init_members, member
from experiments.models.mlp import MLP
from experiments.study.rates import choose_values
from train.optimizers import OptimizerConfig
from train.state import create_state
from train.step import build_train_step


def module(name):
    return importlib.import_module(f"experiments.{name}")


def pool(classes=3, size=60, numbers=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 4)).astype(np.float32)
    y = x[:, 0].astype(np.float32) if numbers else np.arange(size, dtype=np.int32) % classes
    strata = np.zeros(size, np.int32) if numbers else y
    return Pool("test", x, y, x[:9], y[:9], strata)


def robust_case(method, seeds=(0, 1)):
    """Objective, parameters, data and batch of a tiny ensemble."""
    data, model = pool(), MLP((5, 3))
    own = draw_noisy(data, 0.4, "symmetric", seeds, 0)
    state = jnp.zeros((*own["given"].shape, 3)) if method == "ELR" else None
    params = init_members(lambda key: model.init(key, jnp.zeros((1, 4)))["params"], seeds, [0.1, 0.01])
    return module("robust").make_objective(model, method), params, (own, jnp.asarray(data.x)), state


def outliers_case(method, seeds=(0, 1)):
    study, data = module("outliers"), pool(numbers=True)
    model = study.make_model(study.Config())

    def init(key):
        line = model.init(key, jnp.zeros((1, 4)))["params"]
        return {"line": line, "shape": jnp.zeros(()), "log_scale": jnp.zeros(())}

    own = draw_noisy(data, 0.2, "", seeds, 0)
    return study.make_objective(model, method), init_members(init, seeds, [0.1, 0.01]), (own, jnp.asarray(data.x)), None


def imbalance_case(method, seeds=(0, 1)):
    study, data = module("imbalance"), pool()
    model = study.make_model(study.Config(hidden=5), method, 3)
    own = draw_rare(data, np.array([8, 4, 2]), seeds, 0)
    params = init_members(lambda key: model.init(key, jnp.zeros((1, 4)))["params"], seeds, [0.1, 0.01])
    return study.make_objective(model, method), params, (own, jnp.asarray(data.x)), None


LOSS_TERMS = {robust_case: "noisy_loss", outliers_case: "error_loss", imbalance_case: "rare_loss"}
CASES = [
    *((robust_case, method) for method in ("cross-entropy", "forward-corrected", "ELR")),
    *((outliers_case, method) for method in ("MSE", "Barron, adaptive")),
    *((imbalance_case, method) for method in ("cross-entropy", "LDAM", "asymmetric", "soft F1")),
]


@pytest.mark.parametrize(("case", "method"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_a_member_is_trained_as_if_alone(case, method):
    """One update of two members, and of the second by itself: the same, and each at its own rate."""
    objective, params, (own, x), state = case(method)
    optimizer = by_member(OptimizerConfig(name="adam", learning_rate=1.0, schedule="constant"), 10)
    step = jax.jit(build_train_step(objective, optimizer, loss_weights={LOSS_TERMS[case]: 1.0}))
    batch = {"index": np.array([[0, 1, 2], [3, 4, 5]], np.int32)}
    both, _ = step(create_state(params, optimizer, key=0, frozen=(own, x), state=state), batch)
    one = jax.tree.map(lambda leaf: leaf[1:], (params, own, state, batch))
    alone, _ = step(create_state(one[0], optimizer, key=0, frozen=(one[1], x), state=one[2]), one[3])
    before, after, expected = member(params, 1), member(both.params, 1), member(alone.params, 0)
    moved = [float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (after, before)), strict=True)]
    assert 0 < max(moved) < 0.011  # the first update of Adam is the rate, but for its epsilon
    for a, b in zip(*map(jax.tree.leaves, (after, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-4)  # Adam's first update is a sign, but for gradients as small as eps
    np.testing.assert_array_equal(both.params["rate"], params["rate"])


def test_members_of_one_seed_see_the_same_batches():
    batches = index_batches(10, 4, [3, 5, 3])
    seen = np.concatenate([next(batches)["index"] for _ in range(2)], axis=1)
    assert seen.shape == (3, 8)  # of 10 two are left out of this epoch
    assert all(len({*row}) == 8 for row in seen.tolist())
    np.testing.assert_array_equal(seen[0], seen[2])
    assert seen[0].tolist() != seen[1].tolist()


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
    np.testing.assert_allclose(own["centre"] + own["scale"] * own["given"][0], own["raw"][0], rtol=1e-5)
    assert np.median(own["given"]) == pytest.approx(0, abs=0.2)


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


def test_the_best_value_is_chosen_and_the_edge_is_said():
    rows = [{"method": "a", "rate": r, "error": e} for r, e in [(1, 3.0), (1, 5.0), (2, 1.0), (2, 2.0), (3, np.nan)]]
    choice = choose_values(rows, "error", ["method"], better="lower")[("a",)]
    assert (choice.value, choice.score, choice.at_edge) == (2, 1.5, False)
    assert choose_values(rows[:4], "error", ["method"], better="lower")[("a",)].at_edge


def test_cosines_do_not_depend_on_the_length_of_the_features():
    model = MLP((3,), cosine=True)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    params = model.init(jax.random.key(0), x)
    found = np.asarray(model.apply(params, x))
    np.testing.assert_allclose(found, model.apply(params, 7 * x), atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-6
    assert np.isfinite(jax.grad(lambda p: model.apply(p, 0 * x).sum())(params)["params"]["layer_0"]).all()


LEARNS = {  # options, and by what margin the trivial baseline is beaten: the most frequent class, or the median
    "robust": ({"losses": ("cross-entropy",), "shares": (0.4,), "neighbours": (30,)}, 0.5),
    "outliers": ({"losses": ("MSE",), "outliers": (0.0,)}, 0.15),
    "imbalance": ({"losses": ("cross-entropy",), "penalties": (1.0,)}, 0.4),
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
@pytest.mark.parametrize("rate", [1e-2, 0.0])
def test_a_study_learns_unless_its_rate_is_0(name, rate, tmp_path):
    options, least = LEARNS[name]
    config = module(name).Config(workdir=str(tmp_path / "run"), seeds=2, tuning_seeds=1, rates=(rate,), **options)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=300))
    found = margin(name, module(name).main(config)["runs"])
    assert found > least if rate else found < least / 2
