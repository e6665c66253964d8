import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import (
    Context,
    Term,
    UsageError,
    build_eval_step,
    build_train_step,
    create_state,
    data_parallel,
    ema_decay_schedule,
    penalty,
)

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(4, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
BATCH = {
    "x": RNG.normal(size=(16, 4)).astype(np.float32),
    "y": RNG.normal(size=(16, 3)).astype(np.float32),
    "row": np.arange(16) % 5 != 0,
    "cell": (RNG.random((16, 3)) * (RNG.random((16, 3)) < 0.5)).astype(np.float32),
}
SGD = optax.sgd(1.0)


def objective(params, batch, ctx):
    error = batch["x"] @ params["w"] + params["b"][None] - batch["y"]
    return {
        "square": Term(jnp.sum(error**2, axis=-1), batch["row"]),
        "quartic": Term(error**4, batch["cell"]),
        "decay": penalty(jnp.sum(params["w"] ** 2)),
        "size": Term(jnp.abs(error)),
    }


def by_hand(params, batch, rates):
    """Value and gradient of the objective in float64, from the formulas."""
    w, x = np.asarray(params["w"], np.float64), np.asarray(batch["x"], np.float64)
    error = x @ w + np.asarray(params["b"], np.float64) - batch["y"]
    row, cell = batch["row"].astype(np.float64), batch["cell"].astype(np.float64)
    loss = (
        rates["square"] * np.sum(row[:, None] * error**2) / row.sum()
        + rates["quartic"] * np.sum(cell * error**4) / cell.sum()
        + rates["decay"] * np.sum(w**2)
    )
    slope = rates["square"] * 2 * error * row[:, None] / row.sum() + rates["quartic"] * 4 * error**3 * cell / cell.sum()
    return loss, {"w": x.T @ slope + rates["decay"] * 2 * w, "b": slope.sum(0)}


RATES = {"square": 1.0, "quartic": 0.5, "decay": 0.01}


def start(optimizer=SGD, params=PARAMS, **fields):
    return create_state(params, optimizer, key=0, **fields)


def run(step, state, batch=BATCH, steps=1):
    for _ in range(steps):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics["loss"])
    return state, metrics


@pytest.mark.parametrize("accumulate", [1, 2, 4, 16])
def test_loss_and_gradient_are_those_of_the_whole_batch(accumulate):
    state = start()
    new, metrics = run(jax.jit(build_train_step(objective, SGD, loss_weights=RATES, accumulate=accumulate)), state)
    loss, grads = by_hand(PARAMS, BATCH, RATES)
    np.testing.assert_allclose(metrics["loss"], (loss, 1.0), rtol=2e-6)
    for name, grad in grads.items():
        np.testing.assert_allclose(PARAMS[name] - new.params[name], grad, rtol=2e-5, atol=2e-6)
    norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    np.testing.assert_allclose(metrics["grad_norm"], (norm, 1.0), rtol=2e-6)
    np.testing.assert_allclose(metrics["square"][1], BATCH["row"].sum())
    np.testing.assert_allclose(metrics["quartic"][1], BATCH["cell"].sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["size"][1], 48)
    assert set(metrics) == {"square", "quartic", "decay", "size", "loss", "grad_norm"}
    assert int(new.step) == 1


def test_averaging_micro_batches_would_be_wrong():
    """The test above can fail: with these masks the mean of the micro-batches' means is another number."""
    losses = [by_hand(PARAMS, jax.tree.map(lambda x, j=j: x[j::4], BATCH), RATES)[0] for j in range(4)]
    assert abs(np.mean(losses) / by_hand(PARAMS, BATCH, RATES)[0] - 1) > 0.01


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile()


def dot_count(executable):
    return len(re.findall(r"= \S+ dot\(", executable.as_text()))


def stateful(params, batch, ctx):
    hidden = jax.nn.relu(batch["x"] @ params["w"])
    centre = 0.9 * ctx.state["centre"] + 0.1 * hidden.mean(0)
    kept = jax.random.bernoulli(ctx.key, 0.9, hidden.shape)
    error = jnp.where(kept, hidden - centre[None], 0.0) @ params["v"] - batch["y"]
    confident = jax.lax.stop_gradient(jnp.abs(error[:, 0])) < 1
    terms = {"square": Term(jnp.sum(error**2, -1), batch["row"]), "confident": Term(error[:, 0], confident)}
    return terms, {"centre": centre, "seen": ctx.state["seen"] + 1}


