"""One device with the whole batch, many devices, micro-batches, and the three backends: the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.train.support.batches import BACKENDS, BATCH, PARAMS, ordinary
from train import Term, UsageError, build_eval_step, build_train_step, create_state, data_parallel, parallel, penalty

SGD = optax.sgd(1.0)  # Parameters before minus parameters after are the gradient.


def several(params, batch, ctx):
    error = jnp.tanh(batch["x"] @ params["w"]) - batch["y"]
    return {
        "square": Term(jnp.sum(error**2, -1), batch["row"]),
        "quartic": Term(error**4, batch["cell"]),
        "decay": penalty(jnp.sum(params["w"] ** 2)),
        "constant": penalty(jnp.ones(())),
    }


def contrastive(params, batch, ctx):
    """Cross-entropy of each row's own target among the targets of the global batch."""
    rows, targets = batch["x"] @ params["w"], jnp.tanh(batch["y"] @ params["w"].T) @ params["w"]
    offset = 0
    if ctx.axis_name is not None:
        offset = jax.lax.axis_index(ctx.axis_name) * rows.shape[0]
        targets = jax.lax.all_gather(targets, ctx.axis_name, tiled=True)
    logits = rows @ targets.T
    own = jnp.take_along_axis(logits, (offset + jnp.arange(rows.shape[0]))[:, None], axis=1)[:, 0]
    return {"nce": Term(jax.nn.logsumexp(logits, axis=-1) - own, batch["row"])}


def statistics(params, batch, ctx):
    """Divided by a statistic of the global batch, through which the gradient flows as well."""
    rows = jnp.tanh(batch["x"] @ params["w"])
    scale = jnp.mean(rows**2, axis=0)
    scale = scale if ctx.axis_name is None else jax.lax.pmean(scale, ctx.axis_name)
    return {"scaled": Term(jnp.sum((rows - batch["y"]) ** 2 / scale[None], -1), batch["row"])}


RATES = {
    statistics: {"scaled": 1.0},
    ordinary: {"square": 1.0},
    several: {"square": 1.0, "quartic": 0.5, "decay": 0.1, "constant": 2.0},
    contrastive: {"nce": 1.0},
}


@functools.cache
def reference(objective, groups):
    """Loss and gradient of the whole batch, written plainly; only a coupled loss depends on the groups of rows."""

    def loss(params):
        class Whole:
            axis_name = None

        parts = [
            objective(params, jax.tree.map(lambda x, g=g: jnp.asarray(x[g::groups]), BATCH), Whole)
            for g in range(groups)
        ]
        total = 0.0
        for name, rate in RATES[objective].items():
            values = [jnp.atleast_1d(part[name].values) for part in parts]
            weights = [
                jnp.ones_like(v) if p[name].weights is None else p[name].weights
                for v, p in zip(values, parts, strict=True)
            ]
            total += (
                rate
                * sum(jnp.sum(v * w) for v, w in zip(values, weights, strict=True))
                / sum(jnp.sum(w) for w in weights)
            )
        return total

    with jax.enable_x64(True):
        value, grads = jax.jit(jax.value_and_grad(loss))(jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), PARAMS))
        return float(value), np.asarray(grads["w"])


def take_step(objective, accumulate, devices, **options):
    step = build_train_step(objective, SGD, loss_weights=RATES[objective], accumulate=accumulate)
    step = data_parallel(step, devices=jax.devices()[:devices], **options)
    state, metrics = step(create_state(PARAMS, SGD, key=0), BATCH)
    jax.block_until_ready(metrics["loss"])  # Steps in flight on more devices than cores can deadlock.
    return state, metrics


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("objective", "accumulate", "devices"),
    [
        *[(several, *split) for split in [(8, 1), (1, 2), (2, 4), (4, 2), (8, 8)]],
        *[(ordinary, *split) for split in [(1, 1), (1, 4), (4, 8)]],
        *[(statistics, *split) for split in [(1, 8), (4, 2)]],
        *[(contrastive, *split) for split in [(1, 8), (4, 4), (8, 2)]],
    ],
)
def test_equal_to_the_whole_batch(backend, objective, accumulate, devices):
    state, metrics = take_step(objective, accumulate, devices, **BACKENDS[backend])
    loss, grad = reference(objective, accumulate if objective in (contrastive, statistics) else 1)
    np.testing.assert_allclose(metrics["loss"][0], loss, rtol=3e-6)
    np.testing.assert_allclose(PARAMS["w"] - state.params["w"], grad, rtol=2e-5, atol=3e-6)
    np.testing.assert_allclose(metrics["grad_norm"][0], np.linalg.norm(grad), rtol=1e-5)
    if "square" in metrics:
        np.testing.assert_allclose(metrics["square"][1], BATCH["row"].sum())
    if objective is several:
        np.testing.assert_allclose(metrics["quartic"][1], BATCH["cell"].sum(), rtol=1e-6)
        np.testing.assert_allclose(metrics["decay"][0] / metrics["decay"][1], np.sum(PARAMS["w"] ** 2), rtol=1e-6)


