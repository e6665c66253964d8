"""SAM, Sophia, Lookahead, schedule-free averages, plateaus, proximal steps: in formulas, and in a step on devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.support.batches import BACKENDS, BATCH, PARAMS, ordinary
from tests.train.support.optimizer_oracles import (
    PLAIN,
    RATE,
    expected,
    gradients,
    parameters,
    run,
    run_with_states,
    to_jax,
)
from train import Checkpointer, Term, build_eval_step, build_train_step, create_state, data_parallel, penalty
from train.errors import UsageError
from train.optimizers import OptimizerConfig, ema_decay_schedule, evaluation_params, make_optimizer
from train.optimizers.wrappers import hutchinson, sharpness_aware

STEPS = 3


def gradient_of_ordinary(w):
    """Of the mean of `ordinary` over its valid rows, in float64."""
    x, y, row = (np.asarray(BATCH[name], np.float64) for name in ("x", "y", "row"))
    out = np.tanh(x @ w)
    return x.T @ (2 * (out - y) * (1 - out**2) * row[:, None]) / row.sum()


def train(config, backend=None, devices=1, accumulate=1, steps=STEPS, batch=BATCH, **kwargs):
    """The state after some steps; on one device without `data_parallel` if no backend is named."""
    optimizer = make_optimizer(config, 10)
    step = build_train_step(ordinary, optimizer, loss_weights={"square": 1.0}, accumulate=accumulate, **kwargs)
    compiled = jax.jit(step) if backend is None else None
    if backend is not None:
        compiled = data_parallel(step, **BACKENDS[backend], devices=jax.devices()[:devices])
    state = create_state(PARAMS, optimizer, key=0, ema="ema_decay" in kwargs)
    for _ in range(steps):
        state, _ = compiled(state, batch)
    return state


@pytest.mark.parametrize("backend", BACKENDS)
def test_sam_climbs_by_the_gradient_of_the_global_batch(backend):
    config = OptimizerConfig(name="momentum", learning_rate=0.05, schedule="constant", sam_radius=0.5, clip_norm=1.0)
    state = train(config, backend, devices=4, accumulate=2)
    w, m = np.asarray(PARAMS["w"], np.float64), 0.0
    for _ in range(STEPS):
        g = gradient_of_ordinary(w)
        g = gradient_of_ordinary(w + 0.5 * g / np.linalg.norm(g))
        m = 0.9 * m + g / max(1.0, np.linalg.norm(g))
        w = w - 0.05 * m
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5, atol=1e-6)
    assert np.abs(train(replace(config, sam_radius=None)).params["w"] - w).max() > 1e-3


@pytest.mark.parametrize("size", [1e20, 1.0, 1e-25])
def test_sam_climbs_as_far_with_gradients_of_any_size(size):
    seen = []
    optimizer, w = sharpness_aware(optax.sgd(0.5), 0.5), jnp.ones(2)
    optimizer.update(jnp.array([3.0, 4.0]) * size, optimizer.init(w), w, grad_fn=lambda w: seen.append(w) or w)
    np.testing.assert_allclose(seen[0], [1.3, 1.4], rtol=1e-6)


def test_sam_stays_where_the_gradient_is_0_and_says_what_it_needs():
    optimizer = sharpness_aware(optax.sgd(0.5), 0.1)
    w = jnp.ones(2)
    updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(w), w, grad_fn=lambda w: w)
    np.testing.assert_allclose(updates, -0.5)
    for needy, name in ((optimizer, "sam_radius"), (hutchinson(), "sophia")):
        with pytest.raises(UsageError, match=f"{name} needs grad_fn="):
            needy.update(w, needy.init(w), w)


def signs_of_first_estimate():
    key = jax.random.fold_in(jax.random.key(0), 0)
    return np.asarray(optax.tree.random_like(key, to_jax(PARAMS), jax.random.rademacher)["w"], np.float64)


@pytest.mark.parametrize("backend", ["jit", "pmap", "shard_map"])
def test_sophia_estimates_the_curvature_of_the_global_batch(backend):
    config = OptimizerConfig(name="sophia", learning_rate=0.01, schedule="constant", sophia_every=2, sophia_gamma=10.0)
    state = train(config, backend, devices=4, accumulate=2, steps=2)
    s, w = signs_of_first_estimate(), np.asarray(PARAMS["w"], np.float64)
    assert set(np.unique(s)) == {-1.0, 1.0}
    product = (gradient_of_ordinary(w + 1e-5 * s) - gradient_of_ordinary(w - 1e-5 * s)) / 2e-5
    np.testing.assert_allclose(optax.tree.get(state.opt_state, "nu")["w"], 0.01 * s * product, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.params["w"], sophia_after_two_steps(0.01 * s * product), rtol=1e-5, atol=1e-6)


def sophia_after_two_steps(curvature):
    w, m = np.asarray(PARAMS["w"], np.float64), 0.0
    for _ in range(2):
        m = 0.965 * m + 0.035 * gradient_of_ordinary(w)
        u = np.clip(m / np.maximum(10.0 * curvature, 1e-12), -1, 1)
        w = w - 0.01 * (u + 0.01 * w)
    return w


def test_curvature_and_sharpness_leave_frozen_parameters_out():
    params = {"free": np.array([[1.0, 2.0]]), "held": np.array([[3.0, 4.0]])}

    def gradient(p):  # of (|free|^2 + 10 |held|^2 + free * held) / 2
        return {"free": p["free"] + p["held"] / 2, "held": 10 * p["held"] + p["free"] / 2}

    for kwargs in ({"name": "sgd", "sam_radius": 0.5}, {"name": "sophia", "weight_decay": 0.0, "sophia_gamma": 50.0}):
        config = OptimizerConfig(learning_rate=RATE, schedule="constant", freeze="held", **kwargs)
        optimizer = make_optimizer(config, 10, params)
        start = to_jax(params)
        updates, state = optimizer.update(gradient(start), optimizer.init(start), start, grad_fn=gradient)
        np.testing.assert_array_equal(updates["held"], 0.0)
        assert all(np.shape(leaf) != () or leaf.dtype == np.int32 for leaf in jax.tree.leaves(state))
        g = gradient(params)["free"]
        if "sam_radius" in kwargs:  # One half uphill in the free ones alone.
            right = g + 0.5 * g / np.linalg.norm(g)
            np.testing.assert_allclose(updates["free"], -RATE * right, rtol=1e-6)
        else:
            np.testing.assert_allclose(jax.tree.leaves(optax.tree.get(state, "nu"))[0], 0.01, rtol=1e-5)


def test_lookahead_follows_the_paper_and_evaluates_the_slow_weights():
    config = OptimizerConfig(
        name="adamw", learning_rate=RATE, schedule="constant", lookahead_every=3, lookahead_rate=0.4
    )
    params = parameters()
    grads = gradients(params, 7)
    for key, w in params.items():
        decay, slow, history = (0.01 if w.ndim == 2 else 0.0), w, []
        fast, m, v = w, 0.0, 0.0
        for t, tree in enumerate(grads, start=1):
            g = tree[key]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            fast = fast - RATE * (u + decay * fast)
            if t % 3 == 0:
                slow = fast = slow + 0.4 * (fast - slow)
            history.append((fast, slow))
        ours = run_with_states(config, params, grads)
        for (got, state), (want_fast, want_slow) in zip(ours, history, strict=True):
            np.testing.assert_allclose(got[key], want_fast, rtol=2e-5, atol=2e-6)
            found = evaluation_params(create_state(got, optax.identity(), key=0).replace(opt_state=state))
            np.testing.assert_allclose(found[key], want_slow, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_schedule_free_evaluates_the_average(name):
    params = parameters()
    grads = gradients(params, 6)
    config = OptimizerConfig(name=name, learning_rate=RATE, schedule="constant", weight_decay=0.1, b1=0.7)
    right = expected(name, params, grads, 0.1, b1=0.7, averages=True)
    for (got, state), want in zip(run_with_states(config, params, grads), right, strict=True):
        found = evaluation_params(create_state(got, optax.identity(), key=0).replace(opt_state=state))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-6), found, want)


def test_schedule_free_averages_at_the_rate_of_each_parameter():
    config = OptimizerConfig(
        name="schedule_free_sgd", learning_rate=RATE, schedule="constant", overrides={"kernel": {"rate_factor": 0.5}}
    )
    params = parameters()
    grads = gradients(params, 3)
    halved = [{**g, "kernel": g["kernel"] / 2} for g in grads]
    right = run(replace(config, overrides={}), params, halved)[-1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), run(config, params, grads)[-1], right)


def test_schedule_free_weighs_the_steps_of_a_warm_up_by_their_rates():
    config = OptimizerConfig(name="schedule_free_sgd", learning_rate=1.0, schedule="constant", warmup=4)
    rng = np.random.default_rng(0)
    grads = [{"w": rng.normal(size=3)} for _ in range(6)]
    ours = run(config, {"w": np.ones(3)}, grads)
    x = y = z = np.ones(3)
    total = 0.0
    for t, g in enumerate(grads):
        rate = min(t / 4, 1.0)
        z, total = z - rate * g["w"], total + rate**2
        share = rate**2 / total if total else 0.0
        x = (1 - share) * x + share * z
        y = 0.1 * z + 0.9 * x
        np.testing.assert_allclose(ours[t]["w"], y, rtol=1e-5, atol=1e-6)


def test_an_evaluation_step_a_checkpoint_and_an_average_know_the_weights_that_count(tmp_path):
    config = OptimizerConfig(name="schedule_free_adamw", learning_rate=0.1, schedule="constant")
    looking = OptimizerConfig(name="adamw", learning_rate=0.1, schedule="constant", lookahead_every=5, freeze="held")
    for number, chosen in enumerate((config, looking)):
        held = {"held": jnp.arange(3.0)} if chosen.freeze else {}
        params, optimizer = {**PARAMS, **held}, make_optimizer(chosen, 10)
        warming = ema_decay_schedule(0.3)
        step = jax.jit(build_train_step(ordinary, optimizer, loss_weights={"square": 1.0}, ema_decay=warming))
        state = create_state(params, optimizer, key=0, ema=True)
        average = PARAMS["w"]
        for t in range(4):
            state, _ = step(state, BATCH)
            decay = min(0.3, (1 + t) / (10 + t))
            average = decay * average + (1 - decay) * state.params["w"]
        np.testing.assert_allclose(state.ema["w"], average, rtol=1e-6, atol=1e-7)
        found = evaluation_params(state)
        assert np.abs(found["w"] - state.params["w"]).max() > 1e-2
        if chosen.freeze:
            np.testing.assert_array_equal(found["held"], state.params["held"])
            np.testing.assert_array_equal(found["w"], PARAMS["w"])  # The slow weights move at the fifth step.
        evaluate = build_eval_step(ordinary)
        there = evaluate(state.replace(params=found, opt_state=()), BATCH)["square"][0]
        assert float(evaluate(state, BATCH)["square"][0]) == float(there)
        averaged = build_eval_step(ordinary, use_ema=True)(state, BATCH)["square"][0]
        assert float(averaged) == float(evaluate(state.replace(params=state.ema, opt_state=()), BATCH)["square"][0])
        with Checkpointer(tmp_path / str(number), every=1) as checkpoints:
            checkpoints(4, state, {})
            restored = checkpoints.restore_latest(create_state(params, optimizer, key=1, ema=True))
        jax.tree.map(np.testing.assert_array_equal, evaluation_params(restored), found)
        for after in (step(state, BATCH)[0], step(restored, BATCH)[0]):
            np.testing.assert_array_equal(after.params["w"], step(state, BATCH)[0].params["w"])


def test_the_average_of_a_schedule_free_run_is_the_same_on_all_devices():
    config = OptimizerConfig(name="schedule_free_sgd", learning_rate=0.05, schedule="constant", warmup=2)
    alone = evaluation_params(train(config))["w"]
    many = evaluation_params(train(config, "shard_map", devices=8, accumulate=2))["w"]
    np.testing.assert_allclose(many, alone, rtol=1e-5, atol=1e-6)


def plateau_scales(values, factor, window, patience, cooldown, tolerance, least):
    best, bad, resting, scale = np.inf, 0, 0, 1.0
    for start in range(0, len(values), window):
        part = values[start : start + window]
        if len(part) == window:
            mean = np.mean(part)
            better = mean < (1 - tolerance) * best
            best, bad = (mean, 0) if better else (best, bad + 1)
            if resting:
                bad, resting = 0, resting - 1
            elif bad == patience:
                scale, bad, resting = max(scale * factor, least), 0, cooldown
        # The window's last step is the first to have the new rate.
        yield from [None] * (len(part) - 1) + [scale]


def test_a_plateau_lowers_the_rate():
    values = [4.0, 2.0, 3.0, 1.0, 2.0, 2.0, 1.0, 3.0, 2.0, 2.5, 2.0, 2.0, 1.9995, 2.0, 5.0, 5.0, 0.1, 0.1, 1.0, 1.0]
    config = replace(PLAIN, plateau_factor=0.5, plateau_window=2, plateau_patience=2, plateau_minimum=0.3)
    for cooldown in (0, 1):
        settings = replace(config, plateau_cooldown=cooldown)
        grads = [{"w": np.ones(1)}] * len(values)
        history = [0.0] + [float(p["w"][0]) for p in run(settings, {"w": np.zeros(1)}, grads, values=values)]
        rates = -np.diff(history) / RATE
        right, scale = [], 1.0
        for new in plateau_scales(values, 0.5, 2, 2, cooldown, 1e-4, 0.3):
            scale = scale if new is None else new
            right.append(scale)
        np.testing.assert_allclose(rates, right, rtol=1e-4)
        assert min(right) == (0.3 if cooldown == 0 else 0.5)


def test_a_plateau_is_counted_in_float32_and_alike_on_all_devices():
    config = replace(PLAIN, learning_rate=1e-3, plateau_factor=0.5, plateau_window=1, plateau_patience=1)
    config = replace(config, plateau_tolerance=0.5)
    alone = train(config, steps=4)
    assert float(optax.tree.get(alone.opt_state, "scale")) == 0.125
    many = train(config, "shard_map", devices=8, steps=4)
    assert float(optax.tree.get(many.opt_state, "scale")) == 0.125
    np.testing.assert_allclose(many.params["w"], alone.params["w"], rtol=1e-6, atol=1e-7)
    optimizer = make_optimizer(config, 10)
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = optimizer.init(params)
    assert optax.tree.get(state, "best_value").dtype == jnp.float32
    assert optimizer.update(params, state, params, value=jnp.float32(1.0))[0]["w"].dtype == jnp.bfloat16


def soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


def test_a_proximal_step_makes_exact_zeros_at_the_rate_of_each_parameter():
    params = {"layer_0": {"kernel": np.array([[1.0, 0.05, -0.3]])}, "head": {"kernel": np.array([[0.03, -2.0]])}}
    params["head"]["bias"] = np.array([0.01])
    config = OptimizerConfig(name="momentum", learning_rate=0.2, schedule="linear", proximal_l1=0.5, layer_decay=0.5)
    config = replace(
        config, plateau_factor=0.5, plateau_window=1, plateau_patience=1, overrides={"head": {"rate_factor": 2.0}}
    )
    grads = [jax.tree.map(lambda p, t=t: np.random.default_rng(t).normal(size=p.shape) / 20, params) for t in range(4)]
    ours = run(config, params, grads, total_steps=8, values=[1.0, 1.0, 0.5, 0.4])
    # From the second step on the rate is halved: its loss was no better.
    rates = [0.2 * (1 - t / 8) * (1.0 if t == 0 else 0.5) for t in range(4)]
    for path, factor, threshold in (
        (("layer_0", "kernel"), 0.5, 0.5),
        (("head", "kernel"), 2.0, 0.5),
        (("head", "bias"), 2.0, 0.0),
    ):
        w, m = params[path[0]][path[1]], 0.0
        for t, rate in enumerate(rates):
            m = 0.9 * m + grads[t][path[0]][path[1]]
            w = soft(w - rate * factor * m, rate * factor * threshold)
            np.testing.assert_allclose(ours[t][path[0]][path[1]], w, rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(np.asarray(ours[t][path[0]][path[1]]) == 0, w == 0)
    assert np.sum(np.asarray(ours[-1]["layer_0"]["kernel"]) == 0) == 1
    assert np.sum(np.asarray(ours[-1]["head"]["kernel"]) == 0) == 1


def test_centralised_gradients_have_no_mean_over_the_inputs():
    rng = np.random.default_rng(0)
    shapes = {"dense": (5, 3), "query": (8, 2, 4), "out": (2, 4, 8), "conv": (3, 3, 2, 5), "bias": (4,)}
    axes = {"dense": 0, "query": 0, "out": (0, 1), "conv": (0, 1, 2)}
    params = {name: np.zeros(shape) for name, shape in shapes.items()}
    grad = {name: rng.normal(size=shape) + 1 for name, shape in shapes.items()}
    after = run(replace(PLAIN, centralize=True), params, [grad])[0]
    for name, g in grad.items():
        right = g - g.mean(axes[name], keepdims=True) if name in axes else g
        np.testing.assert_allclose(after[name], -RATE * right, rtol=1e-5, atol=1e-7)
    # What is clipped is what is left.
    clipped = run(replace(PLAIN, centralize=True, clip_norm=1e-3), params, [{**grad, "bias": np.zeros(4)}])[0]
    norm = np.sqrt(sum(np.sum(np.square(np.asarray(leaf))) for leaf in jax.tree.leaves(clipped)))
    assert norm == pytest.approx(RATE * 1e-3, rel=1e-4)


def test_gradients_elsewhere_know_the_frozen_teacher_and_the_rates():
    """The gradient function of a step differentiates the whole loss: weights, keys and context."""

    def objective(params, batch, ctx):
        noise = jax.random.normal(ctx.key, ())
        return {"a": Term(params * batch * ctx.frozen, weights=1), "b": penalty((params * noise) ** 2)}

    def update(grads, state, params, grad_fn=None, **extra):
        return grads, (grads, grad_fn(params), grad_fn(params + 1))

    spy = optax.GradientTransformationExtraArgs(lambda params: (params,) * 3, update)
    rates = {"a": 3.0, "b": lambda step: 0.5 + step}
    step = jax.jit(build_train_step(objective, spy, loss_weights=rates, accumulate=2))
    state, _ = step(create_state(jnp.array(2.0), spy, key=0, frozen=jnp.array(5.0)), jnp.arange(4.0))
    here, same, there = (float(gradient) for gradient in state.opt_state)
    assert here == same
    first = 3.0 * 1.5 * 5.0
    assert there - first == pytest.approx((here - first) * 1.5)  # The second term is quadratic: 2 -> 3.
    assert here != pytest.approx(first)