def test_the_first_scan_is_stripped_of_the_model():
    """As many matrix products and as many FLOPs as a plain step, with dropout, state, and weights of a metric."""
    params = {"w": np.ones((32, 64), np.float32), "v": np.ones((64, 8), np.float32)}
    batch = {"x": np.ones((64, 32), np.float32), "y": np.ones((64, 8), np.float32), "row": np.ones(64, bool)}
    state = start(params=params, state={"centre": np.zeros(64, np.float32), "seen": 0})

    def plain(state, batch):
        def loss(params):
            ctx = Context(jax.random.fold_in(state.key, state.step), state.step, state=state.state)
            terms, new = stateful(params, batch, ctx)
            total, weight = terms["square"].sums()
            return total / weight, (terms["confident"].sums(), new)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return jax.tree.map(lambda p, g: p - g, state.params, grads), value, aux

    reference = compiled(plain, state, batch)
    assert dot_count(reference) == 5
    for accumulate in (1, 4):
        step = build_train_step(stateful, SGD, loss_weights={"square": 1.0}, accumulate=accumulate)
        program = compiled(step, state, batch)
        assert dot_count(program) == 5
        flops = accumulate * program.cost_analysis()["flops"]  # The body of a loop is counted once.
        np.testing.assert_allclose(flops, reference.cost_analysis()["flops"], rtol=0.15)


def test_the_count_above_sees_a_model_that_runs_twice():
    def twice(params, batch, ctx):
        terms, new = stateful(params, batch, ctx)
        return {"square": Term(terms["square"].values, terms["confident"].weights)}, new

    batch = {"x": np.ones((64, 32), np.float32), "y": np.ones((64, 8), np.float32), "row": np.ones(64, bool)}
    params = {"w": np.ones((32, 64), np.float32), "v": np.ones((64, 8), np.float32)}
    state = start(params=params, state={"centre": np.zeros(64, np.float32), "seen": 0})
    step = build_train_step(twice, SGD, loss_weights={"square": 1.0}, accumulate=4)
    assert dot_count(compiled(step, state, batch)) == 7


def test_loss_weights_may_be_schedules_of_the_step():
    rates = {"square": optax.linear_schedule(0.0, 1.0, 4), "decay": 0.5}
    step = jax.jit(build_train_step(objective, optax.sgd(0.0), loss_weights=rates))
    state = start(optax.sgd(0.0))
    losses = []
    for _ in range(4):
        state, metrics = run(step, state)
        losses.append(float(metrics["loss"][0]))
    square = np.sum(BATCH["row"][:, None] * (BATCH["x"] @ PARAMS["w"] - BATCH["y"]) ** 2) / BATCH["row"].sum()
    expected = [square * n / 4 + 0.5 * np.sum(PARAMS["w"] ** 2) for n in range(4)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert step._cache_size() == 1


@pytest.mark.parametrize("accumulate", [1, 4])
def test_keys_are_folded_by_step_micro_batch_and_device(accumulate):
    def draw(params, batch, ctx):
        return {"draw": Term(jax.random.uniform(ctx.key)), "one": penalty(params["w"].sum())}

    state = start()
    for devices in (1, 2):
        step = build_train_step(draw, SGD, loss_weights={"one": 0.0}, accumulate=accumulate)
        step = data_parallel(step, "shard_map", jax.devices()[:devices], donate=False)
        for number in (0, 3):
            _, metrics = run(step, state.replace(step=jnp.array(number, jnp.int32)))
            base, fold = jax.random.key(0), jax.random.fold_in
            keys = [fold(fold(fold(base, number), j), device) for j in range(accumulate) for device in range(devices)]
            expected = sum(float(jax.random.uniform(key)) for key in keys)
            np.testing.assert_allclose(metrics["draw"], (expected, len(keys)), rtol=1e-6)


def test_mutable_state_is_threaded_through_the_micro_batches():
    def seen(params, batch, ctx):
        new = {"centre": 0.5 * ctx.state["centre"] + batch["x"].mean(0), "count": ctx.state["count"] + 1}
        return {"square": Term(((batch["x"] - ctx.state["centre"][None]) @ params["w"]) ** 2, weights=1)}, new

    state = start(state={"centre": np.zeros(4, np.float32), "count": 0})
    step = jax.jit(build_train_step(seen, optax.sgd(0.0), loss_weights={"square": 1.0}, accumulate=4))
    new, metrics = run(step, state, steps=2)
    centre, total = np.zeros(4), 0.0
    for n in range(2):
        for j in range(4):
            total += n * np.sum(((BATCH["x"][j::4] - centre) @ PARAMS["w"]) ** 2)
            centre = 0.5 * centre + BATCH["x"][j::4].mean(0)
    np.testing.assert_allclose(new.state["centre"], centre, rtol=1e-5)
    assert int(new.state["count"]) == 8
    np.testing.assert_allclose(metrics["square"][0], total, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.9, ema_decay_schedule(0.5)])
