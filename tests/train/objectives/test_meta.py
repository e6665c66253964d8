"""Meta-gradients against closed forms on quadratics, on one device and on many, and against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import (
    Context,
    Term,
    UsageError,
    anil,
    build_eval_step,
    build_train_step,
    create_state,
    data_parallel,
    first_order_maml,
    imaml,
    maml,
    meta_sgd,
    meta_sgd_params,
    proximal_meta,
    reptile,
)

RNG = np.random.default_rng(0)
SGD = optax.sgd(1.0)  # Parameters before minus parameters after are the gradient.
ALPHA, LAMBDA, EYE = 0.1, 0.7, np.eye(3)
WEIGHTS = {"loss_weights": {"half": 1.0}}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def take_step(method, params, batch, weights=WEIGHTS["loss_weights"], optimizer=SGD, **placed):
    step = build_train_step(method, optimizer, loss_weights=weights, accumulate=placed.pop("accumulate", 1))
    step = data_parallel(step, **placed) if placed else jax.jit(step)
    state, metrics = step(create_state(params, optimizer, key=0), batch)
    jax.block_until_ready(metrics["loss"])  # Steps in flight on more devices than cores can deadlock.
    return jax.tree.map(lambda old, new: old - np.asarray(new), params, state.params), jax.tree.map(np.asarray, metrics)


def take_steps(methods, batch, **placed):
    """One step of all methods in one program, each with parameters of its own: {name: (gradient, metrics)}."""

    def objective(params, batch, ctx):
        terms = {name: method(params[name], batch, ctx) for name, (method, _) in methods.items()}
        return {f"{name}/{term}": value for name in terms for term, value in terms[name].items()}

    weights = {f"{name}/half": 1.0 for name in methods if "reptile" not in name}
    weights |= {f"{name}/{own}": 1.0 for own in ("proximal", "reptile") for name in methods if own in name}
    params = {name: params for name, (_, params) in methods.items()}
    gradient, metrics = take_step(objective, params, batch, weights, **placed)
    own = {name: {k.split("/")[1]: v for k, v in metrics.items() if k.startswith(f"{name}/")} for name in methods}
    return {name: (gradient[name], own[name]) for name in methods}


def context(step=0, state=None):
    return Context(jax.random.key(1), jnp.int32(step), state=state)


# Quadratics: each example has a matrix A and a minimum x, so a task's Hessian and slope are weighted means


def quadratic(params, rows, ctx):
    assert ctx.axis_name is None
    away = jnp.concatenate([params["body"], params["head"]])[None] - rows["x"]
    half = jnp.einsum("ni,nij,nj->n", away, rows["A"], away) / 2
    return {"half": Term(half, rows["w"]), "size": Term(jnp.abs(away))}


TASKS = 16


def part(examples, tasks=TASKS):
    root = RNG.normal(size=(tasks, examples, 3, 3))
    weights = RNG.random((tasks, examples)) * (np.arange(examples) != np.arange(tasks)[:, None])
    weights[-1] = 0.0
    return {"A": root @ np.swapaxes(root, -1, -2) / 3, "x": RNG.normal(size=(tasks, examples, 3)), "w": weights}


QUADRATIC = {"support": part(2), "query": part(3)}
THETA = {"body": RNG.normal(size=2), "head": RNG.normal(size=1)}
FLAT = np.concatenate([THETA["body"], THETA["head"]])
RATES = np.array([0.05, 0.1, 0.2])


def hessian(kind, i):
    rows = QUADRATIC[kind]
    return np.einsum("n,nij->ij", rows["w"][i], rows["A"][i]) / max(rows["w"][i].sum(), 1e-300)


def slope(kind, i, phi):
    rows = QUADRATIC[kind]
    return np.einsum("n,nij,nj->i", rows["w"][i], rows["A"][i], phi - rows["x"][i]) / max(rows["w"][i].sum(), 1e-300)


def share(i):
    """The part of a task in the weight of all queries."""
    return QUADRATIC["query"]["w"][i].sum() / QUADRATIC["query"]["w"].sum()


def flat(params):
    return np.concatenate([params["body"], params["head"]])


def descend(i, steps, rates=ALPHA, pull=0.0):
    """The path of theta_i, and the product of the Jacobians of its steps, over theta and over the rates."""
    phi, jacobian, over_rates = FLAT, EYE, np.zeros((3, 3))
    matrix = np.diag(np.broadcast_to(rates, 3))
    for _ in range(steps):
        g = slope("support", i, phi) + 2 * pull * (phi - FLAT)
        inner = EYE - matrix @ (hessian("support", i) + 2 * pull * EYE)
        jacobian = inner @ jacobian + 2 * pull * matrix
        over_rates = inner @ over_rates - np.diag(g)
        phi = phi - matrix @ g
    return phi, jacobian, over_rates


@functools.cache
def computed(steps):
    """All methods: single inner steps on one device, several of them on 8 devices and in 2 micro-batches."""
    common = {"inner_rate": ALPHA, "steps": steps, **WEIGHTS}
    implicit = common | {"steps": 1 if steps == 1 else 300, "cg_tolerance": 1e-13}
    methods = {
        "maml": maml(quadratic, **common),
        "first order": first_order_maml(quadratic, **common),
        "anil": anil(quadratic, head="^head$", **common),
        "anil first order": anil(quadratic, head=lambda path: "h" in path, first_order=True, **common),
        "rates": meta_sgd(quadratic, steps=steps, **WEIGHTS),
        "rates first order": meta_sgd(quadratic, steps=steps, first_order=True, **WEIGHTS),
        "implicit": imaml(quadratic, weight=LAMBDA, **implicit),
        "proximal": proximal_meta(quadratic, weight=LAMBDA, through=False, **common),
        "proximal through": proximal_meta(quadratic, weight=LAMBDA, **common),
        "reptile": reptile(quadratic, **common),
    }
    rated = meta_sgd_params(THETA, 0.0)
    assert jax.tree.map(np.shape, rated["inner_rates"]) == jax.tree.map(np.shape, THETA)
    rated["inner_rates"] = {"body": RATES[:2], "head": RATES[2:]}
    methods = {name: (method, rated if "rates" in name else THETA) for name, method in methods.items()}
    assert len(jax.devices()) == 8
    placed = {} if steps == 1 else {"accumulate": 2, "backend": "shard_map"}
    with jax.enable_x64(True):
        return take_steps(methods, QUADRATIC, **placed)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["maml", "first order", "anil", "anil first order"])
def test_gradient_on_quadratics(name, steps):
    """J^T grad L(theta_i), with J = (I - a P H)^k, and J = I at first order; P is the projection on the head."""
    expected = np.zeros(3)
    for i in range(TASKS):
        phi, jacobian, _ = descend(i, steps, ALPHA * np.array([0, 0, 1]) if "anil" in name else ALPHA)
        jacobian = EYE if "first" in name else jacobian
        expected += share(i) * jacobian.T @ slope("query", i, phi)
    gradient, metrics = computed(steps)[name]
    np.testing.assert_allclose(flat(gradient), expected, rtol=1e-10)
    np.testing.assert_allclose(metrics["half"][1], QUADRATIC["query"]["w"].sum(), rtol=1e-12)
    assert metrics["size"][1] == TASKS * 3 * 3


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_of_learnt_rates(steps, first_order):
    expected, over_rates = np.zeros(3), np.zeros(3)
    for i in range(TASKS):
        phi, jacobian, moved = descend(i, steps, RATES)
        if first_order:
            slopes = [slope("support", i, descend(i, k, RATES)[0]) for k in range(steps)]
            jacobian, moved = EYE, -np.diag(np.sum(slopes, axis=0))
        expected += share(i) * jacobian.T @ slope("query", i, phi)
        over_rates += share(i) * moved.T @ slope("query", i, phi)
    gradient, _ = computed(steps)["rates" + " first order" * first_order]
    np.testing.assert_allclose(flat(gradient["params"]), expected, rtol=1e-10)
    np.testing.assert_allclose(flat(gradient["inner_rates"]), over_rates, rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
def test_implicit_gradient(steps):
    """(I + H / lambda)^-1 grad L(theta_i), however near theta_i is to the minimum: H is the same everywhere."""
    expected = np.zeros(3)
    for i in range(TASKS):
        h = hessian("support", i)
        phi = FLAT - ALPHA * slope("support", i, FLAT)
        if steps > 1:
            phi = FLAT - np.linalg.solve(h + LAMBDA * EYE, slope("support", i, FLAT))
        expected += share(i) * np.linalg.solve(EYE + h / LAMBDA, slope("query", i, phi))
    np.testing.assert_allclose(flat(computed(steps)["implicit"][0]), expected, rtol=1e-8)


def test_implicit_gradient_of_one_number():
    """g / (1 + h / lambda), for h = 3, lambda = 2, and x = 1 to adapt to and x = 5 to be judged by."""

    def objective(params, rows, ctx):
        return {"half": Term(3 * (params - rows["x"]) ** 2 / 2, weights=1)}

    method = imaml(objective, weight=2.0, inner_rate=0.2, steps=1, **WEIGHTS)  # one step of 1 / (h + lambda) suffices
    batch = {"support": {"x": np.array([[1.0]], np.float32)}, "query": {"x": np.array([[5.0]], np.float32)}}
    gradient, _ = take_step(method, np.float32(0.0), batch)
    minimum = 3 / (3 + 2)
    np.testing.assert_allclose(gradient, 3 * (minimum - 5) / (1 + 3 / 2), rtol=1e-6)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_proximal_gradient(steps, through):
    expected, penalty = np.zeros(3), 0.0
    for i in range(TASKS):
        phi, jacobian, _ = descend(i, steps, pull=LAMBDA)
        penalty += LAMBDA * np.sum((phi - FLAT) ** 2)
        jacobian = jacobian if through else np.zeros((3, 3))
        expected += share(i) * jacobian.T @ slope("query", i, phi)
        expected += (jacobian - EYE).T @ (2 * LAMBDA * (phi - FLAT)) / (TASKS - 1)  # One has no weight.
    gradient, metrics = computed(steps)["proximal" + " through" * through]
    np.testing.assert_allclose(flat(gradient), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(metrics["proximal"], (penalty, TASKS - 1), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_proximal_gradient_is_that_of_the_envelope():
    """With query = support and all steps done, theta_i need not be differentiated."""
    rows = {k: v[:4] for k, v in (QUADRATIC["support"] | {"w": np.ones((TASKS, 2))}).items()}
    common = {"weight": LAMBDA, "inner_rate": ALPHA, "steps": 300, **WEIGHTS}
    methods = {f"proximal {x}": (proximal_meta(quadratic, through=x, **common), THETA) for x in (True, False)}
    first, second = take_steps(methods, {"support": rows, "query": rows}).values()
    np.testing.assert_allclose(flat(first[0]), flat(second[0]), rtol=1e-8)


@pytest.mark.parametrize("steps", [1, 3])
def test_reptile_descends_by_the_mean_displacement(steps):
    moved = np.mean([descend(i, steps)[0] - FLAT for i in range(TASKS - 1)], axis=0)
    gradient, metrics = computed(steps)["reptile"]
    np.testing.assert_allclose(flat(gradient), -moved, rtol=1e-10)
    np.testing.assert_allclose(metrics["half"][1], QUADRATIC["query"]["w"].sum(), rtol=1e-12)


def test_reptile_takes_other_rows_for_each_step_and_leaves_out_empty_tasks():
    def objective(params, rows, ctx):
        return {"half": Term((params - rows["x"]) ** 2 / 2, rows["w"])}

    method = reptile(objective, inner_rate=0.5, steps=2, minibatches=True, **WEIGHTS)
    x = np.array([[[4.0], [6.0]], [[8.0], [0.0]], [[9.0], [9.0]]], np.float32)  # 1 -> 2.5 -> 4.25, 1 -> 4.5 -> 2.25
    batch = {"support": {"x": x, "w": np.array([1.0, 1.0, 0.0], np.float32)[:, None, None] * np.ones_like(x)}}
    difference, metrics = take_step(method, np.float32(1.0), batch, {"reptile": 1.0}, optax.sgd(0.25))
    assert (float(-difference), float(metrics["reptile"][1])) == (0.25 * ((4.25 - 1) + (2.25 - 1)) / 2, 2.0)
    with pytest.raises(UsageError, match=r"3 steps .* \[tasks, 3, \.\.\.\], .*'x': \(2, 1\)"):
        reptile(objective, inner_rate=0.5, steps=3, minibatches=True, **WEIGHTS)(jnp.zeros(()), batch, context())


# A small network


def network(params, rows, ctx):
    hidden = jnp.tanh(rows["x"] @ params["body"])
    logits = hidden @ params["head"]
    own = jnp.take_along_axis(logits, rows["label"][:, None], axis=1)[:, 0]
    return {"half": Term(jax.nn.logsumexp(logits, axis=-1) - own, rows["valid"])}


def labelled(examples, tasks=8):
    valid = RNG.random((tasks, examples)) < 0.7
    valid[-1] = False
    x = RNG.normal(size=(tasks, examples, 2)).astype(np.float32)
    return {"x": x, "label": RNG.integers(0, 3, (tasks, examples)), "valid": valid}


LABELLED = {"support": labelled(3), "query": labelled(4)}
NETWORK = {"body": RNG.normal(size=(2, 2)).astype(np.float32), "head": RNG.normal(size=(2, 3)).astype(np.float32)}
COMMON = {"inner_rate": 0.3, **WEIGHTS}
METHODS = {
    "maml": (maml(network, steps=2, **COMMON), NETWORK),
    "implicit": (imaml(network, weight=2.0, steps=200, cg_tolerance=1e-12, **(COMMON | {"inner_rate": 0.2})), NETWORK),
    "proximal": (proximal_meta(network, weight=0.5, steps=2, **COMMON), NETWORK),
}


@pytest.mark.usefixtures("x64")
def test_gradients_by_finite_differences_through_the_inner_loop():
    params = jax.tree.map(np.float64, {name: params for name, (_, params) in METHODS.items()})
    batch = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, LABELLED)

    def losses(params):
        def loss(name):
            terms = METHODS[name][0](params[name], batch, context())
            sums = [terms[term].sums() for term in ("half", "proximal") if term in terms]
            return sum(total / weight for total, weight in sums)

        values = jnp.stack([loss(name) for name in METHODS])
        return values.sum(), values

    compiled = jax.jit(jax.value_and_grad(losses, has_aux=True))
    gradient = compiled(params)[1]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        direction = jax.tree.map(lambda p, rng=rng: rng.normal(size=p.shape), params)
        moved = [jax.tree.map(lambda p, d, e=e: p + e * d, params, direction) for e in (1e-5, -1e-5)]
        ahead, behind = (compiled(at)[0][1] for at in moved)
        slopes = jax.tree.map(lambda g, d: np.sum(g * d), gradient, direction)
        slopes = [sum(jax.tree.leaves(slopes[name])) for name in METHODS]
        np.testing.assert_allclose(slopes, (ahead - behind) / 2e-5, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_first_order_leaves_out_the_second_derivative():
    """Written plainly: the gradient of the query at the adapted parameters, which differs from MAML's."""

    def total(params, rows):
        term = network(params, rows, None)["half"]
        return jnp.sum(term.values * term.weights)

    def one(params, batch):
        slopes = jax.grad(total)(params, batch["support"])
        count = jnp.maximum(batch["support"]["valid"].sum(), 1)
        adapted = jax.tree.map(lambda p, g: p - 0.3 * g / count, params, slopes)
        return jax.grad(total)(adapted, batch["query"])

    def first(params):
        slopes = jax.vmap(one, (None, 0))(params, LABELLED)
        return jax.tree.map(lambda g: g.sum(0) / LABELLED["query"]["valid"].sum(), slopes)

    params = jax.tree.map(lambda p: np.asarray(p, np.float64), NETWORK)
    plain = jax.jit(first)(params)
    methods = {"first": (first_order_maml(network, **COMMON), params), "maml": (maml(network, **COMMON), params)}
    (gradient, _), (second, _) = take_steps(methods, LABELLED).values()
    for name in NETWORK:
        np.testing.assert_allclose(gradient[name], plain[name], rtol=1e-6)
        assert np.linalg.norm(second[name] - gradient[name]) > 0.02 * np.linalg.norm(gradient[name])


