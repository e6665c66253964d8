"""However a batch is split over devices and micro-batches, and by whichever backend: one loss and one gradient.

The yardstick is `exact_cases.reference`: the whole batch on one device, in float64 where the model takes it, in plain
sums and one division. A gradient is compared as a whole, by the length of the difference over its own length: single
entries of it may be sums that cancel. All objectives take one step together, each with parameters of its own.
"""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.train.support.exact_cases import (
    BACKENDS,
    CASES,
    EXPERIMENTS,
    SIZE,
    SMALL,
    deviation,
    reference,
    take_step,
    together,
)
from train import parallel

TOLERANCE = 1e-6  # In float32, with steps of 1.2e-7.
SPLITS = (1, 2, 4, 8)
FEW = [("pmap", 8, 1), ("jit", 1, 8), ("shard_map", 4, 2), ("shard_map unchecked", 2, 4), ("jit", 8, 4)]
ONE = {
    "bert_pretrain": ("shard_map", 4, 2),
    "few_shot": ("jit", 2, 4),
    "causal_lm": ("pmap", 2, 8),
    "simclr": ("shard_map unchecked", 4, 2),
    "simclr in chunks": ("shard_map", 8, 1),
    "simclr, supervised": ("jit", 4, 4),
    "toy_classifier": ("pmap", 8, 8),
}
ALL = list(itertools.product(BACKENDS, SPLITS, SPLITS))


def ratio(found, expected):
    return abs(float(found) - float(expected)) / (abs(float(expected)) or 1.0)


def faults(state, metrics, accumulate, cases):
    """What differs from the reference, and by how much: the mean of each term, its weight, gradient, new state."""
    found = {}
    for name, case in cases.items():
        sums, grads, new = reference(name, accumulate if case.coupled else 1)
        for term, (total, weight) in sums.items():
            mine, my_weight = metrics[f"{name}/{term}"]
            found[f"{name}/{term}"] = ratio(mine / my_weight, total / weight)
            if term != "decay":  # A scalar counts once in each part.
                found[f"weight of {name}/{term}"] = ratio(my_weight, weight)
        found[f"gradient of {name}"] = deviation(state.opt_state[name], grads)
        if case.state is not None:
            found[f"state of {name}"] = deviation(state.state[name], new)
    return {name: error for name, error in found.items() if not error <= TOLERANCE}


def check(cases, backend, devices, accumulate):
    state, metrics = take_step(together(cases), devices, accumulate, backend)
    assert not faults(state, metrics, accumulate, cases)
    means = {name: total / weight for name, (total, weight) in metrics.items()}
    loss = sum(rate * means[f"{name}/{term}"] for name, case in cases.items() for term, rate in case.rates.items())
    np.testing.assert_allclose(means["loss"], loss, rtol=TOLERANCE)


@pytest.mark.parametrize(("backend", "devices", "accumulate"), FEW)
def test_small_objectives_are_exact(backend, devices, accumulate):
    check(SMALL, backend, devices, accumulate)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_exact(name):
    check({name: EXPERIMENTS[name]}, *ONE[name])


@pytest.mark.full
@pytest.mark.parametrize(("backend", "devices", "accumulate"), ALL)
@pytest.mark.parametrize("cases", [SMALL, EXPERIMENTS], ids=["small", "experiments"])
def test_everything_is_exact_at_every_split(cases, backend, devices, accumulate):
    check(cases, backend, devices, accumulate)


@pytest.fixture
def even(monkeypatch):
    """Without masks, so that a denominator of one of eight parts is an eighth of the right one."""
    case = CASES["masked"]
    monkeypatch.setitem(CASES, "even", dataclasses.replace(case, batch=case.batch | {"row": np.ones(SIZE, bool)}))
    return {"even": CASES["even"]}


def break_denominators(monkeypatch, broken):
    """The train step adds up its denominators as a dictionary, and all else as a tuple."""
    real = parallel.Sync.sum
    monkeypatch.setattr(
        parallel.Sync, "sum", lambda self, tree: broken(self, tree) if isinstance(tree, dict) else real(self, tree)
    )


def assert_eight_times_too_large(state, metrics, accumulate, cases):
    found = faults(state, metrics, accumulate, cases)
    assert list(found) == ["gradient of even"]
    np.testing.assert_allclose(found["gradient of even"], 7, rtol=1e-5)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "jit"])
def test_canary_a_factor_of_the_devices_is_found(monkeypatch, even, backend):
    """Each device dividing by its own weights; in the global view of jit there are no such weights."""
    break_denominators(monkeypatch, lambda sync, weights: sync.local(weights))
    assert_eight_times_too_large(*take_step(together(even), 8, 1, backend), 1, even)


@pytest.mark.parametrize("backend", BACKENDS)
def test_canary_a_factor_of_the_micro_batches_is_found(monkeypatch, even, backend):
    """Each micro-batch divided by the weights of one micro-batch."""
    real = parallel.Sync.sum
    break_denominators(monkeypatch, lambda sync, weights: {k: w / 8 for k, w in real(sync, weights).items()})
    assert_eight_times_too_large(*take_step(together(even), 2, 8, backend), 8, even)