def test_negatives_are_those_of_the_global_batch():
    """The contrastive cases can fail: with the negatives of one device or micro-batch only, the loss is another."""
    assert abs(reference(contrastive, 8)[0] / reference(contrastive, 1)[0] - 1) > 0.1


def test_canary_of_the_silent_factor(monkeypatch):
    """Parameters that are not marked as each device's own give, under check_vma=True, n times the gradient."""
    _, grad = reference(ordinary, 1)
    real = parallel._vary
    is_parameter = lambda leaf: leaf.shape == PARAMS["w"].shape  # noqa: E731

    def unmarked(leaf, axis_name):
        return leaf if is_parameter(leaf) and not seen.append(leaf) and len(seen) == 1 else real(leaf, axis_name)

    seen = []
    monkeypatch.setattr(parallel, "_vary", unmarked)
    state, _ = take_step(ordinary, 1, 8, backend="shard_map", check_vma=True)
    np.testing.assert_allclose(PARAMS["w"] - state.params["w"], 8 * grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_steps_of_adam_stay_together(backend):
    optimizer = optax.adamw(0.05)

    def losses(devices, accumulate, backend):
        step = build_train_step(several, optimizer, loss_weights=RATES[several], accumulate=accumulate, ema_decay=0.5)
        step = data_parallel(step, devices=jax.devices()[:devices], **BACKENDS[backend])
        state, seen = create_state(PARAMS, optimizer, key=0, ema=True), []
        for _ in range(5):
            state, metrics = step(state, BATCH)
            seen.append(float(metrics["loss"][0]))
        return seen, np.asarray(state.ema["w"])

    one, ema_of_one = losses(1, 1, "jit")
    many, ema_of_many = losses(4, 2, backend)
    assert one[-1] < one[0]
    np.testing.assert_allclose(many, one, rtol=1e-5)
    np.testing.assert_allclose(ema_of_many, ema_of_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_step(backend):
    step = data_parallel(build_eval_step(several, loss_weights=RATES[several]), **BACKENDS[backend])
    state = create_state(PARAMS, SGD, key=0)
    for _ in range(2):  # The state is not donated.
        metrics = jax.block_until_ready(step(state, BATCH))
    np.testing.assert_allclose(metrics["loss"][0], reference(several, 1)[0], rtol=3e-6)
    np.testing.assert_allclose(metrics["square"][1], BATCH["row"].sum())
    assert "grad_norm" not in metrics


@pytest.mark.parametrize("backend", BACKENDS)
def test_mutable_state_agrees(backend):
    def seen(params, batch, ctx):
        new = {
            "mean": ctx.state["mean"] + batch["x"].mean(0),
            "count": ctx.state["count"] + 1,
            "flag": ~ctx.state["flag"],
            "key": ctx.state["key"],
        }
        return {"one": penalty(jnp.sum(params["w"]))}, new

    initial = {"mean": np.zeros(4, np.float32), "count": 0, "flag": np.array(False), "key": jax.random.key(3)}
    step = data_parallel(build_train_step(seen, SGD, loss_weights={"one": 1.0}), **BACKENDS[backend])
    state = create_state(PARAMS, SGD, key=0, state=initial)
    for _ in range(3):
        state, metrics = step(state, BATCH)
        jax.block_until_ready(metrics["loss"])
    np.testing.assert_allclose(state.state["mean"], 3 * BATCH["x"].mean(0), rtol=1e-5, atol=1e-6)
    assert (int(state.state["count"]), bool(state.state["flag"])) == (3, True)
    assert jax.random.key_data(state.state["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_donation_takes_the_state_and_not_the_batch(backend):
    params = {"w": jnp.asarray(PARAMS["w"])}
    on_device = jax.device_put(BATCH)
    for donate in (True, False):
        step = build_train_step(ordinary, SGD, loss_weights=RATES[ordinary])
        step = data_parallel(step, donate=donate, **BACKENDS[backend])
        first = create_state(params, SGD, key=0)
        second, _ = jax.block_until_ready(step(first, BATCH))
        third, _ = jax.block_until_ready(step(second, on_device))
        assert second.params["w"].is_deleted() == donate
        assert not third.params["w"].is_deleted()
    np.testing.assert_array_equal(params["w"], PARAMS["w"])
    assert not on_device["x"].is_deleted()
    np.testing.assert_array_equal(on_device["x"], BATCH["x"])


def test_plain_state_on_all_devices_whatever_the_backend():
    for options in BACKENDS.values():
        state, metrics = take_step(ordinary, 1, 8, **options)
        assert state.params["w"].shape == (4, 3)
        assert state.params["w"].sharding.is_fully_replicated
        assert metrics["loss"][0].shape == ()


def test_jit_keeps_sharded_parameters_sharded():
    step = data_parallel(build_train_step(ordinary, SGD, loss_weights=RATES[ordinary]))
    mesh = jax.make_mesh((4, 2), ("rows", "rest"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    state = create_state(PARAMS, SGD, key=0)
    state = state.replace(params=jax.device_put(state.params, sharding))
    for _ in range(2):
        state, metrics = step(state, BATCH)
        jax.block_until_ready(metrics["loss"])
        assert state.params["w"].sharding == sharding
    expected, _ = take_step(ordinary, 1, 1)
    first, _ = data_parallel(build_train_step(ordinary, SGD, loss_weights=RATES[ordinary]))(
        create_state(PARAMS, SGD, key=0), BATCH
    )
    np.testing.assert_allclose(first.params["w"], expected.params["w"], rtol=1e-5, atol=1e-6)


def test_micro_batches_stay_spread_over_the_devices():
    """In the global view no row moves to another device: the program has no collective but sums."""
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    step = build_train_step(several, SGD, loss_weights=RATES[several], accumulate=4)
    state = jax.device_put(create_state(PARAMS, SGD, key=0), NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec("data")))
    text = jax.jit(step).lower(state, batch).compile().as_text()
    assert "all-reduce" in text
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))


def test_micro_batch_is_every_kth_row():
    split = parallel.micro_batches({"x": np.arange(12).reshape(6, 2)}, 3)["x"]
    assert split.tolist() == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("size", "devices", "accumulate", "message"),
    [
        (
            12,
            8,
            1,
            "batch of 12 does not divide evenly into 8 devices: .* multiple of 8, or change the number of devices",
        ),
        (16, 4, 8, "batch of 16 does not divide evenly into 4 devices x 8 micro-batches: .* multiple of 32"),
        (6, 1, 4, "batch of 6 does not divide evenly into 4 micro-batches: .* multiple of 4"),
        (0, 2, 1, "batch is empty"),
    ],
)
def test_a_batch_that_does_not_divide(backend, size, devices, accumulate, message):
    step = build_train_step(ordinary, SGD, loss_weights=RATES[ordinary], accumulate=accumulate)
    step = data_parallel(step, devices=jax.devices()[:devices], **BACKENDS[backend])
    state = create_state(PARAMS, SGD, key=0)
    with pytest.raises(UsageError, match=message):
        step(state, jax.tree.map(lambda x: x[:size], BATCH))
    assert not state.params["w"].is_deleted()


def test_unknown_backend():
    step = build_train_step(ordinary, SGD, loss_weights=RATES[ordinary])
    with pytest.raises(UsageError, match="'xmap' is unknown: choose one of 'jit', 'pmap', 'shard_map'"):
        data_parallel(step, "xmap")


@pytest.mark.parametrize("backend", BACKENDS)
def test_usage_errors_pass_through(backend):
    step = data_parallel(build_train_step(ordinary, SGD, loss_weights={"sqare": 1.0}), **BACKENDS[backend])
    with pytest.raises(UsageError, match="'sqare', but the objective's terms are 'square'"):
        step(create_state(PARAMS, SGD, key=0), BATCH)
