"""Parameters spread over a mesh: the same numbers, and no device holds the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from train import (
    Checkpointer,
    OptimizerConfig,
    Term,
    UsageError,
    build_eval_step,
    build_train_step,
    bytes_per_device,
    create_state,
    data_parallel,
    gather,
    make_mesh,
    make_optimizer,
    param_specs,
    shard_state,
)
from train.devices.mesh import local_parts, process_rows
from train.devices.sharding import state_shardings
from train.paths import paths_of

RNG = np.random.default_rng(0)
WIDTH, HIDDEN, ROWS = 32, 64, 16
BATCH = {
    "x": RNG.normal(size=(ROWS, WIDTH)).astype(np.float32),
    "y": RNG.normal(size=(ROWS, WIDTH)).astype(np.float32),
    "weight": RNG.random(ROWS).astype(np.float32) * (np.arange(ROWS) < 11),
}
RULES = (("up/kernel$", ("fsdp", "tensor")), ("down/kernel$", ("tensor", "fsdp")))
MESHES = {
    "fsdp 8": ({"fsdp": 8}, ()),
    "fsdp 4 x tensor 2": ({"fsdp": 4, "tensor": 2}, RULES),
    "data 2 x fsdp 2 x tensor 2": ({"data": 2, "fsdp": 2, "tensor": 2}, RULES),
}
OPTIMIZER = optax.adamw(0.01)


def make_state():
    up, down = jax.random.split(jax.random.key(0))
    params = {
        "up": {"kernel": jax.random.normal(up, (WIDTH, HIDDEN)) / 8, "bias": jnp.zeros(HIDDEN)},
        "down": {"kernel": jax.random.normal(down, (HIDDEN, WIDTH)) / 8},
    }
    return create_state(params, OPTIMIZER, key=1, ema=True, frozen={"teacher": jnp.ones((WIDTH, HIDDEN))})


def objective(params, batch, ctx):
    hidden = jnp.tanh(batch["x"] @ params["up"]["kernel"] + params["up"]["bias"][None])
    error = jnp.sum((hidden @ params["down"]["kernel"] - batch["y"]) ** 2, -1)
    return {"square": Term(error, batch["weight"]), "noise": Term(jax.random.normal(ctx.key, (batch["x"].shape[0],)))}


def run(state, steps=4, **options):
    step = build_train_step(objective, OPTIMIZER, loss_weights={"square": 1.0}, accumulate=2, ema_decay=0.9)
    step, losses = data_parallel(step, **options), []
    for _ in range(steps):
        state, metrics = step(state, BATCH)
        losses.append([float(metrics[name][0]) for name in ("loss", "grad_norm", "noise")])
    return state, losses


@pytest.fixture(scope="module")
def unsharded():
    with jax.enable_x64(True):  # in float32 Adam turns the rounding of a small gradient into 4e-6 of a parameter
        return run(jax.jit(make_state)(), devices=jax.devices()[:1])


@pytest.mark.parametrize("name", MESHES)
def test_a_sharded_run_equals_an_unsharded_one(name, unsharded):
    axes, rules = MESHES[name]
    mesh = make_mesh(**axes)
    with jax.enable_x64(True):
        before = shard_state(make_state, mesh, rules, min_size=64)
        layout = jax.tree.map(lambda x: x.sharding, before)
        state, losses = run(before, mesh=mesh)
    expected, expected_losses = unsharded
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    for path, mine, theirs in zip(paths_of(state), jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if not jnp.issubdtype(mine.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9, err_msg=path)
    assert jax.tree.map(lambda x: x.sharding, state) == layout
    assert_spread(state, mesh.shape["fsdp"] * mesh.shape["tensor"])


def assert_spread(state, parts):
    """No device holds much more than its part of parameters, optimizer state and average."""
    for part in (state.params, state.opt_state, state.ema):
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(part))
        held = bytes_per_device(part)
        assert len(held) == 8
        assert max(held.values()) <= 1.1 * whole / parts  # the bias follows the default, so only fsdp splits it


def test_the_optimizer_follows_its_parameter_and_the_rest_is_whole():
    state = shard_state(make_state(), make_mesh(fsdp=4, tensor=2), RULES, min_size=64)
    adam = state.opt_state[0]
    specs = jax.tree.map(lambda x: x.sharding.spec, state.params)
    for tree in (adam.mu, adam.nu, state.ema):
        assert jax.tree.map(lambda x: x.sharding.spec, tree) == specs
    assert specs == {"up": {"kernel": P("fsdp", "tensor"), "bias": P("fsdp")}, "down": {"kernel": P("tensor", "fsdp")}}
    assert state.frozen["teacher"].sharding.spec == P(None, "fsdp")
    for leaf in (state.step, state.key, adam.count):
        assert leaf.sharding.is_fully_replicated


def test_not_even_its_making_holds_the_whole():
    def make():
        return create_state({"w": jax.random.normal(jax.random.key(0), (512, 1024))}, OPTIMIZER, key=0, ema=True)

    shapes = jax.eval_shape(make)
    places = state_shardings(shapes, make_mesh(fsdp=8))
    memory = jax.jit(make, out_shardings=places).lower().compile().memory_analysis()
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves((shapes.params, shapes.opt_state, shapes.ema)))
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < 2 * whole / 8


def test_a_nested_path_belongs_to_the_longest_parameter_it_ends_in():
    params = {"w": jnp.ones((16, 8)), "a": {"w": jnp.ones((16, 8))}}
    state = create_state(params, optax.adam(0.1), key=0)
    state = shard_state(state, make_mesh(fsdp=4, tensor=2), [("a/w$", ("tensor",)), ("^w$", ("fsdp",))])
    assert state.opt_state[0].mu["a"]["w"].sharding.spec == P("tensor")
    assert state.opt_state[0].mu["w"].sharding.spec == P("fsdp")


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "lion"])
def test_the_state_of_every_kind_of_optimizer_is_spread(name):
    config = OptimizerConfig(name=name, weight_decay=0.1, clip_norm=1.0, freeze="frozen")
    params = {"frozen": {"kernel": jnp.ones((64, 64))}, "dense": {"kernel": jnp.ones((256, 256))}}
    optimizer = make_optimizer(config, 10)
    state = shard_state(lambda: create_state(params, optimizer, key=0), make_mesh(fsdp=8))
    big = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.size >= 256 * 256]
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 8 for leaf in big)
    assert big or name == "adafactor"


def test_an_evaluation_step_takes_a_sharded_state():
    mesh = make_mesh(fsdp=4, tensor=2)
    step = build_eval_step(objective, loss_weights={"square": 1.0}, use_ema=True)
    state = shard_state(make_state, mesh, RULES)
    mine = data_parallel(step, mesh=mesh)(state, BATCH)
    whole = data_parallel(step, devices=jax.devices()[:1])(make_state(), BATCH)
    np.testing.assert_allclose(mine["loss"][0], whole["loss"][0], rtol=1e-6)


def test_the_default_splits_the_largest_dimension_that_divides():
    mesh = make_mesh(fsdp=8)
    shapes = {"a": (24, 100), "b": (64, 64), "c": (9, 9, 9), "d": (63,), "e": ()}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    specs = param_specs(params, mesh, min_size=64)
    assert specs == {"a": P("fsdp"), "b": P(None, "fsdp"), "c": P(), "d": P(), "e": P()}
    assert param_specs(params, mesh, min_size=3000)["a"] == P()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("lstm", ("fsdp",))], r"sharding rule='lstm' matches none of the 3 parameter paths"),
        ([("kernel", ("model",))], r"'kernel' names the mesh axis 'model', but the mesh has data, fsdp, tensor"),
        (
            [("kernel", ("fsdp", None, "tensor"))],
            r"splits down/kernel of shape \(64, 32\) in 3 dimensions, but it has 2",
        ),
        ([("kernel", ("fsdp", "fsdp"))], r"down/kernel of shape \(64, 32\) twice over one mesh axis"),
        (
            [("bias", ("fsdp",)), ("down/kernel", (None, ("fsdp", "tensor")))],
            r"down/kernel of shape \(64, 36\).*\('fsdp', 'tensor'\) of size 8 does not divide its dimension 1 of 36",
        ),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rules, message):
    width = 36 if "36" in message else WIDTH
    params = {"up": {"kernel": jnp.ones((WIDTH, HIDDEN)), "bias": jnp.ones(HIDDEN)}, "down": {"kernel": None}}
    params["down"]["kernel"] = jnp.ones((HIDDEN, width))
    with pytest.raises(UsageError, match=message):
        param_specs(params, make_mesh(fsdp=4, tensor=2), rules)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"fsdp": 3}, "data 2 x fsdp 3 x tensor 1 needs 6 devices, but there are 8"),
        ({"data": 1, "fsdp": 4}, "data 1 x fsdp 4 x tensor 1 needs 4 devices, but there are 8"),
        ({"fsdp": 16}, "needs 16 devices, but there are 8"),
        ({"tensor": 0}, "at least 1, got data None, fsdp 1 and tensor 0"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes, message):
    with pytest.raises(UsageError, match=message):
        make_mesh(**axes)


def test_a_mesh_needs_the_global_view():
    step = build_train_step(objective, OPTIMIZER, loss_weights={"square": 1.0})
    with pytest.raises(UsageError, match="needs backend 'jit', got 'pmap'"):
        data_parallel(step, "pmap", mesh=make_mesh())


def test_the_batch_is_split_over_data_and_fsdp_only():
    mesh = make_mesh(fsdp=2, tensor=2)
    assert local_parts(mesh) == 4
    assert process_rows(12, mesh).tolist() == list(range(12))
    step = build_train_step(objective, OPTIMIZER, loss_weights={"square": 1.0})
    with pytest.raises(UsageError, match="batch of 6 does not divide evenly into 4 devices"):
        data_parallel(step, mesh=mesh)(shard_state(make_state, mesh), jax.tree.map(lambda x: x[:6], BATCH))


def test_a_checkpoint_of_a_sharded_state_restores_to_any_layout(tmp_path):
    mesh = make_mesh(fsdp=4, tensor=2)
    state = shard_state(make_state, mesh, RULES, min_size=64)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    blank = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else 0 * x, make_state())
    for layout in (
        shard_state(blank, mesh, RULES, min_size=64),
        shard_state(blank, make_mesh(fsdp=8), min_size=64),
        jax.device_put(blank, jax.devices()[0]),
        blank,
    ):
        with Checkpointer(tmp_path) as checkpoints:
            restored = checkpoints.restore_latest(layout)
        assert jax.tree.map(lambda x: x.sharding, restored.params) == jax.tree.map(lambda x: x.sharding, layout.params)
        jax.tree.map(np.testing.assert_array_equal, gather(restored.opt_state), gather(state.opt_state))
        jax.tree.map(np.testing.assert_array_equal, gather(restored.params), gather(state.params))
