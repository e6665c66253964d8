import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.errors import UsageError
from train.optimizers import (
    OptimizerConfig,
    ema_decay_schedule,
    learning_rate_at,
    make_schedule,
)
from train.optimizers.initializers import INITIALIZERS, make_initializer
from train.optimizers.schedules import SCHEDULES, build_schedule

# 100 steps with a peak of 2, 10 of them warm-up, cooldown 20, and a tenth of the peak left: value at some steps.
CORNERS = {
    "constant": {10: 2.0, 11: 2.0, 100: 2.0, 500: 2.0},
    "linear": {10: 2.0, 11: 2.0 - 1.8 / 90, 55: 1.1, 99: 0.2 + 1.8 / 90, 100: 0.2, 500: 0.2},
    "cosine": {10: 2.0, 40: 0.2 + 0.9 * 1.5, 55: 1.1, 70: 0.2 + 0.9 * 0.5, 100: 0.2, 500: 0.2},
    "wsd": {10: 2.0, 55: 2.0, 80: 2.0, 81: 2.0 - 1.8 / 20, 90: 1.1, 100: 0.2, 500: 0.2},
    "inverse_sqrt": {10: 2.0, 40: 1.0, 90: 2.0 / 3, 1000: 0.2},
}


def schedule_of(name, **kwargs):
    settings = {"warmup": 10, "cooldown": 20, "final_fraction": 0.1} | kwargs
    return make_schedule(OptimizerConfig(learning_rate=2.0, schedule=name, **settings), 100)


@pytest.mark.parametrize("name", SCHEDULES)
def test_corners(name):
    schedule = schedule_of(name)
    compiled = jax.jit(schedule)
    for step, value in ({0: 0.0, 1: 0.2, 5: 1.0, 9: 1.8} | CORNERS[name]).items():
        assert learning_rate_at(schedule, step) == pytest.approx(value, rel=1e-5, abs=1e-7)
        assert float(compiled(jnp.int32(step))) == pytest.approx(value, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_fraction_is_as_good_as_a_count_of_steps(name):
    by_count, by_fraction = schedule_of(name), schedule_of(name, warmup=0.1, cooldown=0.2)
    steps = range(0, 110, 7)
    assert [float(by_count(s)) for s in steps] == [float(by_fraction(s)) for s in steps]


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warm_up_the_first_step_has_the_peak(name):
    assert learning_rate_at(schedule_of(name, warmup=0), 0) == pytest.approx(2.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_as_long_as_the_run_reaches_the_peak(name):
    schedule = schedule_of(name, warmup=100, cooldown=0)
    assert learning_rate_at(schedule, 50) == pytest.approx(1.0)
    assert learning_rate_at(schedule, 100) == pytest.approx(2.0)


def test_inverse_sqrt_without_warm_up_falls_from_the_first_step():
    schedule = schedule_of("inverse_sqrt", warmup=0)
    np.testing.assert_allclose([schedule(s) for s in (0, 3, 8)], [2.0, 1.0, 2.0 / 3], rtol=1e-6)


def test_bad_lengths_are_refused():
    with pytest.raises(UsageError, match="warmup=101 is longer than the run of 100 steps"):
        schedule_of("cosine", warmup=101)
    with pytest.raises(UsageError, match=r"warmup \(81 steps\) and cooldown \(20 steps\) together are longer"):
        schedule_of("wsd", warmup=81)
    schedule_of("cosine", warmup=81, cooldown=1000)  # Only wsd has a cooldown.
    with pytest.raises(UsageError, match="at least one step, not 0"):
        make_schedule(OptimizerConfig(), 0)
    with pytest.raises(UsageError, match="unknown schedule 'cos', did you mean 'cosine'"):
        build_schedule("cos", peak=1.0, total_steps=10)


def test_averaging_starts_with_a_short_memory():
    schedule = ema_decay_schedule(0.99)
    steps = np.array([0, 1, 9, 89, 889, 890, 891, 100_000])
    np.testing.assert_allclose([schedule(s) for s in steps], np.minimum(0.99, (1 + steps) / (10 + steps)), rtol=1e-6)
    assert float(jax.jit(schedule)(jnp.int32(1))) == pytest.approx(2 / 11)
    assert float(ema_decay_schedule(0.99, warmup=0)(0)) == pytest.approx(0.99)
    assert float(ema_decay_schedule(0.99, warmup=100)(0)) == pytest.approx(0.01)
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match=r"must be in \[0, 1\)"):
            ema_decay_schedule(bad)
    with pytest.raises(UsageError, match="warm-up of the parameters' average"):
        ema_decay_schedule(0.9, warmup=-1)


def test_learning_rate_is_a_python_number():
    assert type(learning_rate_at(optax.constant_schedule(0.5), 3)) is float
    assert learning_rate_at(0.25, 3) == 0.25


def truncated_std(cut=2.0):
    """Standard deviation of a normal distribution cut off at two: sqrt(1 - 2 c phi(c) / (2 Phi(c) - 1))."""
    grid = np.linspace(-cut, cut, 100_001)
    density = np.exp(-(grid**2) / 2)
    return np.sqrt((density * grid**2).sum() / density.sum())


N_IN, N_OUT = 300, 500
DEVIATIONS = {
    "gaussian": 0.02,
    "truncated_gaussian": 0.02 * truncated_std(),
    "xavier_uniform": np.sqrt(2 / (N_IN + N_OUT)),
    "xavier_normal": np.sqrt(2 / (N_IN + N_OUT)),
    "he_uniform": np.sqrt(2 / N_IN),
    "he_normal": np.sqrt(2 / N_IN),
    "lecun_normal": np.sqrt(1 / N_IN),
    "orthogonal": np.sqrt(1 / N_OUT),
    "zeros": 0.0,
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initial_weights_have_the_stated_spread(name):
    weights = np.asarray(make_initializer(name)(jax.random.key(0), (N_IN, N_OUT), jnp.float32), np.float64)
    # 150,000 draws: the standard error of the deviation is below 0.2 %.
    assert weights.std() == pytest.approx(DEVIATIONS[name], rel=0.01)
    assert abs(weights.mean()) <= 0.01 * DEVIATIONS[name]
    if name == "truncated_gaussian":
        assert np.abs(weights).max() <= 0.04 * (1 + 1e-6)
    if name.endswith("uniform"):
        assert np.abs(weights).max() <= np.sqrt(3) * DEVIATIONS[name] * (1 + 1e-6)


def test_unknown_initializer():
    with pytest.raises(UsageError, match="unknown initializer 'he_norml', did you mean 'he_normal'"):
        make_initializer("he_norml")
