"""Multi-task weighting: the Gram matrix methods against scipy, the others against their formulas, all in the step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from train import Term, UsageError, build_train_step, create_state, data_parallel, multi_task
from train.objectives import gradient_combination, task_weighting

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
METHODS = {
    "min_norm": gradient_combination.min_norm,
    "pcgrad": lambda g: gradient_combination.pcgrad(g, KEY),
    "cagrad": gradient_combination.cagrad,
    "imtl_g": gradient_combination.imtl_g,
    "nash_mtl": gradient_combination.nash_mtl,
    "aligned_mtl": gradient_combination.aligned_mtl,
    "upgrad": gradient_combination.upgrad,
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
    "parallel of many sizes": np.outer([1.0, 2.0, 3e6], [1.0, 2.0, 3e6]),
    "opposed of many sizes": np.outer([1.0, -2.0, 3e6], [1.0, -2.0, 3e6]),
}


def graded(tasks, ratio, seed=0):
    """Cosines, norms from 1 to the ratio, and G: of two gradients with the cosine -1/2, or of some that conflict."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(tasks, tasks + 1)) - np.eye(tasks, tasks + 1)
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    cosines = g @ g.T if tasks > 2 else np.array([[1.0, -0.5], [-0.5, 1.0]])
    norms = rng.permutation(ratio ** np.linspace(0, 1, tasks)) if tasks > 2 else np.array([1.0, ratio])
    return cosines, norms, (norms[:, None] * cosines * norms).astype(np.float32)


def cone_minimum(a, b):
    """The least x a x / 2 - b x with x >= 0, by trying all sets of entries that are not 0."""
    for free in itertools.product([False, True], repeat=len(b)):
        x, f = np.zeros(len(b)), np.flatnonzero(free)
        x[f] = np.linalg.solve(a[np.ix_(f, f)], b[f])
        if x.min() >= -1e-12 and (a @ x - b).min() >= -1e-12:
            return x
    raise AssertionError("no minimum")


def aligned(cosines, norms):
    """By singular values of a factor of G, which differ by 10^6 only where its eigenvalues do by 10^12."""
    u, s, _ = np.linalg.svd(norms[:, None] * np.linalg.cholesky(cosines))
    return u @ (s.min() / s * u.mean(0))


GRADED = [(tasks, ratio) for tasks in (2, 3) for ratio in (1.0, 300.0, 1e3, 1e6)]


@pytest.mark.parametrize(("tasks", "ratio"), GRADED)
def test_small_gradients_count_as_exactly_as_large_ones(tasks, ratio):
    cosines, norms, g = graded(tasks, ratio)
    found = {name: np.asarray(COMPILED[name](g), np.float64) for name in METHODS}
    np.testing.assert_allclose(np.float64(g) @ found["nash_mtl"] * found["nash_mtl"], 1, rtol=1e-4)
    projections = cosines @ (found["imtl_g"] * norms)
    np.testing.assert_allclose(projections / projections[0], 1, rtol=1e-3)
    assert found["imtl_g"].sum() == pytest.approx(1, rel=1e-5)

    def along(weights):  # the combination of the gradients along each of them, over its length
        parts = weights * norms
        return cosines @ parts / np.sqrt(parts @ cosines @ parts)

    assert along(found["upgrad"]).min() >= -1e-6, "harms a task"
    wanted = [
        (unit + cone_minimum(cosines, -row)) * n for unit, row, n in zip(np.eye(tasks), cosines, norms, strict=True)
    ]
    np.testing.assert_allclose(found["upgrad"], np.mean(wanted, axis=0) / norms, rtol=1e-3)
    np.testing.assert_allclose(found["aligned_mtl"], aligned(cosines, norms), rtol=1e-3)
    shares = norms.min() / norms
    shortest = cone_minimum(cosines + np.outer(shares, shares), shares) * shares
    np.testing.assert_allclose(found["min_norm"], shortest / shortest.sum(), rtol=1e-3, atol=1e-6 * shares.min())
    moved = (found["cagrad"] - 1 / tasks) * norms
    assert moved @ cosines @ moved == pytest.approx(0.16 / tasks**2 * (norms @ cosines @ norms), rel=1e-4)
    gains = norms * (cosines @ (found["cagrad"] * norms))
    least = gains[moved > 1e-5 * moved.max()]
    np.testing.assert_allclose(least, gains.min(), rtol=1e-3, err_msg="who counts gains least")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "pcgrad"])
