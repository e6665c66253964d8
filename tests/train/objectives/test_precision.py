"""Precision: types where they belong, gradients that float16 cannot hold, and a loss scale that finds itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import (
    BadSteps,
    Checkpointer,
    Context,
    LossScale,
    LossScaling,
    Precision,
    RunFailed,
    Term,
    UsageError,
    build_eval_step,
    build_train_step,
    create_state,
    data_parallel,
    fit,
    make_precision,
    means,
    skip_nonfinite,
)

SGD = optax.sgd(1.0)  # Parameters before minus parameters after are the gradient.
BACKENDS = {
    "jit": {"backend": "jit"},
    "pmap": {"backend": "pmap"},
    "shard_map": {"backend": "shard_map", "check_vma": True},
    "shard_map unchecked": {"backend": "shard_map", "check_vma": False},
}


def float16(**scaling):
    return Precision(compute="float16", scaling=LossScaling(**scaling))


def build(objective, precision, optimizer=SGD, **options):
    step = build_train_step(precision.wrap(objective), optimizer, loss_weights={"loss_": 1.0}, **options)
    return precision.scaled(skip_nonfinite(step))


def start(params, precision, optimizer=SGD, **options):
    return create_state(params, optimizer, key=0, loss_scale=precision.loss_scale(), **options)


def network(params, batch, ctx):
    hidden = jnp.tanh(batch["x"] @ params["first"])
    return {"loss_": Term((hidden @ params["second"] - batch["y"]) ** 2, batch["weight"])}


def network_state():
    rng = np.random.default_rng(0)
    params = {"first": rng.normal(size=(5, 16)) / 2, "second": rng.normal(size=16) / 4}
    batch = {"x": rng.normal(size=(64, 5)), "y": rng.normal(size=64), "weight": rng.random(64)}
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), (params, batch))


def gradient_of(precision, objective, params, batch):
    """By one step of plain descent."""
    state = start(params, precision)
    after, metrics = jax.jit(build(objective, precision))(state, batch)
    return jax.tree.map(lambda old, new: np.asarray(old - new), state.params, after.params), after, metrics


@pytest.mark.parametrize(("name", "epsilon"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_gradients_are_those_of_float32_within_the_type(name, epsilon):
    params, batch = network_state()
    exact, _, metrics = gradient_of(make_precision("float32"), network, params, batch)
    loss = means(metrics)["loss"]
    rounded, state, metrics = gradient_of(make_precision(name), network, params, batch)
    for leaf in jax.tree.leaves((state.params, state.opt_state, rounded)):
        assert leaf.dtype == np.float32
    size, difference = (
        np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
        for tree in (exact, jax.tree.map(np.subtract, exact, rounded))
    )
    assert epsilon / 20 < difference / size < 4 * epsilon  # it is that type, and no worse
    assert means(metrics)["loss"] == pytest.approx(loss, rel=4 * epsilon)
    assert np.isfinite(means(metrics)["grad_norm"])


def test_float32_is_what_it_is_without_a_policy():
    params, batch = network_state()
    plain = jax.jit(skip_nonfinite(build_train_step(network, SGD, loss_weights={"loss_": 1.0})))
    plain, _ = plain(create_state(params, SGD, key=0), batch)
    _, wrapped, _ = gradient_of(make_precision("float32"), network, params, batch)
    jax.tree.map(np.testing.assert_array_equal, wrapped.params, plain.params)


def test_what_an_objective_sees():
    def types(tree):
        return jax.tree.map(lambda leaf: str(jnp.result_type(leaf)), tree)

    seen = {}

    def objective(params, batch, ctx):
        seen.update(params=types(params), batch=types(batch), ema=types(ctx.ema), frozen=types(ctx.frozen))
        seen.update(state=types(ctx.state))
        new = {"mean": jnp.mean(batch["x"]), "count": ctx.state["count"] + 1}
        return {"loss_": Term(params["w"] * batch["x"], batch["weights"]), "hits": Term(batch["label"] > 0)}, new

    precision = Precision(compute="bfloat16", keep="weights|norm")
    params = {"w": jnp.ones(()), "norm": jnp.ones(()), "steps": jnp.int32(3)}
    batch = {"x": jnp.ones(2), "label": jnp.array([0, 1]), "weights": jnp.ones(2)}
    ctx = Context(
        jax.random.key(0),
        jnp.int32(0),
        ema={"w": jnp.ones(())},
        frozen={"teacher": jnp.ones(()), "key": jax.random.key(1)},
        state={"mean": jnp.zeros(()), "count": jnp.int32(0)},
    )
    terms, new = precision.wrap(objective)(params, batch, ctx)
    assert seen == {
        "params": {"w": "bfloat16", "norm": "float32", "steps": "int32"},
        "batch": {"x": "bfloat16", "label": "int32", "weights": "float32"},
        "ema": {"w": "bfloat16"},
        "frozen": {"teacher": "bfloat16", "key": "key<fry>"},
        "state": {"mean": "float32", "count": "int32"},
    }
    assert types(new) == {"mean": "float32", "count": "int32"}
    assert [terms[name].sums()[0].dtype for name in ("loss_", "hits")] == [jnp.float32, jnp.float32]
    assert float(terms["hits"].sums()[0]) == 1
    assert types(Precision(params="bfloat16").cast_params(params)) == {
        "w": "bfloat16",
        "norm": "bfloat16",
        "steps": "int32",
    }


SMALL = 2.0**-30


def product(params, batch, ctx):
    """Mean of `slope * w * x`: its gradient for w = 1 is the mean of `slope * x`."""
    return {"loss_": Term((params * batch["x"]).astype(jnp.float32) * batch["slope"].astype(jnp.float32), weights=1)}


def product_batch(slope):
    return {"x": np.full(8, 1.5, np.float32), "slope": np.full(8, slope, np.int32)}


def tiny(params, batch, ctx):
    return {"loss_": Term((params * batch["x"]).astype(jnp.float32) * SMALL, weights=1)}


def test_a_gradient_that_float16_cannot_hold_comes_through_scaled():
    # d/dw of w x 2^-30 is x 2^-30 = 1.5 * 2^-30 = 1.4e-9, and float16 ends at 2^-24 = 6e-8.
    params, batch = np.float32(0), product_batch(1)
    unscaled, _, _ = gradient_of(Precision(compute="float16"), tiny, params, batch)
    assert unscaled == 0
    for initial in (2.0**10, 2.0**15):
        scaled, _, metrics = gradient_of(float16(initial=initial), tiny, params, batch)
        assert scaled == 1.5 * SMALL
        assert metrics["grad_norm"][0] == 1.5 * SMALL  # unscaled before anybody looks at it
        assert metrics["loss_scale"][0] == initial
    clipped = optax.chain(optax.clip_by_global_norm(SMALL), optax.sgd(1.0))
    state, _ = jax.jit(build(tiny, float16(), clipped))(start(params, float16(), clipped), batch)
    assert float(state.params) == pytest.approx(-SMALL, rel=1e-6)  # unscaled before it is clipped


def test_the_scale_finds_itself():
    # A gradient of 16 times 2^15, 2^14, 2^13, 2^12 exceeds 65504; times 2^11 it fits. Row by row the gradient is
    # 16 * 1.5 * scale / 8, and their sum 24 * scale, so 2^11 is the largest scale (49152).
    precision = float16(growth_interval=3)
    step, state = jax.jit(build(product, precision)), start(np.float32(0), precision)
    scales, overflows, params = [], [], []
    for _ in range(14):
        state, metrics = step(state, product_batch(16))
        scales.append(float(np.log2(metrics["loss_scale"][0])))
        overflows.append(int(metrics["overflow"][0]))
        assert metrics["skipped"][0] == metrics["overflow"][0]
        params.append(float(state.params))
    assert scales == [15, 14, 13, 12, 11, 11, 11, 12, 11, 11, 11, 12, 11, 11]
    assert overflows == [1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    updates = np.cumsum(1 - np.array(overflows))
    assert params == (-24.0 * updates).tolist()
    assert int(state.step) == 14
    assert (float(state.loss_scale.scale), int(state.loss_scale.good_steps)) == (2.0**11, 2)


def test_the_scale_stays_within_its_limits():
    precision = float16(initial=2.0, growth_interval=1, largest=4.0)
    step, state = jax.jit(build(product, precision)), start(np.float32(0), precision)
    for _ in range(3):
        state, metrics = step(state, product_batch(1))
    assert float(metrics["loss_scale"][0]) == float(state.loss_scale.scale) == 4


def test_overflows_are_no_bad_numbers_until_the_scale_is_at_its_floor():
    precision = float16(initial=4.0, smallest=1.0)
    step, bad_steps = jax.jit(build(product, precision)), BadSteps(max_consecutive_bad=5)
    batches = [product_batch(2**17)] * 6  # too large even unscaled
    state = fit(start(np.float32(0), precision), step, batches, steps=6, bad_steps=bad_steps)
    assert float(state.loss_scale.scale) == 1
    assert (bad_steps.total, bad_steps.consecutive) == (4, 4)  # after the overflows at 4 and at 2
    assert float(state.params) == 0
    # Without bad_steps an overflow is no error either, but what is left at the floor is.
    fit(start(np.float32(0), precision), step, batches[:2], steps=2)
    with pytest.raises(RunFailed, match="grad_norm not finite at step 3"):
        fit(start(np.float32(0), precision), step, batches, steps=3)


def test_a_loss_that_is_not_finite_is_bad_and_leaves_the_scale_alone():
    precision = float16()
    step, bad_steps = jax.jit(build(product, precision)), BadSteps()
    batch = product_batch(1) | {"x": np.full(8, np.nan, np.float32)}
    state = fit(start(np.float32(0), precision), step, [product_batch(1), batch], steps=2, bad_steps=bad_steps)
    assert bad_steps.total == 1
    assert (float(state.loss_scale.scale), int(state.loss_scale.good_steps)) == (2.0**15, 1)


def test_checks_take_no_overflow_for_an_error():
    precision = float16()
    step = data_parallel(build(product, precision, checks=True), devices=jax.devices()[:1])
    state, metrics = step(start(np.float32(0), precision), product_batch(16))
    assert metrics["overflow"][0] == 1
    with pytest.raises(RunFailed, match="term 'loss_' has 8 value"):
        step(state, product_batch(16) | {"x": np.full(8, np.nan, np.float32)})


def whole_numbers(params, batch, ctx):
    """Numbers so small that float16 makes no error, whatever the order of the sums."""
    error = batch["x"] @ params["w"] - batch["y"]
    return {"loss_": Term(error**2 / 2, batch["valid"])}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("devices", "accumulate"), [(8, 1), (2, 4), (8, 2)])
def test_the_split_of_a_batch_changes_nothing(backend, devices, accumulate):
    rng = np.random.default_rng(1)
    batch = {
        "x": rng.integers(-2, 3, (32, 4)).astype(np.float32),
        "y": rng.integers(-3, 4, 32).astype(np.float32),
        "valid": (np.arange(32) % 4 != 0) & (np.arange(32) > 2) & ((np.arange(32) < 16) | (np.arange(32) >= 24)),
    }
    assert batch["valid"].sum() == 16  # a power of two, so that the mean is exact as well; some devices have none
    params = {"w": np.array([1, -1, 2, 0], np.float32)}
    x, y, valid = batch["x"], batch["y"], batch["valid"]
    gradient = (x[valid] * (x[valid] @ params["w"] - y[valid])[:, None]).sum(0) / 16
    for first, overflows in [(2.0**24, 1), (2.0**4, 0)]:
        precision = float16(initial=first, factor=2.0**20)
        step = data_parallel(
            build(whole_numbers, precision, accumulate=accumulate),
            devices=jax.devices()[:devices],
            **BACKENDS[backend],
        )
        state = start(params, precision)
        for number in range(overflows + 1):
            state, metrics = step(state, batch)
            assert int(metrics["overflow"][0]) == (number < overflows), state.loss_scale
        np.testing.assert_array_equal(state.params["w"], params["w"] - gradient)
        assert float(state.loss_scale.scale) == 2.0**4


def test_the_loss_scale_is_saved_and_goes_on(tmp_path):
    optimizer, precision = optax.adam(0.1), float16(growth_interval=3)
    step = jax.jit(build(product, precision, optimizer))

    class Data:
        position = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.position += 1
            return product_batch(self.position)

        def get_state(self):
            return self.position

        def set_state(self, position):
            self.position = position

    def run(folder, steps, scale=None):
        data, state = Data(), start(np.float32(0.5), precision, optimizer)
        with Checkpointer(folder, every=100, iterator=data) as checkpointer:
            state = checkpointer.restore_latest(state) or state
            return fit(state, step, data, steps=steps, hooks=[checkpointer], bad_steps=BadSteps())

    whole = run(tmp_path / "whole", 17)
    for steps in (2, 9, 10, 17):  # within the overflows of the start, and within rows of good steps
        parts = run(tmp_path / "parts", steps)
    assert 0 < int(parts.loss_scale.good_steps) < 3
    assert [
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((parts.params, parts.opt_state, parts.loss_scale))
    ] == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((whole.params, whole.opt_state, whole.loss_scale))]


def test_evaluation_needs_no_scale():
    precision = float16()
    step = build_eval_step(precision.wrap(product), loss_weights={"loss_": 1.0})
    metrics = jax.jit(step)(start(np.float32(2), precision), product_batch(3))
    assert means(metrics)["loss"] == 9  # 2 * 1.5 * 3


def test_forward_mode_and_second_derivatives_are_left_alone():
    wrapped = float16().wrap(lambda params, batch, ctx: {"loss_": Term(params**2)})
    ctx = Context(jax.random.key(0), jnp.int32(0), loss_scale=LossScale(jnp.float32(2.0**10), jnp.int32(0)))

    def loss(params):
        return wrapped(params, {}, ctx)["loss_"].sums()[0]

    assert jax.grad(loss)(3.0) == 6
    assert jax.jvp(loss, (3.0,), (1.0,))[1] == 6
    assert jax.grad(jax.grad(loss))(3.0) == 2


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match=r"precision .*float8|float8.* precision"):
        make_precision("float8")
    with pytest.raises(UsageError, match="compute is 'int8': give the name of a type of real numbers"):
        Precision(compute="int8")
    with pytest.raises(UsageError, match="output is bfloat16: losses are summed in float32 or wider"):
        Precision(output="bfloat16")
    with pytest.raises(UsageError, match="is not a regular expression"):
        Precision(keep="(")
    with pytest.raises(UsageError, match="powers of two"):
        LossScaling(initial=3.0)
    with pytest.raises(UsageError, match="smallest <= initial <= largest"):
        LossScaling(initial=2.0, smallest=4.0)
    precision = float16()
    with pytest.raises(UsageError, match="the state has no loss scale"):
        jax.eval_shape(build(product, precision), create_state(np.float32(0), SGD, key=0), product_batch(1))
    step = build_train_step(precision.wrap(product), SGD, loss_weights={"loss_": 1.0})
    with pytest.raises(UsageError, match="give skip_nonfinite"):
        jax.eval_shape(precision.scaled(step), start(np.float32(0), precision), product_batch(1))
