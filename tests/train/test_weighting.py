"""Multi-task weighting: the Gram matrix methods against scipy, the others against their formulas, all in the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from train import Term, UsageError, build_train_step, create_state, data_parallel, gram, multi_task, weighting

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
METHODS = {
    "min_norm": gram.min_norm,
    "pcgrad": lambda g: gram.pcgrad(g, KEY),
    "cagrad": gram.cagrad,
    "imtl_g": gram.imtl_g,
    "nash_mtl": gram.nash_mtl,
    "aligned_mtl": gram.aligned_mtl,
    "upgrad": gram.upgrad,
}
COMPILED = {name: jax.jit(method) for name, method in METHODS.items()}


def random_gram(tasks, dims=5, conflict=0.0):
    g = RNG.normal(size=(tasks, dims)) - conflict * np.eye(tasks, dims)
    return (g @ g.T).astype(np.float32)


GRAMS = [random_gram(3), random_gram(3, conflict=3.0), random_gram(3) * 1e6, random_gram(3) * 1e-6]
DEGENERATE = {
    "all zero": np.zeros((3, 3)),
    "one zero": np.diag([1.0, 0.0, 2.0]),
    "parallel": np.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
    "opposed": np.outer([1.0, -1.0, 2.0], [1.0, -1.0, 2.0]),
    "equal": np.ones((3, 3)),
    "tiny": np.eye(3) * 1e-20,
    "huge": np.eye(3) * 1e20,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_weights_are_finite_for_zero_parallel_and_opposed_gradients(method, case):
    weights = COMPILED[method](jnp.asarray(DEGENERATE[case], jnp.float32))
    assert np.isfinite(weights).all()


def on_simplex(function, tasks):
    """The best of several starts of a solver on the host."""
    constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
    starts = [np.full(tasks, 1 / tasks), *np.eye(tasks)]
    found = [
        scipy.optimize.minimize(function, s, bounds=[(0, 1)] * tasks, constraints=constraint, tol=1e-12).fun
        for s in starts
    ]
    return min(found)


@pytest.mark.parametrize("g", GRAMS)
def test_min_norm_is_the_shortest_convex_combination(g):
    w = np.asarray(COMPILED["min_norm"](g), np.float64)
    scale = np.trace(g)
    best = on_simplex(lambda w: w @ g @ w / scale, 3)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-5)
    assert w @ g @ w / scale == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("g", GRAMS)
def test_cagrad_solves_its_dual(g):
    c, scale, mean = 0.4, np.trace(g) / 3, np.full(3, 1 / 3)
    h = np.float64(g) / scale
    radius = c * np.sqrt(mean @ h @ mean)

    def dual(w):
        return w @ h @ mean + radius * np.sqrt(max(w @ h @ w, 0))

    w = (np.asarray(COMPILED["cagrad"](g), np.float64) - mean) / radius
    direction = w @ h @ w  # w / ||g_w|| has length one in the norm of G
    assert direction == pytest.approx(1, abs=1e-3)
    assert dual(w / w.sum()) == pytest.approx(on_simplex(dual, 3), abs=1e-4)


@pytest.mark.parametrize("g", GRAMS)
def test_upgrad_projects_onto_the_dual_cone(g):
    h = np.float64(g) / (np.trace(g) / 3) + 1e-6 * np.eye(3)
    expected = np.zeros(3)
    for unit in np.eye(3):
        bounds = [(low, None) for low in unit]
        found = scipy.optimize.minimize(lambda w: w @ h @ w, unit, jac=lambda w: 2 * h @ w, bounds=bounds, tol=1e-14)
        expected += found.x / 3
    w = np.asarray(COMPILED["upgrad"](g), np.float64)
    np.testing.assert_allclose(h @ w, h @ expected, atol=2e-3)
    assert (h @ w).min() >= -1e-3, "harms a task"


@pytest.mark.parametrize("g", GRAMS)
def test_nash_solves_its_equation(g):
    alpha = np.asarray(COMPILED["nash_mtl"](g), np.float64)
    assert (alpha > 0).all()
    np.testing.assert_allclose((np.float64(g) @ alpha) * alpha, 1, rtol=2e-2)


@pytest.mark.parametrize("g", GRAMS)
def test_imtl_projects_alike_onto_all(g):
    w = np.asarray(COMPILED["imtl_g"](g), np.float64)
    projections = np.float64(g) @ w / np.sqrt(np.diag(g))
    np.testing.assert_allclose(projections / np.abs(projections).max(), np.sign(projections[0]), atol=2e-3)
    assert w.sum() == pytest.approx(1, abs=1e-4)


def test_aligned_makes_gradients_orthogonal_and_as_long_as_the_weakest_direction():
    g = RNG.normal(size=(3, 5))
    u, s, v = np.linalg.svd(g, full_matrices=False)
    aligned = s.min() * u @ v  # the nearest matrix with equal singular values
    weights = np.asarray(COMPILED["aligned_mtl"](jnp.asarray(g @ g.T, jnp.float32)))
    np.testing.assert_allclose(weights @ g, aligned.mean(0), atol=1e-4)


def test_pcgrad_is_its_loop():
    g = RNG.normal(size=(3, 2)) - np.array([2.0, 0.0])
    g[1] = -g[0] + 0.1
    order = np.stack([jax.random.permutation(k, 3) for k in jax.random.split(KEY, 3)])
    total = np.zeros(2)
    for i in range(3):
        mine = g[i].copy()
        for j in order[i]:
            if j != i and mine @ g[j] < 0:
                mine -= (mine @ g[j]) / (g[j] @ g[j]) * g[j]
        total += mine
    weights = np.asarray(COMPILED["pcgrad"](jnp.asarray(g @ g.T, jnp.float32)))
    np.testing.assert_allclose(weights @ g, total, atol=1e-4)


BATCH = {
    "x": RNG.normal(size=(16, 3)).astype(np.float32),
    "valid": np.arange(16) % 3 != 0,
}


def objective(params, batch, ctx):
    return {
        "near": Term(jnp.sum((params["w"][None] - batch["x"]) ** 2, axis=-1), batch["valid"]),
        "far": Term(jnp.sum((params["w"][None] + 2 * batch["x"]) ** 2, axis=-1), weights=1),
    }


def means_and_gradients(w):
    x, valid = np.float64(BATCH["x"]), BATCH["valid"]
    losses = [((w - x) ** 2).sum(-1)[valid].mean(), ((w + 2 * x) ** 2).sum(-1).mean()]
    return np.array(losses), np.stack([2 * (w - x[valid].mean(0)), 2 * (w + 2 * x.mean(0))])


START = np.array([1.0, -1.0, 0.5], np.float32)
RATES = {"near": 1.0, "far": 0.5}


def run(method, steps=1, backend=None, accumulate=1, from_gradients=None):
    optimizer = optax.chain(multi_task(method, tasks=2), optax.sgd(0.1))
    stacked = method.from_gradients if from_gradients is None else from_gradients
    step = build_train_step(objective, optimizer, loss_weights=RATES, accumulate=accumulate, task_gradients=stacked)
    step = data_parallel(step, backend) if backend else jax.jit(step)
    state = create_state({"w": jnp.asarray(START)}, optimizer, key=0)
    for _ in range(steps):
        state, metrics = step(state, BATCH)
    return np.asarray(state.params["w"]), metrics, state


def test_the_step_combines_the_gradients_of_tasks():
    losses, g = means_and_gradients(START)
    g *= np.array([[1.0], [0.5]])
    w, metrics, _ = run(weighting.mgda())
    weights = np.asarray(gram.min_norm(jnp.asarray(g @ g.T, jnp.float32)))
    np.testing.assert_allclose(w, START - 0.1 * weights @ g, atol=1e-5)
    assert float(metrics["grad_norm"][0]) == pytest.approx(np.linalg.norm(g.sum(0)), rel=1e-5)
    assert float(metrics["loss"][0]) == pytest.approx(losses @ [1.0, 0.5], rel=1e-5)


@pytest.mark.parametrize(("backend", "accumulate"), [("shard_map", 1), ("pmap", 2), ("jit", 1)])
def test_the_gradients_of_tasks_are_the_same_on_eight_devices(backend, accumulate):
    expected, metrics, _ = run(weighting.cagrad())
    w, other, _ = run(weighting.cagrad(), backend=backend, accumulate=accumulate)
    np.testing.assert_allclose(w, expected, rtol=1e-5)
    np.testing.assert_allclose(other["grad_norm"][0], metrics["grad_norm"][0], rtol=1e-5)


def test_weights_of_losses_hold_for_the_next_step():
    method = weighting.uncertainty((0.5, 1.0), optimizer=optax.sgd(0.1))
    w, s = np.float64(START), np.zeros(2)
    for _ in range(3):
        losses, g = means_and_gradients(w)
        weights = np.array([0.5, 1.0]) * np.exp(-s)
        w = w - 0.1 * (weights * [1.0, 0.5]) @ g
        s = s - 0.1 * (0.5 - weights * losses * [1.0, 0.5])
    found, _, state = run(method, steps=3)
    np.testing.assert_allclose(found, w, rtol=1e-4)
    np.testing.assert_allclose(weighting.current_weights(state.opt_state), [0.5, 1.0] * np.exp(-s), rtol=1e-4)


def test_fixed_and_scheduled_weights_are_those_of_the_loss_weights():
    plain = build_train_step(objective, optax.sgd(0.1), loss_weights={"near": 2.0, "far": 0.5})
    expected, _ = plain(create_state({"w": jnp.asarray(START)}, optax.sgd(0.1), key=0), BATCH)
    for method in (weighting.fixed((2.0, 1.0)), weighting.scheduled([optax.constant_schedule(v) for v in (2.0, 1.0)])):
        np.testing.assert_allclose(run(method)[0], expected.params["w"], rtol=1e-6)


def test_dwa_averages_over_its_period():
    method = weighting.dwa(temperature=1.0, period=2)
    weights, state = method.init(2)
    for losses in ([1.0, 2.0], [3.0, 2.0], [1.0, 1.0]):
        weights, state = method.update(weights, state, jnp.array(losses), None)
        np.testing.assert_array_equal(weights, 1)
    weights, _ = method.update(weights, state, jnp.array([1.0, 3.0]), None)
    ratio = np.exp([1.0 / 2.0, 2.0 / 2.0])
    np.testing.assert_allclose(weights, 2 * ratio / ratio.sum(), rtol=1e-6)


def test_famo_favours_the_loss_that_gains_least():
    method = weighting.famo(learning_rate=1.0, decay=0.0)
    weights, state = method.init(2)
    weights, state = method.update(weights, state, jnp.array([1.0, 2.0]), None)
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], rtol=1e-6)  # z / L, of sum one
    weights, _ = method.update(weights, state, jnp.array([0.5, 2.0]), None)
    xi = -np.array([0.25 * np.log(2), -0.25 * np.log(2)])  # z (gain - mean gain), z = 1/2
    z = np.exp(xi) / np.exp(xi).sum() / [0.5, 2.0]
    np.testing.assert_allclose(weights, z / z.sum(), rtol=1e-5)


def test_gradnorm_moves_towards_equal_paces():
    method = weighting.gradnorm(alpha=1.0, learning_rate=0.1)
    weights, state = method.init(2)
    products = jnp.diag(jnp.array([4.0, 1.0]))  # gradients of lengths 2 and 1
    weights, state = method.update(weights, state, jnp.array([1.0, 1.0]), products)
    moved = np.array([1 - 0.1 * 2, 1 + 0.1 * 1])  # target 1.5 for both: the longer one shrinks
    np.testing.assert_allclose(weights, 2 * moved / moved.sum(), rtol=1e-6)


def test_random_weights_sum_to_one_and_differ_by_step():
    method = weighting.random_weighting(KEY)
    first, state = method.init(3)
    second, _ = method.update(first, state, jnp.ones(3), None)
    np.testing.assert_allclose([first.sum(), second.sum()], 1, rtol=1e-6)
    assert np.abs(first - second).max() > 0.01


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match="task_gradients=True"):
        run(weighting.mgda(), from_gradients=False)
    transform = multi_task(weighting.mgda(), tasks=3)
    with pytest.raises(UsageError, match="3 tasks, but loss_weights names 2"):
        transform.update(jnp.ones((2, 2)), transform.init(jnp.zeros(2)), losses=jnp.ones(2))
    with pytest.raises(UsageError, match="each of 2 tasks, got 3"):
        weighting.fixed((1.0, 1.0, 1.0)).init(2)
    with pytest.raises(UsageError, match="temperature"):
        weighting.dwa(temperature=0)
