"""A step is traced and compiled at its first call and at no other, wherever state and batch come from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import (
    Checkpointer,
    Term,
    build_eval_step,
    build_train_step,
    create_state,
    data_parallel,
    make_precision,
    skip_nonfinite,
)

BACKENDS = ("jit", "shard_map", "pmap")
BATCH = {"x": np.ones((32, 3), np.float32)}
ADAM = optax.adam(0.1)
RATES = {"square": 1.0}
FLOAT16 = make_precision("float16")


class Counted:
    """An objective that counts how often it is traced; its collection is of a weak type."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, batch, ctx):
        self.traces += 1
        return {"square": Term((batch["x"] @ params["w"] - params["b"]) ** 2, weights=1)}, {
            "half": ctx.state["half"] * 0 + 0.5
        }


@pytest.fixture
def compiled():
    """The programs compiled so far, from the cache or not."""
    names = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def start(**options):
    params = {"w": np.ones(3, np.float32), "b": np.float32(0)}
    return create_state(params, ADAM, key=0, ema=True, state={"half": jnp.float32(1)}, **options)


def build(kind, objective):
    """A step of a kind, and what its state needs."""
    options = {"loss_weights": RATES, "ema_decay": 0.9}
    if kind == "evaluation":
        return build_eval_step(objective), {}
    if kind == "guarded":
        step = skip_nonfinite(build_train_step(FLOAT16.wrap(objective), ADAM, accumulate=2, **options))
        return FLOAT16.scaled(step), {"loss_scale": FLOAT16.loss_scale()}
    return build_train_step(objective, ADAM, checks=kind == "checked", **options), {}


def states_from_elsewhere(state, folder):
    """The same state restored from a checkpoint into a fresh and into its own layout, from the host and a device."""
    with Checkpointer(folder, every=1) as checkpointer:
        checkpointer.save(int(state.step), state)
        yield "restored", checkpointer.restore_latest(start(loss_scale=state.loss_scale))
        yield "restored on the way", checkpointer.restore_latest(state)
    yield (
        "on the host",
        jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), state),
    )
    yield "on another device", jax.device_put(state, jax.devices()[3])
    yield "rolled back", state.replace(step=jax.device_put(np.asarray(7, np.int32), state.step.sharding))


@pytest.mark.parametrize("kind", ["plain", "guarded", "checked", "evaluation"])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_is_compiled_once(compiled, tmp_path, backend, devices, kind):
    objective = Counted()
    body, needed = build(kind, objective)
    step = data_parallel(body, backend, jax.devices()[:devices], donate=False)
    on_device = jax.device_put(BATCH)

    def call(state, batch):
        result = jax.block_until_ready(step(state, batch))
        return result[0] if body.trains else state

    state = call(start(**needed), on_device)
    first = objective.traces
    assert first == (2 if kind == "guarded" else 1)  # with micro-batches the weights are found in a scan of their own
    before = len(compiled)
    assert before > 0
    for batch in (on_device, BATCH, on_device):
        state = call(state, batch)
        assert (objective.traces, len(compiled)) == (first, before)
    if kind == "guarded":  # the one with all fields of a state
        for name, given in states_from_elsewhere(state, tmp_path):
            call(given, BATCH)
            assert objective.traces == first, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_donated_state_that_comes_back_is_taken_as_it_is(backend):
    objective = Counted()
    step = data_parallel(build("plain", objective)[0], backend, jax.devices()[:1])
    states = [start()]
    for _ in range(3):
        states.append(jax.block_until_ready(step(states[-1], jax.device_put(BATCH)))[0])
    assert objective.traces == 1
    assert [state.params["w"].is_deleted() for state in states[1:]] == [True, True, False]
