"""How micro-batches and devices are added up: in which precision, and how often the devices have to talk."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.support.exact_cases import BACKENDS
from train import Term, build_train_step, create_state, data_parallel

SGD = optax.sgd(0.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_half_precision_add_up_in_float32(backend, dtype):
    """One large number and seven ones, each in another micro-batch and on another device.

    In half precision the next number after the large one is two away, so a sum of that precision, over micro-batches
    or over devices, loses ones.
    """
    large = 256.0 if dtype == jnp.bfloat16 else 2048.0
    assert dtype(large) + dtype(1) == dtype(large)
    x = np.zeros((8, 8), np.float32)  # device by micro-batch
    np.fill_diagonal(x, 1.0)
    x[0, 0] = large
    step = build_train_step(
        lambda params, batch, ctx: {"sum": Term(params * batch["x"], weights=1)},
        SGD,
        loss_weights={"sum": 64.0},
        accumulate=8,
    )
    step = data_parallel(step, **BACKENDS[backend])
    state, metrics = jax.block_until_ready(step(create_state(jnp.zeros((), dtype), SGD, key=0), {"x": x.reshape(-1)}))
    assert float(metrics["grad_norm"][0]) == large + 7
    assert state.params.dtype == dtype


@pytest.mark.parametrize(
    ("backend", "dtype"), [("jit", jnp.bfloat16), ("pmap", jnp.float16), ("shard_map", jnp.bfloat16)]
)
def test_values_and_weights_of_half_precision_add_up_in_float32(backend, dtype):
    values = jnp.ones(4096, dtype)
    step = build_train_step(
        lambda params, batch, ctx: {"ones": Term(params.astype(dtype) * batch["x"], batch["x"])},
        SGD,
        loss_weights={"ones": 1.0},
        accumulate=4,
    )
    step = data_parallel(step, **BACKENDS[backend])
    _, metrics = jax.block_until_ready(step(create_state(jnp.ones(()), SGD, key=0), {"x": values}))
    assert [float(x) for x in (*metrics["ones"], *metrics["loss"])] == [4096.0, 4096.0, 1.0, 1.0]


# How often the devices talk


def net(params, batch, ctx):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    return {"square": Term(jnp.sum((hidden @ params["v"] - batch["y"]) ** 2, -1), batch["row"])}


PARAMS = {"w": np.ones((4, 5), np.float32), "v": np.ones((5, 3), np.float32)}
BATCH = {"x": np.ones((64, 4), np.float32), "y": np.ones((64, 3), np.float32), "row": np.ones(64, bool)}


def program(backend, accumulate):
    """Text of the compiled program."""
    step = build_train_step(net, SGD, loss_weights={"square": 1.0}, accumulate=accumulate)
    step = data_parallel(step, **BACKENDS[backend])
    return step.lower(create_state(PARAMS, SGD, key=0), BATCH).compile().as_text()


def collectives(text):
    """Names of the collectives of a program: those outside of loops, and those inside."""
    found, calls, bodies, current = {}, {}, set(), None
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = start[1]
            found[current], calls[current] = [], set()
        elif current is not None:
            found[current] += re.findall(
                r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(", line
            )
            calls[current] |= set(re.findall(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)", line))
            bodies |= set(re.findall(r"body=%?([\w.\-]+)", line))
    inside = set(bodies)
    while more := {name for caller in inside for name in calls[caller]} - inside:
        inside |= more
    return (
        [name for where, names in found.items() if where not in inside for name in names],
        [name for where, names in found.items() if where in inside for name in names],
    )


@pytest.mark.parametrize("backend", ["pmap", "shard_map", "shard_map unchecked"])
def test_devices_add_up_once_a_step(backend):
    """However many micro-batches there are: the denominators, and at the end gradients and sums."""
    outside, inside = collectives(program(backend, 8))
    assert inside == []
    assert set(outside) == {"all-reduce"}
    assert len(outside) == len(collectives(program(backend, 1))[0])


def test_the_global_view_adds_up_after_every_micro_batch():
    """Where a micro-batch is global, so is its gradient: the docstring of `data_parallel` says so, and what to do."""
    outside, inside = collectives(program("jit", 1))
    assert (set(outside), inside) == ({"all-reduce"}, [])
    outside, inside = collectives(program("jit", 8))
    # One for the denominators, one for gradients and sums together, in loops of 8 rounds.
    assert outside == []
    assert set(inside) == {"all-reduce"}
    assert len(inside) <= 4
