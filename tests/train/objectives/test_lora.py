import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.support.batches import BACKENDS
from train import Checkpointer, Term, build_eval_step, build_train_step, create_state, data_parallel
from train.errors import UsageError
from train.objectives.lora import LoraBase, lora_init, lora_merge, lora_objective, lora_size
from train.optimizers import OptimizerConfig, make_optimizer
from train.paths import paths_of

RNG = np.random.default_rng(0)
KERNELS = {
    "dense": (6, 5),
    "query": (8, 2, 4),  # [width, heads, size]
    "out": (2, 4, 8),  # [heads, size, width]
    "conv": (3, 3, 4, 7),
}
INPUTS = {"dense": 6, "query": 8, "out": 8, "conv": 36}


def base():
    params = {name: {"kernel": RNG.normal(size=shape).astype(np.float32)} for name, shape in KERNELS.items()}
    params["dense"]["bias"] = RNG.normal(size=5).astype(np.float32)
    return jax.tree.map(jnp.asarray, params)


def filled(adapters):
    """Adapters that change something."""
    return jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), adapters)


def test_adapters_start_as_nothing_and_are_small():
    params = base()
    adapters = lora_init(params, 2, "kernel|bias", jax.random.key(0))
    merged = lora_merge(params, adapters, alpha=16.0)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    sizes = {name: (INPUTS[name], int(np.prod(shape)) // INPUTS[name]) for name, shape in KERNELS.items()}
    for name, (n_in, n_out) in sizes.items():
        adapter = adapters[name]["kernel"]
        assert adapter["a"].shape == (n_in, 2)
        assert adapter["b"].shape == (2, n_out)
    assert lora_size(adapters) == sum(2 * (n_in + n_out) for n_in, n_out in sizes.values())
    assert "dense/bias" not in paths_of(adapters)
    wide = lora_init({"w": jnp.ones((400, 300))}, 100, "w", jax.random.key(1))["w"]["a"]
    assert float(jnp.std(wide)) == pytest.approx(400**-0.5, rel=0.02)
    # The numbers of one kernel do not depend on which others are chosen.
    alone = lora_init(params, 2, "query", jax.random.key(0))
    np.testing.assert_array_equal(alone["query"]["kernel"]["a"], adapters["query"]["kernel"]["a"])
    assert np.abs(adapters["query"]["kernel"]["a"] - adapters["out"]["kernel"]["a"]).max() > 0.1


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 16 / 3), (True, 16 / 3**0.5)])
def test_merging_equals_applying(stabilized, scale):
    params = base()
    adapters = filled(lora_init(params, 3, "kernel", jax.random.key(0)))
    merged = lora_merge(params, adapters, alpha=16.0, rank_stabilized=stabilized)
    x = {"dense": RNG.normal(size=(2, 6)), "query": RNG.normal(size=(2, 8)), "out": RNG.normal(size=(2, 2, 4))}
    products = {"dense": "bi,io->bo", "query": "bd,dhs->bhs", "out": "bhs,hsd->bd"}
    for name, product in products.items():
        a, b = (np.asarray(adapters[name]["kernel"][key], np.float64) for key in ("a", "b"))
        plain = np.einsum(product, x[name], np.asarray(params[name]["kernel"], np.float64))
        low_rank = (x[name].reshape(2, -1) @ a) @ b
        together = np.einsum(product, x[name], np.asarray(merged[name]["kernel"], np.float64))
        np.testing.assert_allclose(together, plain + scale * low_rank.reshape(plain.shape), rtol=1e-4, atol=1e-4)
    change = np.asarray(merged["conv"]["kernel"] - params["conv"]["kernel"], np.float64).reshape(36, 7)
    assert np.linalg.matrix_rank(change, tol=1e-3) == 3
    np.testing.assert_array_equal(merged["dense"]["bias"], params["dense"]["bias"])


def test_merging_keeps_types_and_trees():
    params = ({"w": jnp.ones((4, 3), jnp.bfloat16)}, [jnp.ones(2)])
    adapters = filled(lora_init(params, 1, "w", jax.random.key(0)))
    assert adapters["0"]["w"]["a"].dtype == jnp.float32
    merged = jax.jit(lambda p, a: lora_merge(p, a, alpha=1.0))(params, adapters)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), merged) == jax.tree.map(lambda x: (x.shape, x.dtype), params)


def test_what_does_not_fit_is_refused():
    params, key = base(), jax.random.key(0)
    with pytest.raises(UsageError, match="pattern='decoder' matches none"):
        lora_init(params, 2, "decoder", key)
    with pytest.raises(UsageError, match="fewer than two axes"):
        lora_init(params, 2, "bias", key)
    for rank in (0, 6):
        with pytest.raises(UsageError, match=rf"rank must be from 1 to 5 for dense/kernel \[6, 5\], not {rank}"):
            lora_init(params, rank, "dense", key)
    with pytest.raises(UsageError, match="adapters for dense/kernel, but no such parameters"):
        lora_merge({"other": jnp.ones(2)}, lora_init(params, 2, "dense", key), alpha=1.0)
    step = build_train_step(lora_objective(squares, alpha=1.0), optax.sgd(0.1), loss_weights={"square": 1.0})
    state = create_state(lora_init(params, 2, "dense", key), optax.sgd(0.1), key=0, frozen=params)
    with pytest.raises(UsageError, match=r"frozen=LoraBase\(params\)"):
        step(state, BATCH)