# What an inner loop passes on


def test_no_inner_step_is_the_plain_objective():
    plain = {k: v.reshape(-1, *v.shape[2:]) for k, v in LABELLED["query"].items()}
    expected, metrics = take_step(network, NETWORK, plain)
    gradient, counted = take_step(maml(network, steps=0, **COMMON), NETWORK, LABELLED)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient, expected)
    np.testing.assert_allclose(counted["half"], metrics["half"], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_rate_and_weights_are_traced_or_scheduled():
    """The derivative of theta_i after one step in the rate is -grad S."""

    @functools.partial(jax.jit, static_argnames="schedule")
    def loss(rate, number, schedule=None):
        rate = rate if schedule is None else schedule
        method = maml(quadratic, inner_rate=rate, loss_weights={"half": lambda step: step / 2.0})
        value, weight = method(THETA, QUADRATIC, context(number))["half"].sums()
        return value / weight

    expected = 0.0
    for i in range(TASKS):
        g = slope("support", i, FLAT)
        expected += share(i) * slope("query", i, FLAT - ALPHA * g) @ -g
    np.testing.assert_allclose(jax.grad(loss)(ALPHA, 2), expected, rtol=1e-10)
    np.testing.assert_allclose(loss(0.0, 2, lambda step: 0.05 * step), loss(ALPHA, 2), rtol=1e-12)
    assert abs(loss(ALPHA, 2) - loss(ALPHA, 1)) > 1e-3


def test_states_of_the_tasks_are_joined():
    """Each sees its two inner steps and its query; real numbers become their mean, integers their maximum."""

    def seen(params, rows, ctx):
        state = ctx.state | {"mean": ctx.state["mean"] / 2 + rows["x"], "count": ctx.state["count"] + rows["n"]}
        return {"half": Term((params - rows["x"]) ** 2)}, state

    def data(numbers):
        return {"x": jnp.array(numbers), "n": jnp.array([1, 2, 5])}

    third = jnp.float32(1 / 3)
    start = {"mean": jnp.float32(8.0), "count": jnp.int32(10), "key": jax.random.key(3), "kept": third}
    batch = {"support": data([0.0, 4.0, 8.0]), "query": data([1.0, 1.0, 7.0])}
    method = maml(seen, inner_rate=0.0, steps=2, **WEIGHTS)
    _, state = jax.jit(lambda: method(jnp.zeros(()), batch, context(state=start)))()
    # (8 / 4 + x / 2 + x) / 2 + q, for each task
    assert float(state["mean"]) == np.mean([2.0, 5.0, 14.0])
    assert (int(state["count"]), float(state["kept"])) == (10 + 3 * 5, third)
    assert (jax.random.key_data(state["key"]) == jax.random.key_data(start["key"])).all()


def test_context_of_a_task():
    def look(params, rows, ctx):
        assert not ctx.train
        draw = {"half": Term(params * jax.random.normal(ctx.key)), "frozen": Term(ctx.frozen)}
        return draw | {"scalar weight": Term(rows["x"], jnp.float32(2.0))}

    batch = {"support": {"x": jnp.ones((4, 3))}, "query": {"x": jnp.ones((4, 3))}}
    state = create_state(jnp.ones(()), SGD, key=0, frozen=jnp.float32(7.0))
    metrics = jax.jit(build_eval_step(maml(look, inner_rate=1.0, steps=2, **WEIGHTS)))(state, batch)
    assert [float(x) for x in metrics["scalar weight"]] == [24.0, 24.0]
    assert float(metrics["frozen"][0]) == 28.0


def test_keys_differ_between_tasks_and_inner_steps():
    """The gradient of an inner step is its random draw."""
    method = maml(lambda p, r, c: {"half": Term(p * jax.random.normal(c.key))}, inner_rate=1.0, **WEIGHTS)
    batch = {"support": np.ones(3), "query": np.ones(3)}
    values = jax.jit(lambda: method(jnp.ones(()), batch, context())["half"].values)()
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(1), i)
        step, query = (jax.random.normal(jax.random.fold_in(key, n)) for n in (0, 1))
        np.testing.assert_allclose(values[i], (1 - step) * query, rtol=1e-6)


