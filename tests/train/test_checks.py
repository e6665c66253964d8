"""Checks of values inside the compiled step."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import RunFailed, Term, build_train_step, create_state, data_parallel

RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.normal(size=(16, 4)).astype(np.float32),
    "y": RNG.normal(size=(16, 3)).astype(np.float32),
    "row": np.arange(16) % 5 != 0,
    "cell": np.where(np.arange(16)[:, None] == 0, 0, RNG.random((16, 3))).astype(np.float32),
}
RATES = {"square": 1.0, "quartic": 0.5}
SGD = optax.sgd(1.0)


def objective(params, batch, ctx):
    error = batch["x"] @ params["w"] + params["b"][None] - batch["y"]
    return {
        "square": Term(jnp.sum(error**2, axis=-1), batch["row"]),
        "quartic": Term(error**4, batch["cell"]),
        "size": Term(jnp.abs(error)),
    }


def start():
    return create_state({"w": np.ones((4, 3), np.float32), "b": np.zeros(3, np.float32)}, SGD, key=0)


def run(step, state, batch=BATCH, steps=1):
    for _ in range(steps):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics["loss"])
    return state, metrics


def checked(accumulate=2, backend="jit", function=objective):
    step = build_train_step(function, SGD, loss_weights={"square": 1.0}, accumulate=accumulate, checks=True)
    return data_parallel(step, backend, jax.devices()[:2])


def spoil(name, value, where):
    spoilt = BATCH[name].astype(np.float32).copy()
    spoilt[where] = value
    return BATCH | {name: spoilt}


@pytest.mark.parametrize("backend", ["jit", "pmap", "shard_map"])
def test_checks_name_the_term(backend):
    step = checked(backend=backend)
    state, _ = run(step, start(), steps=2)
    with pytest.raises(RunFailed, match=r"term 'square' has 1 value.s. that are NaN or infinite at step 2"):
        run(step, state, spoil("y", np.nan, (1, 0)))
    with pytest.raises(RunFailed, match=r"term 'square' has 2 weight.s. that are negative, NaN or infinite at step 2"):
        run(step, state, spoil("row", -0.5, slice(3, 5)))
    state, _ = run(step, state)  # The state that failed a check is still there.
    assert int(state.step) == 3


def test_checks_look_at_metrics_too_but_not_at_weight_zero():
    step = checked(accumulate=1)
    batch = spoil("y", np.nan, (0, 0))  # Row 0 is masked in the losses, but not in "size".
    with pytest.raises(RunFailed, match="term 'size' has 1 value"):
        run(step, start(), batch)
    masked = checked(accumulate=1, function=lambda p, b, c: {"square": Term(b["y"] * p["b"][None], b["row"][:, None])})
    with pytest.raises(RunFailed, match="the gradient is not finite at step 0, though every term is"):
        run(masked, start(), batch)


def test_checks_can_be_used_under_a_plain_jit():
    step = build_train_step(objective, SGD, loss_weights=RATES, checks=True)
    step = chex.chexify(jax.jit(step), async_check=False)
    with pytest.raises(Exception, match="term 'quartic' has"):
        run(step, start(), spoil("cell", np.inf, (2, 1)))


def test_no_check_without_checks():
    step = data_parallel(build_train_step(objective, SGD, loss_weights=RATES), devices=jax.devices()[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, metrics = run(step, start(), spoil("y", np.nan, (1, 0)))
    assert np.isnan(metrics["loss"][0])


def test_checks_compile_once():
    traces = []

    def counted(params, batch, ctx):
        traces.append(None)
        return objective(params, batch, ctx)

    step = checked(function=counted)
    state, _ = run(step, start())
    first = len(traces)
    run(step, state, steps=2)
    assert len(traces) == first
