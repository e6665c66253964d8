"""What no step can compute with is refused by a sentence that names it."""

import datetime

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from train import Term, UsageError, build_eval_step, build_train_step, create_state, data_parallel, make_mesh

ADAM = optax.adam(0.1)
X = {"x": np.ones(4, np.float32)}


def objective(params, batch, ctx):
    return {"square": Term((params["w"] - batch["x"]) ** 2, weights=1)}


def build(**options):
    return build_train_step(objective, ADAM, loss_weights={"square": 1.0}, **options)


def start(**more):
    return create_state({"w": np.float32(0)} | more, ADAM, key=0)


WORDS = ["a", "b", "c", "d"]
NO_NUMBERS = {
    "text": np.array(WORDS),
    "bytes": np.array(WORDS, "S1"),
    "objects": np.array([object()] * 4),
    "dates": np.array(["2024-02-29"] * 4, "datetime64[D]"),
    "times": np.ones(4, "timedelta64[s]"),
    "records": np.zeros(4, [("a", int), ("b", float)]),
    "a list of words": WORDS,
    "a word": "abcd",
    "a day": datetime.date(2024, 2, 29),
    "a function": len,
    "an object": object(),
    "a large number": 10**30,
}


@pytest.mark.parametrize("name", NO_NUMBERS)
@pytest.mark.parametrize("backend", [None, "jit", "pmap", "shard_map"])
def test_batches_hold_numbers(backend, name):
    batch = X | {"deep": {"leaf": NO_NUMBERS[name]}}
    for step in (build(), build_eval_step(objective)):
        placed = step if backend is None else data_parallel(step, backend, jax.devices()[:2])
        with pytest.raises(UsageError, match=r"the batch holds .* at 'deep/leaf.*encode text, dates and objects"):
            placed(start(), batch)


@pytest.mark.parametrize("backend", ["jit", "pmap", "shard_map"])
def test_batches_may_hold_every_kind_of_number(backend):
    kinds = {
        "bool": np.ones(4, bool),
        "int8": np.ones(4, np.int8),
        "bfloat16": np.ones(4, ml_dtypes.bfloat16),
        "complex": np.ones(4, np.complex64),
        "keys": jax.random.split(jax.random.key(0), 4),
        "none": None,
    }
    data_parallel(build(), backend, jax.devices()[:2])(start(), X | kinds)


@pytest.mark.parametrize("leaf", [jnp.int32(3), np.array([1, 2]), 1, True, np.ones(2, bool)])
@pytest.mark.parametrize("backend", [None, "jit", "pmap", "shard_map"])
def test_whole_numbers_are_not_trained(backend, leaf):
    step = build() if backend is None else data_parallel(build(), backend, jax.devices()[:2])
    with pytest.raises(
        UsageError, match=r"parameter tree holds an array of dtype (int|bool)\d* at 'layer/count'.*frozen="
    ):
        step(start(layer={"count": leaf}), X)


@pytest.mark.parametrize("leaf", [jax.random.key(0), "text", np.array(WORDS), len, np.array("2024", "datetime64[Y]")])
def test_parameters_are_numbers(leaf):
    with pytest.raises(UsageError, match=r"the parameter tree holds .* at 'layer/extra'\. .*put keys into state="):
        start(layer={"extra": leaf})


def test_whole_numbers_may_be_evaluated():
    metrics = build_eval_step(objective)(start(count=3), X)
    assert float(metrics["square"][0]) == 4.0


@pytest.mark.parametrize("accumulate", [2.0, 2.5, "2", None, True, 0, -1, np.nan])
def test_micro_batches_are_counted_in_whole_numbers(accumulate):
    with pytest.raises(UsageError, match=r"expected accumulate as a whole number of at least 1, got"):
        build(accumulate=accumulate)


def test_a_whole_number_of_numpy_is_one():
    build(accumulate=np.int64(2))(start(), X)


@pytest.mark.parametrize(
    "choose", [lambda d: [], lambda d: (), lambda d: [d[0], d[1], d[0]], lambda d: ["cpu:0"], lambda d: 2]
)
@pytest.mark.parametrize("backend", ["jit", "pmap", "shard_map"])
def test_devices_are_there_once(backend, choose):
    devices = choose(jax.devices())
    with pytest.raises(UsageError, match=r"devices are at least one of .* each of them once, got "):
        data_parallel(build(), backend, devices)
    with pytest.raises(UsageError, match=r"devices are at least one of .* each of them once, got "):
        make_mesh(devices=devices)


def test_devices_may_come_as_an_array():
    data_parallel(build(), "jit", np.array(jax.devices()[:2]))(start(), X)