def test_the_order_of_tasks_does_not_matter_and_the_size_of_all_only_to_nash(method):
    g = graded(3, 100.0)[2]
    weights, order = np.asarray(COMPILED[method](g)), np.array([2, 0, 1])
    np.testing.assert_allclose(COMPILED[method](g[np.ix_(order, order)]), weights[order], rtol=2e-4, atol=1e-6)
    factor = 8.0 if method == "nash_mtl" else 1.0
    np.testing.assert_allclose(COMPILED[method](g * 2.0**-6), weights * factor, rtol=1e-5)


@pytest.mark.parametrize("method", ["imtl_g", "nash_mtl", "upgrad"])
def test_the_size_of_one_task_is_only_divided_by(method):
    """What these make of the directions does not depend on the lengths; UPGrad projects each by itself."""
    cosines, norms, g = graded(3, 1e6)
    weights = np.asarray(COMPILED[method](g)) * norms
    alone = np.asarray(COMPILED[method](cosines.astype(np.float32)))
    if method == "upgrad":
        alone = np.mean(
            [(e + cone_minimum(cosines, -c)) * n for e, c, n in zip(np.eye(3), cosines, norms, strict=True)], 0
        )
    np.testing.assert_allclose(weights / weights.sum(), alone / alone.sum(), rtol=1e-3)