def test_bfloat16_parameters_adapt_in_float32():
    """256 steps of 1/1024, which bfloat16 would round away one by one."""
    method = maml(lambda p, r, c: {"half": Term(p * r["x"], weights=1)}, inner_rate=2.0**-10, steps=256, **WEIGHTS)
    batch = {"support": {"x": jnp.ones((1, 1))}, "query": {"x": jnp.ones((1, 1))}}
    terms = jax.jit(lambda: method(jnp.ones((), jnp.bfloat16), batch, context()))()
    assert terms["half"].values.item() == 0.75


# What the user can mend


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"support": {"x": 1}}, r"\{'support': \.\.\., 'query': \.\.\.\}.*got support"),
        ({"x": np.ones((2, 3))}, "got x"),
        ({}, "got an empty dict"),
        (np.ones((2, 3)), "got ndarray"),
        ({"support": np.ones(2), "query": np.ones(2), "mask": np.ones(2)}, "got mask, query, support"),
        ({"support": np.ones((2, 1)), "query": np.ones((3, 1))}, r"same number of tasks.*\(3, 1\)"),
        ({"support": np.ones(()), "query": np.ones(())}, "same number of tasks"),
        ({"support": {}, "query": np.ones(2)}, "the support of a batch of tasks holds no array"),
    ],
)
def test_batches_that_hold_no_tasks(batch, message):
    with pytest.raises(UsageError, match=message):
        maml(network, **COMMON)(NETWORK, batch, context())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: maml(network, inner_rate=0.1, loss_weights={}), "inner loop is empty"),
        (lambda: maml(network, inner_rate=-0.1, **WEIGHTS), "inner_rate is -0.1, but must be at least 0"),
        (lambda: maml(network, steps=-1, **COMMON), "steps is -1"),
        (lambda: imaml(network, weight=0.0, steps=1, **COMMON), "weight is 0.0, but must be above 0"),
        (lambda: imaml(network, weight=1.0, steps=0, **COMMON), "imaml needs at least 1 step"),
        (lambda: proximal_meta(network, weight=float("nan"), **COMMON), "weight is nan"),
        (lambda: reptile(network, steps=0, **COMMON), "reptile needs at least 1 inner step"),
    ],
)
def test_arguments_that_never_fit(build, message):
    with pytest.raises(UsageError, match=message):
        build()


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        (
            maml(network, inner_rate=0.1, loss_weights={"hlf": 1.0}),
            NETWORK,
            "'hlf', but the objective's terms are 'half'",
        ),
        (anil(network, head="haed", **COMMON), NETWORK, "head='haed' matches none .* body, head"),
        (anil(network, head=lambda path: False, **COMMON), NETWORK, "head matches no parameter"),
        (meta_sgd(network, **WEIGHTS), NETWORK, r"got .*'body': \(2, 2\).*: make it with meta_sgd_params"),
        (meta_sgd(network, **WEIGHTS), np.ones(2), "got ndarray: make it with meta_sgd_params"),
        (meta_sgd(network, **WEIGHTS), {"params": NETWORK, "inner_rates": np.ones(2)}, "make it with meta_sgd_params"),
        (reptile(proximal_meta(network, weight=1.0, **COMMON), steps=1, **COMMON), NETWORK, "a batch of tasks"),
        (proximal_meta(lambda *a: {"proximal": Term(1.0)} | network(*a), weight=1.0, **COMMON), NETWORK, "rename the"),
    ],
)
def test_calls_that_do_not_fit(method, params, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(lambda: method(params, LABELLED, context()))