BATCH = {
    "x": RNG.normal(size=(32, 6)).astype(np.float32),
    "y": RNG.normal(size=(32, 5)).astype(np.float32),
    "row": RNG.random(32) < 0.6,
}


def squares(params, batch, ctx):
    """Also asks for what the objective of an adapted model may ask for."""
    error = batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"][None] - batch["y"]
    terms = {"square": Term(jnp.sum(error**2, -1), batch["row"])}
    if ctx.ema is not None:
        terms["apart"] = Term(jnp.sum((ctx.ema["dense"]["kernel"] - params["dense"]["kernel"]) ** 2))
        terms["teacher"] = Term(jnp.sum(ctx.frozen["teacher"]))
    return terms


def one_step_of_sgd(params, adapters, alpha, rate):
    """The adapters after one step, from the gradient of the merged kernel: dA = s dW B^T, dB = s A^T dW."""
    x, y, row = (np.asarray(BATCH[name], np.float64) for name in ("x", "y", "row"))
    kernel, bias = (np.asarray(params["dense"][name], np.float64) for name in ("kernel", "bias"))
    a, b = (np.asarray(adapters["dense"]["kernel"][name], np.float64) for name in ("a", "b"))
    scale = alpha / a.shape[1]
    error = (x @ (kernel + scale * a @ b) + bias - y) * row[:, None]
    gradient = x.T @ (2 * error) / row.sum()
    return {"a": a - rate * scale * gradient @ b.T, "b": b - rate * scale * a.T @ gradient}


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_adapters_are_trained_on_every_backend(backend, tmp_path):
    params = base()
    adapters = filled(lora_init(params, 2, "dense", jax.random.key(0)))
    optimizer = make_optimizer(OptimizerConfig(name="sgd", learning_rate=0.01, schedule="constant"), 10, adapters)
    objective = lora_objective(squares, alpha=4.0)
    step = build_train_step(objective, optimizer, loss_weights={"square": 1.0}, accumulate=2, ema_decay=0.5)
    frozen = LoraBase(params, {"teacher": jnp.arange(3.0)})
    state = create_state(adapters, optimizer, key=0, ema=True, frozen=frozen)
    state, metrics = data_parallel(step, **BACKENDS[backend], devices=jax.devices()[:4])(state, BATCH)
    right = one_step_of_sgd(params, adapters, 4.0, 0.01)
    for name, value in right.items():
        np.testing.assert_allclose(state.params["dense"]["kernel"][name], value, rtol=1e-5, atol=1e-6)
    assert float(metrics["teacher"][0] / metrics["teacher"][1]) == 3.0
    assert float(metrics["apart"][0]) == 0.0  # The average starts at the adapters.
    jax.tree.map(np.testing.assert_array_equal, state.frozen.params, params)

    evaluate = data_parallel(build_eval_step(objective), **BACKENDS[backend], devices=jax.devices()[:4])
    merged = jax.tree.map(np.asarray, lora_merge(params, state.params, alpha=4.0))
    error = (BATCH["x"] @ merged["dense"]["kernel"] + merged["dense"]["bias"] - BATCH["y"]) * BATCH["row"][:, None]
    np.testing.assert_allclose(evaluate(state, BATCH)["square"][0], np.sum(np.square(error)), rtol=1e-5)
    if backend == "jit":
        with Checkpointer(tmp_path / "checkpoints", every=1) as checkpoints:
            checkpoints(1, state, {})
            restored = checkpoints.restore_latest(jax.tree.map(jnp.zeros_like, state))
        jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
        jax.tree.map(np.testing.assert_array_equal, restored.frozen.params, params)


def test_layer_rates_and_frozen_adapters_go_by_the_paths_of_the_kernels():
    params = {"layer_0": {"kernel": jnp.ones((4, 4))}, "layer_1": {"kernel": jnp.ones((4, 4))}}
    adapters = filled(lora_init(params, 2, "kernel", jax.random.key(0)))
    config = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant", layer_decay=0.5, freeze="/a$")
    optimizer = make_optimizer(config, 10, adapters)
    ones = jax.tree.map(jnp.ones_like, adapters)
    updates, _ = optimizer.update(ones, optimizer.init(adapters), adapters)
    for layer, rate in {"layer_0": 0.25, "layer_1": 0.5}.items():
        np.testing.assert_array_equal(updates[layer]["kernel"]["b"], -rate)
        np.testing.assert_array_equal(updates[layer]["kernel"]["a"], 0.0)
