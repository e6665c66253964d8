"""What a step costs, its profile, the logs for TensorBoard and the cache of compiled programs."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.devices.cost import Cost, count_flops, measure
from train.devices.memory import Memory
from train.devices.profiling import profiled
from train.errors import UsageError
from train.loop import fit
from train.objective import Term
from train.parallel import data_parallel
from train.records.metrics_log import MetricsWriter
from train.records.tensorboard import TensorBoard
from train.state import create_state
from train.step import build_train_step


def objective(params, batch, ctx):
    return {"mse": Term(jnp.mean((jnp.tanh(batch["x"] @ params["a"]) @ params["b"] - 1) ** 2, axis=-1), weights=1)}


def make(accumulate=1, checks=False, **options):
    params = {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 2))}
    optimizer = optax.adam(0.1)
    step = build_train_step(objective, optimizer, loss_weights={"mse": 1.0}, accumulate=accumulate, checks=checks)
    return create_state(params, optimizer, key=0), data_parallel(step, **options)


def batches():
    while True:
        yield {"x": np.ones((8, 3), np.float32)}


# Of 8 rows: x @ a, h @ b, and for the gradients of a (one product), of b (one) and of h (one).
FLOPS = 2 * 8 * (3 * 5 + 5 * 2 + 3 * 5 + 5 * 2 + 2 * 5)


@pytest.mark.parametrize("backend", ["jit", "shard_map", "pmap"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_cost_of_a_step(backend, accumulate):
    state, step = make(accumulate, backend=backend, devices=jax.devices()[:2])
    state, cost = measure(state, step, batches(), repeats=2)
    assert int(state.step) == 3
    assert cost.parameters == 3 * 5 + 5 * 2
    assert cost.flops == FLOPS  # however the batch is cut, and without the pass that only counts weights
    assert cost.memory.arguments > 3 * 25 * 4  # parameters and both moments
    assert cost.seconds > 0


def test_cost_of_a_checked_step():
    state, step = make(checks=True, devices=jax.devices()[:1])
    _, cost = measure(state, step, batches(), repeats=1)
    assert cost.flops == FLOPS
    assert cost.memory.aliased == 0  # a step that may fail keeps the state it was given


def test_donated_state_is_seen_in_the_memory():
    state, step = make(devices=jax.devices()[:1])
    memory = Memory.of(step.lower(state, next(batches())).compile())
    assert memory.aliased >= 3 * 25 * 4
    jax.tree.map(lambda leaf: leaf + 0, state.params)  # looking at the program has not consumed the state


def test_flops_of_loops_convolutions_and_branches():
    x = jnp.ones((4, 4))

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=7)[0]

    assert count_flops(loop, x) == 7 * 2 * 4**3
    assert count_flops(jax.jit(jax.checkpoint(loop)), x) == 7 * 2 * 4**3
    branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)  # noqa: E731
    assert count_flops(branches, x) == 2 * 2 * 4**3
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 6))
    dimensions = ("NHWC", "HWIO", "NHWC")
    convolve = lambda i, k: jax.lax.conv_general_dilated(i, k, (1, 1), "VALID", dimension_numbers=dimensions)  # noqa: E731
    assert count_flops(convolve, images, kernel) == 2 * (2 * 6 * 6 * 6) * (3 * 3 * 3)
    assert count_flops(lambda x: (x @ x, x)[1], x) == 0  # nobody reads the product


def test_lines_name_every_number():
    cost = Cost(25, 10**9, Memory(2**30, 2**29, 2**28, 2**31), 2**33, 0.5, 3.0)
    text = {name.strip(): value for name, value in cost.lines(120)}
    assert text["parameters"] == "25"
    assert text["operations"].startswith("1 GFLOP in matrix products")
    assert text["memory on each device"] == "3.2 GiB of 8.0 GiB"
    assert text["outputs"] == "512.0 MiB, of which 256.0 MiB reuse donated arguments"
    assert text["time"] == "0.5 s a step, 2 GFLOP/s"
    assert text["all steps"] == "1.0 min for 120"


def test_profile_of_some_steps(tmp_path, capsys):
    state, step = make(devices=jax.devices()[:1])
    with profiled(step, tmp_path / "profile", 2, 3) as traced:
        assert traced.lower is step.lower
        state = fit(state, traced, batches(), steps=5, progress=False)
    assert int(state.step) == 5
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert "profile of steps 2 to 3: " in capsys.readouterr().err


def test_a_profile_that_is_cut_short_or_never_begun(tmp_path, capsys):
    state, step = make(devices=jax.devices()[:1])
    with profiled(step, tmp_path / "profile", 2, 9) as traced:
        state = fit(state, traced, batches(), steps=3, progress=False)
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert "profile of steps 2 to 3: " in capsys.readouterr().err
    with profiled(step, tmp_path / "none", 2, 3) as traced:
        fit(state, traced, batches(), steps=4, progress=False)
    assert "no profile, because no step from 2 to 3 was made" in capsys.readouterr().err
    with pytest.raises(UsageError, match="first and a last step to profile"), profiled(step, tmp_path, 0, 3):
        pass


def events(folder):
    from tensorboardX.proto.event_pb2 import Event

    found = []  # a record is a length in 8 bytes, 4 of checksum, the event, and 4 of checksum
    for path in sorted(folder.rglob("events.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            found += [(path.parent.name, value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_gets_what_the_metrics_file_gets(tmp_path):
    with MetricsWriter(tmp_path, every=2) as writer:
        writer.also.append(TensorBoard(tmp_path / "tensorboard"))
        writer(2, None, {"loss": 1.5})
        writer.write(2, "validation", {"loss": 2.5, "accuracy": 0.25})
    assert sorted(events(tmp_path)) == [
        ("train", "loss", 2, 1.5),
        ("validation", "accuracy", 2, 0.25),
        ("validation", "loss", 2, 2.5),
    ]


def test_tensorboard_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # importing it now raises
    with pytest.raises(UsageError, match=r"need the package tensorboardX.*pip install 'lossfns\[tensorboard\]'"):
        TensorBoard(tmp_path)


CACHE = """
import json, sys, jax
from train.devices.compilation_cache import enable_compilation_cache
folder = enable_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
value = float(jax.jit(lambda x: jax.numpy.sin(x) + 1)(0.0))
print(json.dumps([folder and str(folder), jax.config.jax_compilation_cache_dir, value]))
"""


def cache(**environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "XDG_", "JAX_ENABLE_COMP"))}
    done = subprocess.run(
        [sys.executable, "-c", CACHE], env=clean | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_compilation_cache_is_in_the_users_cache_folder_unless_told_otherwise(tmp_path):
    folder, used, value = cache(XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert value == 1.0
    assert folder == used
    assert folder.startswith(str(tmp_path / "cache" / "lossfns" / "compiled"))
    assert os.listdir(folder)
    assert (
        cache(XDG_CACHE_HOME=str(tmp_path / "a"), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b"))[:2]
        == [str(tmp_path / "b")] * 2
    )
    assert not (tmp_path / "a").exists()


def test_a_cache_folder_that_cannot_be_written_breaks_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    assert cache(XDG_CACHE_HOME=str(tmp_path / "file")) == [None, None, 1.0]
