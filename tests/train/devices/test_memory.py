"""An out-of-memory error says what to lower and by how much; on the CPU, by asking for more than there can be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.devices.memory import Memory, MemoryErrors, OutOfMemory, device_limit, explain, is_out_of_memory, tree_bytes
from train.errors import RunFailed
from train.hooks import Evaluate
from train.loop import fit
from train.objective import Term
from train.parallel import data_parallel
from train.state import create_state
from train.step import build_eval_step, build_train_step

GIB = 2**30


def greedy(params, batch, ctx):
    """Needs as many numbers for each row as the eighth power of the width of `like`, all at once: they are sorted."""
    side = batch["like"].shape[1] ** 4
    noise = jax.random.normal(ctx.key, (batch["x"].shape[0], side, side))
    return {"loss_term": Term(jnp.sort(noise * params["w"], axis=-1)[:, 0, 0] + batch["x"], weights=1)}


WIDTH = 48  # 2.8e13 numbers a row: all rows are more than a process can address, even where it may ask for any amount


def batches():
    while True:
        yield {"x": np.ones(8, np.float32), "like": np.ones((8, WIDTH), np.float32)}


def make(accumulate=1, devices=1):
    optimizer = optax.sgd(0.1)
    step = build_train_step(greedy, optimizer, loss_weights={"loss_term": 1.0}, accumulate=accumulate)
    return create_state({"w": jnp.ones(())}, optimizer, key=0), data_parallel(step, devices=jax.devices()[:devices])


@pytest.mark.parametrize("devices", [1, 2])
def test_fit_says_which_setting_to_lower(devices):
    state, step = make(devices=devices)
    with pytest.raises(RunFailed) as caught:
        fit(state, step, batches(), steps=3, progress=False)
    error = caught.value
    assert isinstance(error, OutOfMemory)
    assert (error.rows, error.parts, error.devices) == (8, 1, devices)
    # By the compiler's count, at least the rows of random numbers: 4 bytes each.
    assert error.memory.temporaries >= 8 // devices * WIDTH**8 * 4
    assert str(error).startswith("out of memory: a batch of 8 in 1 micro-batch needs ")
    assert "one example at a time would need about" in str(error)  # it cannot fit however the batch is cut
    assert "\n" not in str(error)


def test_other_errors_pass_through():
    state, step = make()
    memory = MemoryErrors(step)
    memory.expect(state, next(batches()))
    with pytest.raises(ValueError, match="mine"), memory:
        raise ValueError("mine")
    assert not is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
    assert not is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: something else"))


def test_sentence_of_a_step_that_fits_in_half():
    memory = Memory(arguments=12 * GIB, outputs=11 * GIB, aliased=11 * GIB, temporaries=79 * GIB)
    error = OutOfMemory(64, 1, 1, memory, 78 * GIB)
    assert str(error) == (
        "out of memory: a batch of 64 in 1 micro-batch needs 91.0 GiB on each device (12.0 GiB for state and batch, "
        "79.0 GiB while it runs), and a device has 78.0 GiB; try accumulate=2 (about 51.5 GiB), or batch_size=32"
    )
    assert error.sentence("--accumulate ", "--batch-size ").endswith(
        "; try --accumulate 2 (about 51.5 GiB), or --batch-size 32"
    )
    assert error.sentence(None, "--batch-size ").endswith("; try --batch-size 32")


@pytest.mark.parametrize(
    ("rows", "parts", "devices", "temporaries", "fixed", "wanted"),
    [
        (64, 1, 1, 60, 0, 2),  # 10 + 60 / 2 <= 40
        (64, 2, 1, 60, 0, 4),  # it is half of 120 already: 10 + 60 * 2 / 4
        (64, 1, 1, 100, 0, 4),  # a half would need 10 + 50
        (6, 1, 1, 100, 0, 6),  # 4 and 5 do not divide 6, 3 needs 10 + 33
        (48, 1, 8, 100, 0, 6),  # a device has 6 rows
        (64, 1, 1, 40, 10, 4),  # 10 + 2 * 10 of gradients + 30 / 4; a half would need 45
        (64, 1, 1, 40, 16, None),  # 10 + 2 * 16 alone are more than 40
        (2, 1, 1, 100, 0, None),
    ],
)
def test_the_least_number_of_micro_batches_that_fits(rows, parts, devices, temporaries, fixed, wanted):
    memory = Memory(arguments=10 * GIB, temporaries=temporaries * GIB)
    error = OutOfMemory(rows, parts, devices, memory, 40 * GIB, gradients=fixed * GIB)
    assert error.factor() == wanted
    if wanted is None:
        assert "smaller model" in str(error)
    else:
        assert f"accumulate={wanted} " in str(error)
        assert f"batch_size={rows * parts // wanted}" in str(error)


def test_advice_without_numbers():
    assert "try accumulate=4, or batch_size=8, and halve again" in str(OutOfMemory(16, 2, 1, None, None))
    assert "one example at a time already: take a smaller model" in str(OutOfMemory(8, 8, 1, None, None))


def test_a_message_of_the_compiler_is_read():
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.50G hbm. Exceeded by 5.00G."
    state = {"params": jax.ShapeDtypeStruct((2**28,), np.float32)}  # 1 GiB
    error = explain(text, lambda state, batch: None, state, {"x": jax.ShapeDtypeStruct((4,), np.float32)})
    assert error.limit == 15.5 * GIB
    assert error.memory.total == 20.5 * GIB
    assert "needs 20.5 GiB on each device (1.0 GiB for state and batch, 19.5 GiB while it runs)" in str(error)
    assert error.factor() == 2


def test_the_limit_of_the_cpu_is_what_the_machine_has():
    limit = device_limit(jax.devices("cpu")[0])
    assert limit is not None
    assert GIB / 4 < limit < 2**50


def test_memory_of_a_compiled_step_counts_its_arguments():
    state, step = make()
    small = {"x": np.ones(8, np.float32), "like": np.ones((8, 2), np.float32)}
    memory = Memory.of(step.lower(state, small).compile())
    assert memory.arguments >= 8 * 4 + 4  # the rows and the parameter
    assert memory.total == memory.arguments + memory.outputs - memory.aliased + memory.temporaries + memory.program


def test_an_evaluation_that_is_too_large_has_no_micro_batches():
    state, train_step = make()
    step = data_parallel(build_eval_step(greedy), devices=jax.devices()[:1])
    evaluate = Evaluate(step, lambda: [next(batches())], every=1)
    small = ({"x": np.ones(8, np.float32), "like": np.ones((8, 2), np.float32)} for _ in range(3))
    with pytest.raises(OutOfMemory, match=r"a batch of 8 in an evaluation needs .* one example at a time would need"):
        fit(state, train_step, small, steps=3, hooks=[evaluate], progress=False)
    memory = Memory(10 * GIB, temporaries=20 * GIB)
    assert "; try batch_size=4" in str(OutOfMemory(8, 1, 1, memory, 20 * GIB, trains=False))


def test_the_estimate_is_near_what_the_compiler_says():
    """A network with more activations than parameters, in 4 micro-batches instead of 1."""
    width, depth, rows = 64, 6, 4096
    optimizer = optax.adam(0.1)
    state = create_state({f"w{i}": jnp.ones((width, width)) for i in range(depth)}, optimizer, key=0)

    def objective(params, batch, ctx):
        x = batch["x"]
        for i in range(depth):
            x = jnp.tanh(x @ params[f"w{i}"])
        return {"loss_term": Term(jnp.sum(x, axis=-1), weights=1)}

    def memory(parts):
        step = build_train_step(objective, optimizer, loss_weights={"loss_term": 1.0}, accumulate=parts)
        step = data_parallel(step, devices=jax.devices()[:1])
        return Memory.of(step.lower(state, {"x": np.ones((rows, width), np.float32)}).compile())

    whole = memory(1)
    error = OutOfMemory(rows, 1, 1, whole, None, gradients=tree_bytes(state.params), batch=rows * width * 4)
    assert whole.temporaries > 4 * rows * width * 4
    assert memory(4).total == pytest.approx(error.needed(4), rel=0.25)
    assert memory(4).temporaries < whole.temporaries / 2
