"""The kin of SGD and Adam against loops written from their papers."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.support.optimizer_oracles import (
    ORACLES,
    RATE,
    WHOLE,
    assert_close,
    expected,
    gradients,
    parameters,
    run,
)
from train.optimizers import OPTIMIZERS, OptimizerConfig, make_optimizer
from train.optimizers.moments import average_length

STEPS = 8
KIN = (
    "rmsprop",
    "adagrad",
    "adadelta",
    "nadamw",
    "radam",
    "amsgrad",
    "adamax",
    "adabelief",
    "adan",
    "adopt",
    "sophia",
    "schedule_free_sgd",
    "schedule_free_adamw",
)


def config_of(name, **kwargs):
    return OptimizerConfig(name=name, learning_rate=RATE, schedule="constant", **kwargs)


def check(config, decay, **kwargs):
    params = parameters()
    grads = gradients(params, STEPS)
    right = expected(config.name, params, grads, decay, **kwargs)
    for ours, theirs in zip(run(config, params, grads), right, strict=True):
        assert_close(ours, theirs, rtol=3e-5, atol=3e-6)
    return right


@pytest.mark.parametrize("name", KIN)
def test_updates_follow_the_paper_with_decay(name):
    check(config_of(name, weight_decay=0.3), 0.3)


OTHERS = {
    "rmsprop": {"b2": 0.6, "eps": 0.1, "momentum": 0.5},
    "adagrad": {"eps": 0.3},
    "adadelta": {"b2": 0.6, "eps": 0.1},
    "nadamw": {"b1": 0.5, "b2": 0.7, "eps": 0.1},
    "radam": {"b1": 0.5, "b2": 0.9, "eps": 0.1},  # With it the variance can be told from the sixth step on.
    "amsgrad": {"b1": 0.5, "b2": 0.3, "eps": 0.1},
    "adamax": {"b1": 0.5, "b2": 0.3, "eps": 0.1},
    "adabelief": {"b1": 0.5, "b2": 0.7, "eps": 0.1},
    "adan": {"b1": 0.5, "b2": 0.6, "b3": 0.7, "eps": 0.1},
    "adopt": {"b1": 0.5, "b2": 0.7, "eps": 1.0},
    "sophia": {"b1": 0.5, "b2": 0.7, "eps": 0.8},
    "schedule_free_sgd": {"b1": 0.5},
    "schedule_free_adamw": {"b1": 0.5, "b2": 0.7, "eps": 0.1},
}


@pytest.mark.parametrize("name", KIN)
def test_coefficients_reach_the_update(name):
    kwargs = OTHERS[name]
    own = {"mu" if key == "momentum" else key: value for key, value in kwargs.items()}
    with_them = check(config_of(name, weight_decay=0.0, **kwargs), 0.0, **own)[-1]
    params = parameters()
    by_default = expected(name, params, gradients(params, STEPS), 0.0)[-1]
    assert np.abs(with_them["kernel"] - by_default["kernel"]).max() > 1e-3


def test_default_weight_decay():
    for name in ("nadamw", "adan", "sophia", "schedule_free_adamw"):
        check(config_of(name), 0.01)
    check(config_of("adamax"), 0.0)


def test_sophia_refreshes_its_curvature_and_scales_it():
    config = config_of("sophia", weight_decay=0.0, sophia_every=3, sophia_gamma=5.0)
    often = check(config, 0.0, every=3, gamma=5.0)[-1]
    rarely = expected("sophia", parameters(), gradients(parameters(), STEPS), 0.0, gamma=5.0)[-1]
    assert np.abs(often["kernel"] - rarely["kernel"]).max() > 1e-3


@pytest.mark.parametrize(
    ("kwargs", "steps"),
    [({}, 15), ({"corrected": True}, 40), ({"corrected": True, "b1": 0.5, "b2": 0.9, "eps": 1e-3}, 40)],
    ids=["default", "corrected", "other"],
)
@pytest.mark.parametrize("name", ["prodigy", "dadapt_adamw"])
def test_the_step_size_is_found_as_in_the_paper(name, kwargs, steps):
    """Gradients that keep to their direction let the step size grow from 1e-6 to something that moves the weights."""
    params = jax.tree.map(np.zeros_like, parameters())  # Next to 1, float32 does not resolve the first moves.
    main, noise = gradients(params, 1)[0], gradients(params, steps)
    grads = [jax.tree.map(lambda g, n: g + 0.2 * n, main, wobble) for wobble in noise]
    settings = {"bias_correction" if key == "corrected" else key: value for key, value in kwargs.items()}
    config = OptimizerConfig(name=name, learning_rate=1.0, schedule="constant", weight_decay=0.1, **settings)
    ours, right = run(config, params, grads), expected(name, params, grads, 0.1, rate=1.0, **kwargs)
    assert np.abs(right[-1]["kernel"]).max() > 0.1
    for step in (0, steps // 4, steps // 2, steps - 1):
        assert_close(ours[step], right[step], rtol=1e-3, atol=1e-10)


def test_the_step_size_that_is_found_grows_and_survives_a_rate_of_0():
    """Optax's estimates are 0 / 0 where the learning rate is 0, and NaN ever after."""
    for name in ("prodigy", "dadapt_adamw"):
        optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=1.0, warmup=5, schedule="constant"), 100)
        target = jnp.array([[3.0, -2.0], [1.0, 0.5]])

        def body(carry, _, optimizer=optimizer, target=target):
            params, state = carry
            updates, state = optimizer.update(2 * (params - target), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.zeros((2, 2))
        start = (params, optimizer.init(params))
        (first, state), _ = jax.lax.scan(body, start, length=1)
        np.testing.assert_array_equal(first, params)
        assert float(optax.tree.get(state, "estim_lr")) == pytest.approx(1e-6)
        (after, state), _ = jax.lax.scan(body, start, length=100)
        assert 0.1 < float(optax.tree.get(state, "estim_lr")) < 10
        np.testing.assert_allclose(after, target, atol=0.3)


@pytest.mark.parametrize("name", ["adamax", "sophia", "schedule_free_adamw", "prodigy", "dadapt_adamw"])
def test_decay_spares_what_the_pattern_spares(name):
    params = parameters()
    zero = [jax.tree.map(np.zeros_like, params)] * 2
    config = config_of(name, weight_decay=0.3, decay_pattern="bias")
    after = run(config, params, zero)[-1]
    np.testing.assert_allclose(after["kernel"], params["kernel"], rtol=1e-6)
    # Two steps at the rate 0.1, except that a gradient of 0 leaves the size of a step at its start, 1e-6.
    if name in KIN:
        assert np.all(np.abs(after["bias"]) < 0.96 * np.abs(params["bias"]))


def test_all_optimizers_have_an_oracle():
    assert set(OPTIMIZERS) == set(ORACLES) | set(WHOLE)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_size_of_gradients_stops_an_optimizer_in_silence(name):
    """In float32 the square of 1e20 is infinite and the square of 1e-25 is 0."""
    params = parameters()
    config = config_of(name, weight_decay=0.0)

    def moved(size):
        after = run(config, params, [jax.tree.map(lambda g: g * size, g) for g in gradients(params, 3)])[-1]
        return jax.tree.map(lambda new, old: np.asarray(new, np.float64) - np.float32(old), after, params)

    large = moved(1e20)
    for key, move in moved(1e14).items():
        assert np.isfinite(large[key]).all()
        assert np.abs(large[key]).max() > 0.5 * np.abs(move).max() > 0
    if name in ("lion", "muon", "lamb"):  # The size of the kernel's step does not depend on the gradient's.
        kernel = moved(1.0)["kernel"]
        for size in (1e20, 1e-25) if name == "muon" else (1e-25,):
            assert np.linalg.norm(moved(size)["kernel"]) == pytest.approx(np.linalg.norm(kernel), rel=0.3)
    if name == "muon":
        np.testing.assert_allclose(large["kernel"], moved(1.0)["kernel"], rtol=1e-4, atol=1e-6)


def test_adagrad_divides_small_gradients_by_their_own_size():
    params = {"w": np.zeros(3)}
    after = run(config_of("adagrad"), params, [{"w": np.array([1e-6, -3e-8, 0.0])}])[0]
    np.testing.assert_allclose(after["w"], [-RATE * 1 / 1.0001, RATE * 3 / 3.01, 0.0], rtol=1e-5)


def test_a_first_gradient_does_not_hold_amsgrad_back():
    """v = 0.1 * 1, and after 100 gradients of 0.5 nearly 0.25: the largest so far is the newest."""
    grads = [{"w": np.array([1.0])}] + [{"w": np.array([0.5])}] * 100
    last = np.diff([float(p["w"][0]) for p in run(config_of("amsgrad", b2=0.9), {"w": np.zeros(1)}, grads)])[-1]
    assert last == pytest.approx(-RATE, rel=1e-3)


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.99, 0.999, 0.9999])
def test_the_length_of_an_average_has_all_its_digits(decay):
    exact = Fraction(decay)
    for t in (1, 2, 5, 6, 30, 100, 700, 1500):
        power = exact**t
        length = 2 / (1 - exact) - 1 - 2 * t * power / (1 - power)
        assert float(average_length(jnp.array(t), decay)) == pytest.approx(float(length), rel=2e-6)
