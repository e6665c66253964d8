"""Settings for some parameters only."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

from tests.train.support.optimizer_oracles import PLAIN, RATE, assert_close, expected, gradients, run, to_jax
from train.errors import UsageError
from train.optimizers import OptimizerConfig, describe, make_optimizer

ADAMW = OptimizerConfig(name="adamw", learning_rate=RATE, schedule="constant", weight_decay=0.2)


def parameters():
    rng = np.random.default_rng(0)
    names = {"embed": (3, 4), "layer_0": (4, 4), "head": (4, 2)}
    return {
        name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[-1])} for name, shape in names.items()
    }


def split(history, name):
    return [tree[name] for tree in history]


def check(config, groups, steps=3):
    """Each part of the tree alone, with the optimizer it should have: (name, decay, factor of the rate, settings)."""
    params = parameters()
    grads = gradients(params, steps)
    ours = run(config, params, grads)
    for part, (name, decay, kwargs) in groups.items():
        right = expected(name, params[part], split(grads, part), decay, **kwargs)
        for got, want in zip(split(ours, part), right, strict=True):
            assert_close(got, want, rtol=3e-5, atol=3e-6)


def test_the_first_pattern_that_matches_decides_each_setting():
    config = replace(
        ADAMW,
        overrides={
            "head": {"weight_decay": 0.0},
            "embed|head": {"weight_decay": 0.5, "b1": 0.5},
            "embed": {"b1": 0.1, "b2": 0.9},
            "layer": {"eps": 0.1},
        },
    )
    check(
        config,
        {
            "embed": ("adamw", 0.5, {"b1": 0.5, "b2": 0.9}),
            "layer_0": ("adamw", 0.2, {"eps": 0.1}),
            "head": ("adamw", 0.0, {"b1": 0.5}),
        },
    )


def test_other_optimizers_come_with_their_own_settings():
    config = replace(
        ADAMW, b2=0.9, overrides={"head": {"name": "momentum", "momentum": 0.5}, "embed": {"name": "lion"}}
    )
    check(
        config,
        {
            "embed": ("lion", 0.01, {}),
            "layer_0": ("adamw", 0.2, {"b2": 0.9}),
            "head": ("momentum", 0.0, {"mu": 0.5}),
        },
    )
    check(replace(ADAMW, overrides={"head": {"name": "adan", "b3": 0.5}}), {"head": ("adan", 0.01, {"b3": 0.5})})


def test_rates_multiply_those_of_the_layers():
    config = replace(
        PLAIN,
        learning_rate=1.0,
        layer_decay=0.5,
        overrides={"bias": {"rate_factor": 10.0}, "head|embed": {"rate_factor": 3.0}, "e": {"rate_factor": 0.0}},
    )
    ones = jax.tree.map(np.ones_like, parameters())
    after = run(config, jax.tree.map(np.zeros_like, ones), [ones])[0]
    for part, layer, own in (("embed", 0.25, 3.0), ("layer_0", 0.5, 0.0), ("head", 1.0, 3.0)):
        np.testing.assert_allclose(after[part]["kernel"], -layer * own, rtol=1e-6)
        np.testing.assert_allclose(after[part]["bias"], -layer * 10.0, rtol=1e-6)


def test_the_norm_that_is_clipped_is_that_of_all_groups():
    params, grad = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}, {"a": 3.0, "b": 4.0, "c": 99.0}
    grad = jax.tree.map(lambda g: np.full(1, g), grad)
    config = replace(PLAIN, clip_norm=1.0, overrides={"a": {"name": "momentum"}}, freeze="c", sam_radius=None)
    after = run(config, params, [grad])[0]
    np.testing.assert_allclose([after[name][0] for name in "abc"], [-RATE * 0.6, -RATE * 0.8, 0.0], rtol=1e-6)


def test_groups_average_and_climb_together():
    config = replace(ADAMW, name="sgd", weight_decay=0.0, sam_radius=0.1)
    overrides = {"head": {"name": "sophia", "weight_decay": 0.0}, "embed": {"name": "adamw", "weight_decay": 0.0}}
    config = replace(config, lookahead_every=2, freeze="layer", overrides=overrides)
    params, grads = parameters(), gradients(parameters(), 4)
    frozen = run(config, params, grads)[-1]["layer_0"]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, np.float32)), frozen, params["layer_0"])
    state = make_optimizer(config, 10, params).init(to_jax(params))
    counts = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == params["layer_0"]["kernel"].shape]
    assert not counts  # Nothing is kept for what is frozen.
    assert optax.tree.get(state, "slow")["head"]["kernel"].shape == (4, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decoder": {"rate_factor": 2.0}}, "overrides='decoder' matches none of the 6 parameter paths"),
        ({"head": {"b2": 0.5}, "decoder": {"b2": 0.5}}, "overrides='decoder' matches none"),
        ({"bias": {"weight_decay": 0.1}}, r"overrides\['bias'\] sets weight_decay where no parameter decays"),
        ({"head": {"name": "sgd"}, "kernel": {"b1": 0.5}}, "sgd has no b1"),
    ],
)
def test_settings_that_fit_no_parameter_are_refused(overrides, message):
    with pytest.raises(UsageError, match=message):
        make_optimizer(replace(ADAMW, overrides=overrides), 10, parameters())
    with pytest.raises(UsageError, match=message):
        make_optimizer(replace(ADAMW, overrides=overrides), 10).init(parameters())
    make_optimizer(replace(ADAMW, overrides={"bias": {"weight_decay": 0.1}}, decay_pattern="bias"), 10, parameters())


def test_the_description_says_where_what_is_different():
    config = replace(
        ADAMW,
        overrides={
            "head": {"name": "nadamw"},
            "embed": {"weight_decay": 0.5, "b1": 0.8},
            "bias": {"rate_factor": 2.0},
        },
        layer_decay=0.9,
        plateau_factor=0.5,
        proximal_l1=0.1,
        sam_radius=0.05,
        centralize=True,
    )
    assert describe(config).splitlines() == [
        "sharpness-aware: the gradient 0.05 uphill, a second one at each step",
        "gradient centralisation of kernels",
        "adam: b1 0.9, b2 0.999, eps 1e-08",
        "decoupled weight decay 0.2 on matrices",
        "instead, where 'head' matches: adam with Nesterov momentum: b1 0.9, b2 0.999, eps 1e-08; "
        "decoupled weight decay 0.01 on matrices",
        "instead, where 'embed' matches: weight_decay 0.5, b1 0.8",
        "learning rate 0.1: constant",
        "times 0.5 whenever the mean loss of 100 steps has not fallen 5 times in a row",
        "layer-wise rates: 0.9 for each layer down from the head",
        "rate times 2 where 'bias' matches",
        "proximal L1 step 0.1 on matrices",
    ]
    assert describe(replace(PLAIN, lookahead_every=5)).splitlines()[-1] == (
        "lookahead: every 5 steps slow weights move 0.5 of the way, which are evaluated"
    )
    free = OptimizerConfig(name="schedule_free_adamw", schedule="constant", freeze="x", weight_decay=0.0)
    assert describe(free).splitlines() == [
        "only parameters that do not match 'x'",
        "adam without momentum: b2 0.999, eps 1e-08",
        "learning rate 0.001: constant",
        "schedule-free: gradients 0.9 of the way to the average, which is evaluated",
    ]
    found = OptimizerConfig(name="prodigy", schedule="constant", learning_rate=1.0, weight_decay=0.1)
    assert describe(found).splitlines() == [
        "adam with the step size found by prodigy: b1 0.9, b2 0.999, eps 1e-08, without bias correction; "
        "decoupled weight decay 0.1 on matrices",
        "learning rate 1: constant, times that step size",
    ]