@pytest.mark.parametrize("size", [1e-30, 1e-19, 1.0, 1e19, 1e30])
@pytest.mark.parametrize("name", ["mgda", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad"])
def test_gradients_of_any_size_are_combined(name, size):
    gradients = np.array([[1.0, 0.2], [-0.4, 2.0]])
    transform = multi_task(getattr(task_weighting, name)(), tasks=2)

    def combine(gradients):
        stacked = {"a": jnp.asarray(gradients[:, :1], jnp.float32), "b": jnp.asarray(gradients[:, 1:], jnp.float32)}
        combined, state = transform.update(stacked, transform.init({}), losses=jnp.ones(2))
        return np.concatenate([combined["a"], combined["b"]]), state.gradient_weights

    plain, weights = combine(gradients)
    combined, others = combine(gradients * size)
    degree = -1 if name == "nash_mtl" else 0
    np.testing.assert_allclose(np.float64(combined), plain * size ** (1 + degree), rtol=1e-5)
    np.testing.assert_allclose(np.float64(others), np.float64(weights) * size**degree, rtol=1e-5)


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
    h = np.float64(g) / (np.trace(g) / 3)
    expected = np.zeros(3)
    for unit in np.eye(3):
        bounds = [(low, None) for low in unit]
        found = scipy.optimize.minimize(lambda w: w @ h @ w, unit, jac=lambda w: 2 * h @ w, bounds=bounds, tol=1e-14)
        expected += found.x / 3
    w = np.asarray(COMPILED["upgrad"](g), np.float64)
    np.testing.assert_allclose(h @ w, h @ expected, atol=1e-4)
    assert (h @ w).min() >= -1e-5, "harms a task"


@pytest.mark.parametrize("g", GRAMS)
def test_nash_solves_its_equation(g):
    alpha = np.asarray(COMPILED["nash_mtl"](g), np.float64)
    assert (alpha > 0).all()
    np.testing.assert_allclose((np.float64(g) @ alpha) * alpha, 1, rtol=1e-4)


@pytest.mark.parametrize("g", GRAMS)
def test_imtl_projects_alike_onto_all(g):
    w = np.asarray(COMPILED["imtl_g"](g), np.float64)
    projections = np.float64(g) @ w / np.sqrt(np.diag(g))
    np.testing.assert_allclose(projections / projections[0], 1, atol=1e-4)
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
    w, metrics, _ = run(task_weighting.mgda())
    weights = np.asarray(gradient_combination.min_norm(jnp.asarray(g @ g.T, jnp.float32)))
    np.testing.assert_allclose(w, START - 0.1 * weights @ g, atol=1e-5)
    assert float(metrics["grad_norm"][0]) == pytest.approx(np.linalg.norm(g.sum(0)), rel=1e-5)
    assert float(metrics["loss"][0]) == pytest.approx(losses @ [1.0, 0.5], rel=1e-5)


@pytest.mark.parametrize(("backend", "accumulate"), [("shard_map", 1), ("pmap", 2), ("jit", 1)])
def test_the_gradients_of_tasks_are_the_same_on_eight_devices(backend, accumulate):
    expected, metrics, _ = run(task_weighting.cagrad())
    w, other, _ = run(task_weighting.cagrad(), backend=backend, accumulate=accumulate)
    np.testing.assert_allclose(w, expected, rtol=1e-5)
    np.testing.assert_allclose(other["grad_norm"][0], metrics["grad_norm"][0], rtol=1e-5)


def test_weights_of_losses_hold_for_the_next_step():
    method = task_weighting.uncertainty((0.5, 1.0), optimizer=optax.sgd(0.1))
    w, s = np.float64(START), np.zeros(2)
    for _ in range(3):
        losses, g = means_and_gradients(w)
        weights = np.array([0.5, 1.0]) * np.exp(-s)
        w = w - 0.1 * (weights * [1.0, 0.5]) @ g
        s = s - 0.1 * (0.5 - weights * losses * [1.0, 0.5])
    found, _, state = run(method, steps=3)
    np.testing.assert_allclose(found, w, rtol=1e-4)
    np.testing.assert_allclose(task_weighting.current_weights(state.opt_state), [0.5, 1.0] * np.exp(-s), rtol=1e-4)


def test_fixed_and_scheduled_weights_are_those_of_the_loss_weights():
    plain = build_train_step(objective, optax.sgd(0.1), loss_weights={"near": 2.0, "far": 0.5})
    expected, _ = plain(create_state({"w": jnp.asarray(START)}, optax.sgd(0.1), key=0), BATCH)
    for method in (
        task_weighting.fixed((2.0, 1.0)),
        task_weighting.scheduled([optax.constant_schedule(v) for v in (2.0, 1.0)]),
    ):
        np.testing.assert_allclose(run(method)[0], expected.params["w"], rtol=1e-6)


def test_dwa_averages_over_its_period():
    method = task_weighting.dwa(temperature=1.0, period=2)
    weights, state = method.init(2)
    for losses in ([1.0, 2.0], [3.0, 2.0], [1.0, 1.0]):
        weights, state = method.update(weights, state, jnp.array(losses), None)
        np.testing.assert_array_equal(weights, 1)
    weights, _ = method.update(weights, state, jnp.array([1.0, 3.0]), None)
    ratio = np.exp([1.0 / 2.0, 2.0 / 2.0])
    np.testing.assert_allclose(weights, 2 * ratio / ratio.sum(), rtol=1e-6)


def adam(slopes, rate, x):
    m = v = 0.0
    for t, slope in enumerate(slopes, start=1):
        g = slope(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_famo_moves_by_adam_and_takes_the_least_losses_away():
    """As its authors' code, with the gains of one step after another."""
    losses = np.array([[2.0, 3.0], [1.5, 3.0], [1.6, 2.0], [1.2, 1.9], [1.1, 1.8]])
    logs = np.log(losses - [0.5, 1.0] + 1e-8)

    def slope(gain):
        return lambda xi: softmax(xi) * (gain - softmax(xi) @ gain) + 0.1 * xi

    method = task_weighting.famo(learning_rate=0.3, decay=0.1, min_losses=(0.5, 1.0))
    weights, state = method.init(2)
    for step in losses:
        weights, state = method.update(weights, state, jnp.asarray(step, jnp.float32), None)
    xi = adam([slope(gain) for gain in logs[:-1] - logs[1:]], 0.3, np.zeros(2))
    np.testing.assert_allclose(state[0], xi, rtol=1e-5)
    z = softmax(xi) / (losses[-1] - [0.5, 1.0])
    np.testing.assert_allclose(weights, z / z.sum(), rtol=1e-5)


def test_famo_at_its_defaults_moves_as_its_authors_code():
    """The first of two losses falls by 2 % a step; after 60 gains torch's Adam has come to (0.093, 0.907)."""
    method = task_weighting.famo()
    _, state = method.init(2)
    losses = jnp.stack([0.98 ** jnp.arange(61.0), jnp.ones(61)], axis=1)
    xi = jax.lax.scan(lambda s, x: (method.update(None, s, x, None)[1], None), state, losses)[0][0]
    np.testing.assert_allclose(jax.nn.softmax(xi), [0.093, 0.907], atol=2e-3)


def test_famo_starts_with_z_over_the_losses():
    method = task_weighting.famo()
    weights, state = method.init(2)
    weights, state = method.update(weights, state, jnp.array([1.0, 2.0]), None)
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], rtol=1e-6)
    with pytest.raises(UsageError, match="each of 2 tasks, got 3"):
        task_weighting.famo(min_losses=(0.0, 0.0, 0.0)).update(weights, state, jnp.ones(2), None)


def test_gradnorm_moves_towards_equal_paces():
    method = task_weighting.gradnorm(alpha=1.0, optimizer=optax.sgd(0.1))
    weights, state = method.init(2)
    products = jnp.diag(jnp.array([4.0, 1.0]))  # gradients of lengths 2 and 1
    weights, state = method.update(weights, state, jnp.array([1.0, 1.0]), products)
    moved = np.array([1 - 0.1 * 2, 1 + 0.1 * 1])  # target 1.5 for both: the longer one shrinks
    np.testing.assert_allclose(weights, 2 * moved / moved.sum(), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e25])