def test_average_of_the_parameters(decay):
    step = jax.jit(build_train_step(objective, optax.sgd(0.01), loss_weights=RATES, ema_decay=decay))
    state, expected = start(ema=True), PARAMS["w"].astype(np.float64)
    for n in range(4):
        state, _ = run(step, state)
        now = 0.9 if decay == 0.9 else min(0.5, (1 + n) / (10 + n))
        expected = now * expected + (1 - now) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)


def test_context_carries_average_frozen_and_step():
    def look(params, batch, ctx):
        assert ctx.train
        values = {"ema": ctx.ema["w"].sum(), "frozen": ctx.frozen["t"], "step": ctx.step}
        return {name: Term(value) for name, value in values.items()} | {"one": penalty(params["w"].sum())}

    state = start(ema=True, frozen={"t": jnp.array(3.0)}).replace(step=jnp.array(7, jnp.int32))
    _, metrics = run(jax.jit(build_train_step(look, SGD, loss_weights={"one": 1.0})), state)
    values = [float(metrics[name][0]) for name in ("ema", "frozen", "step")]
    np.testing.assert_allclose(values, [PARAMS["w"].sum(), 3, 7], rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_term_without_weight_counts_nothing(accumulate):
    batch = BATCH | {"cell": np.zeros((16, 3), np.float32), "y": np.where(BATCH["row"][:, None], BATCH["y"], np.nan)}

    def masked(params, batch, ctx):
        terms = objective(params, batch | {"y": jnp.where(batch["row"][:, None], batch["y"], 0.0)}, ctx)
        hidden = jnp.where(batch["row"], terms["square"].values, jnp.nan)
        return {"square": Term(hidden, batch["row"]), "quartic": terms["quartic"]}

    step = jax.jit(build_train_step(masked, SGD, loss_weights={"square": 1.0, "quartic": 1.0}, accumulate=accumulate))
    new, metrics = run(step, start(), batch)
    valid = jax.tree.map(lambda x: x[BATCH["row"]], BATCH)
    loss, grads = by_hand(PARAMS, valid, {"square": 1.0, "quartic": 0.0, "decay": 0.0})
    np.testing.assert_allclose(metrics["loss"][0], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["quartic"], (0.0, 0.0))
    np.testing.assert_allclose(PARAMS["w"] - new.params["w"], grads["w"], rtol=1e-5, atol=1e-6)


def test_everything_masked_leaves_the_parameters():
    batch = BATCH | {"row": np.zeros(16, bool)}
    new, metrics = run(jax.jit(build_train_step(objective, SGD, loss_weights={"square": 1.0})), start(), batch)
    np.testing.assert_array_equal(new.params["w"], PARAMS["w"])
    assert (float(metrics["loss"][0]), float(metrics["grad_norm"][0])) == (0.0, 0.0)


def test_bfloat16_parameters_stay_so_and_gradients_add_up_in_float32():
    """Ones added 512 times: bfloat16 stops at 256."""
    step = build_train_step(
        lambda p, b, c: {"sum": Term(p["w"] * b["x"], weights=1)},
        optax.sgd(1.0),
        loss_weights={"sum": 512.0},
        accumulate=512,
    )
    state = start(params={"w": jnp.zeros((), jnp.bfloat16)})
    new, metrics = run(jax.jit(step), state, {"x": np.ones(512, np.float32)})
    assert new.params["w"].dtype == jnp.bfloat16
    assert (float(new.params["w"]), float(metrics["grad_norm"][0])) == (-512.0, 512.0)


def test_the_optimizer_is_told_the_loss():
    told = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(()), lambda updates, state, params=None, *, value, **_: (updates, value)
    )
    new, metrics = run(jax.jit(build_train_step(objective, told, loss_weights=RATES)), start(told))
    assert float(new.opt_state) == float(metrics["loss"][0])