def test_gradnorm_moves_at_one_pace_whatever_the_size_of_gradients(size):
    transform = multi_task(task_weighting.gradnorm(), tasks=2)
    state, gradients = transform.init(jnp.zeros(2)), jnp.array([[2.0, 0.0], [0.0, 1.0]]) * size
    for _ in range(2):  # at first the weights are 1, then those of the first step
        _, state = transform.update(gradients, state, losses=jnp.ones(2))
    np.testing.assert_allclose(state.gradient_weights, [0.975, 1.025], rtol=1e-4)


def test_random_weights_sum_to_one_and_differ_by_step():
    method = task_weighting.random_weighting(KEY)
    first, state = method.init(3)
    second, _ = method.update(first, state, jnp.ones(3), None)
    np.testing.assert_allclose([first.sum(), second.sum()], 1, rtol=1e-6)
    assert np.abs(first - second).max() > 0.01


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match="task_gradients=True"):
        run(task_weighting.mgda(), from_gradients=False)
    transform = multi_task(task_weighting.mgda(), tasks=3)
    with pytest.raises(UsageError, match="3 tasks, but loss_weights names 2"):
        transform.update(jnp.ones((2, 2)), transform.init(jnp.zeros(2)), losses=jnp.ones(2))
    with pytest.raises(UsageError, match="each of 2 tasks, got 3"):
        task_weighting.fixed((1.0, 1.0, 1.0)).init(2)
    with pytest.raises(UsageError, match="temperature"):
        task_weighting.dwa(temperature=0)