def test_compiles_once():
    traces = []

    def counted(params, batch, ctx):
        traces.append(None)
        return objective(params, batch, ctx)

    optimizer = optax.adamw(0.1)
    step = build_train_step(counted, optimizer, loss_weights=RATES, accumulate=2, ema_decay=0.9)
    step = jax.jit(step, donate_argnums=0)
    state, _ = run(step, start(optimizer, ema=True))
    first = len(traces)
    run(step, state, steps=3)
    assert step._cache_size() == 1
    assert len(traces) == first


def test_called_directly():
    step = build_train_step(objective, SGD, loss_weights=RATES)
    _, metrics = run(step, start())
    np.testing.assert_allclose(metrics["loss"][0], by_hand(PARAMS, BATCH, RATES)[0], rtol=1e-6)


def test_linen_dropout_and_the_evaluation_step():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))

    net = Net()

    def dropped(params, batch, ctx):
        out = net.apply({"params": params}, batch["x"], ctx.train, rngs={"dropout": ctx.key})
        return {"square": Term(out[:, 0] ** 2, weights=1), "draw": Term(jax.random.uniform(ctx.key))}

    params = net.init(jax.random.key(0), BATCH["x"], False)["params"]
    state = start(params=params, ema=True).replace(ema=jax.tree.map(lambda x: 2 * x, params))
    expected = np.mean(np.square(BATCH["x"] @ np.asarray(params["Dense_0"]["kernel"])))
    plain = jax.jit(build_eval_step(dropped))(state, BATCH)
    assert set(plain) == {"square", "draw"}
    np.testing.assert_allclose(plain["square"][0] / plain["square"][1], expected, rtol=1e-5)
    averaged = jax.jit(build_eval_step(dropped, loss_weights={"square": 0.5}, use_ema=True))(state, BATCH)
    np.testing.assert_allclose(averaged["loss"], (0.5 * 4 * expected, 1.0), rtol=1e-5)
    _, trained = run(jax.jit(build_train_step(dropped, SGD, loss_weights={"square": 1.0})), state)
    assert abs(float(trained["square"][0]) / 16 / expected - 1) > 0.01


# What the user can mend


@pytest.mark.parametrize(
    ("arguments", "batch", "message"),
    [
        ({"loss_weights": {"sqare": 1.0}}, BATCH, "'sqare', but the objective's terms are 'decay', 'quartic', 'size'"),
        ({"accumulate": 3}, BATCH, "a batch of 16 does not divide evenly into 3 micro-batches: .* multiple of 3"),
        ({"accumulate": 5}, BATCH, "a batch of 16 .* 5 micro-batches"),
        ({"ema_decay": 0.9}, BATCH, r"create_state\(\.\.\., ema=True\)"),
        ({}, BATCH | {"x": np.ones((8, 4), np.float32)}, r"same leading axis.*\(8, 4\)"),
        ({}, BATCH | {"n": np.float32(1)}, "same leading axis"),
        ({}, {}, "same leading axis"),
    ],
)
def test_arguments_that_do_not_fit(arguments, batch, message):
    step = build_train_step(objective, SGD, **{"loss_weights": RATES} | arguments)
    with pytest.raises(UsageError, match=message):
        jax.jit(step)(start(), batch)


def test_arguments_that_never_fit():
    with pytest.raises(UsageError, match="at least one term"):
        build_train_step(objective, SGD, loss_weights={})
    with pytest.raises(UsageError, match="expected accumulate as a whole number"):
        build_train_step(objective, SGD, loss_weights=RATES, accumulate=0)
    with pytest.raises(UsageError, match="ema=True"):
        jax.jit(build_eval_step(objective, use_ema=True))(start(), BATCH)
    with pytest.raises(UsageError, match="'sqare'"):
        jax.jit(build_eval_step(objective, loss_weights={"sqare": 1.0}))(start(), BATCH)
