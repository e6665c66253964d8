from dataclasses import replace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.train.support import optimizer_oracles
from tests.train.support.optimizer_oracles import (
    PLAIN,
    RATE,
    assert_close,
    cubes,
    expected,
    gradients,
    parameters,
    run,
    to_jax,
)
from train.optimizers import OPTIMIZERS, OptimizerConfig, decay_mask, layer_rates, make_optimizer
from train.optimizers.matrices import newton_schulz
from train.paths import map_with_path

# Their kin is tried in `test_optimizer_kin`.
FIRST = ("sgd", "momentum", "nesterov", "adam", "adamw", "lion", "lamb", "adafactor", "muon")


@pytest.mark.parametrize("name", FIRST)
def test_updates_follow_the_paper_without_weight_decay(name):
    params = parameters()
    grads = gradients(params)
    config = OptimizerConfig(name=name, learning_rate=RATE, schedule="constant", weight_decay=0.0)
    for ours, right in zip(run(config, params, grads), expected(name, params, grads, 0.0), strict=True):
        assert_close(ours, right, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in FIRST if name != "adam"])
def test_decoupled_decay_is_scaled_by_the_rate_and_spares_the_bias(name):
    params = parameters()
    grads = gradients(params)
    config = OptimizerConfig(name=name, learning_rate=RATE, schedule="constant", weight_decay=0.3)
    for ours, right in zip(run(config, params, grads), expected(name, params, grads, 0.3), strict=True):
        assert_close(ours, right, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_factor_of_the_rate_is_a_rate_also_where_it_is_traced(name):
    params = parameters()
    grads = [to_jax(grad) for grad in gradients(params)[:2]]
    shape = {"name": name, "schedule": "constant", "warmup": 0 if name in ("prodigy", "dadapt_adamw") else 3}
    factors = [0.25, 2.0]

    def trained(config, factor):
        optimizer, weights = make_optimizer(config, 10, rate_factor=factor), to_jax(params)
        state = optimizer.init(weights)
        for grad in grads:
            updates, state = optimizer.update(grad, state, weights, value=0.0, grad_fn=cubes)
            weights = optax.apply_updates(weights, updates)
        return weights

    half = OptimizerConfig(learning_rate=0.5, **shape)
    together = jax.jit(jax.vmap(lambda factor: trained(half, factor)))(jnp.array(factors))
    for place, factor in enumerate(factors):
        right = jax.jit(lambda f=factor: trained(OptimizerConfig(learning_rate=0.5 * f, **shape), 1.0))()
        assert_close(jax.tree.map(lambda leaf, i=place: leaf[i], together), right)


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.01), ("lion", 0.01), ("lamb", 0.01), ("sgd", 0.0)])
def test_default_weight_decay(name, decay):
    params = parameters()
    grads = gradients(params)
    config = OptimizerConfig(name=name, learning_rate=RATE, schedule="constant")
    assert_close(run(config, params, grads)[-1], expected(name, params, grads, decay)[-1], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("momentum", {"mu": 0.5}),
        ("nesterov", {"mu": 0.5}),
        ("adam", {"b1": 0.5, "b2": 0.7, "eps": 0.1}),
        ("lion", {"b1": 0.2, "b2": 0.6}),
        ("muon", {"beta": 0.5}),
    ],
)
def test_coefficients_reach_the_update(name, kwargs):
    params = parameters()
    grads = gradients(params)
    settings = {"momentum" if key in ("mu", "beta") else key: value for key, value in kwargs.items()}
    config = OptimizerConfig(name=name, learning_rate=RATE, schedule="constant", weight_decay=0.0, **settings)
    assert_close(run(config, params, grads)[-1], expected(name, params, grads, 0.0, **kwargs)[-1], rtol=2e-5, atol=2e-6)


def test_lion_forgets_at_the_second_rate():
    grads = [{"w": np.array([1.0])}, {"w": np.array([-0.05])}, {"w": np.array([-0.2])}]
    config = OptimizerConfig(name="lion", learning_rate=RATE, schedule="constant")
    # 0.9 m + 0.1 g with m = 0, 0.01 and 0.0094 is 0.1, 0.004 and -0.0115; with b2 = 0.999 the second would be negative.
    history = [p["w"][0] for p in run(config, {"w": np.zeros(1)}, grads)]
    np.testing.assert_allclose(history, [-0.1, -0.2, -0.1], rtol=1e-6)


def test_adafactor_factors_large_matrices():
    params = parameters((128, 131))
    grads = gradients(params, steps=2)
    config = OptimizerConfig(name="adafactor", learning_rate=RATE, schedule="constant")
    assert_close(run(config, params, grads)[-1], expected("adafactor", params, grads, 0.0)[-1], rtol=2e-5, atol=2e-6)
    state = make_optimizer(config, 10).init(to_jax(params))
    assert max(leaf.size for leaf in jax.tree.leaves(state)) < 128 * 131


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (6, 2)])
def test_muon_makes_the_update_nearly_orthogonal(shape):
    rng = np.random.default_rng(3)
    params, grad = {"w": np.zeros(shape)}, {"w": rng.normal(size=shape)}
    config = OptimizerConfig(name="muon", learning_rate=1.0, schedule="constant", weight_decay=0.0)
    update = -np.asarray(run(config, params, [grad])[0]["w"], np.float64) / (0.2 * np.sqrt(max(shape)))
    singular = np.linalg.svd(update, compute_uv=False)
    # The coefficients trade exactness for speed: singular values land between 0.5 and 1.5 (Jordan et al. 2024).
    assert np.all((singular > 0.5) & (singular < 1.5))
    u, s, vt = np.linalg.svd(grad["w"], full_matrices=False)
    assert s.max() / s.min() > 1.2
    rotated = u.T @ update @ vt.T
    np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-5)
    assert np.all(np.diag(rotated) > 0.5)


@pytest.mark.parametrize("shape", [(16, 48), (32, 32)])
def test_muon_holds_where_singular_values_differ_by_many_orders(shape):
    rng = np.random.default_rng(3)
    u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    matrix = (u * np.logspace(0, -12, shape[0])) @ vt
    matrix = (matrix / np.linalg.norm(matrix)).astype(np.float32)
    wanted = optimizer_oracles.newton_schulz(matrix.astype(np.float64))
    np.testing.assert_allclose(newton_schulz(matrix), wanted, atol=5e-4)
    np.testing.assert_allclose(newton_schulz(matrix.T), wanted.T, atol=5e-4)


def test_muon_leaves_embeddings_heads_and_vectors_to_adam():
    names = ["token_embedding", "Embed_0", "mlm_head", "head", "Head_0"]
    params = {name: {"w": np.ones((2, 3))} for name in names} | {
        "multi_head_attention": {"w": np.ones((2, 3)), "b": np.ones(3)}
    }
    grads = [jax.tree.map(lambda p: np.random.default_rng(5).normal(size=p.shape), params)]
    config = OptimizerConfig(name="muon", learning_rate=RATE, schedule="constant", weight_decay=0.0)
    by_muon = run(config, params, grads)[0]
    by_adam = run(replace(config, name="adam"), params, grads)[0]
    assert_close({name: by_muon[name] for name in names}, {name: by_adam[name] for name in names})
    matrix = by_muon["multi_head_attention"]["w"] - by_adam["multi_head_attention"]["w"]
    assert np.abs(matrix).max() > 1e-3
    np.testing.assert_allclose(by_muon["multi_head_attention"]["b"], by_adam["multi_head_attention"]["b"], rtol=1e-6)


TREES = {
    "dict": lambda: {"dense": {"kernel": jnp.full((3, 2), 1.0), "bias": jnp.full(2, 1.0)}},
    "flax": lambda: flax.core.freeze({"dense": {"kernel": jnp.full((3, 2), 1.0), "bias": jnp.full(2, 1.0)}}),
    "tuple": lambda: (jnp.full((3, 2), 1.0), [jnp.full(2, 1.0), {"scale": jnp.full((), 1.0)}]),
}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", FIRST)
def test_every_optimizer_lowers_a_quadratic(name, tree):
    config = OptimizerConfig(name=name, learning_rate=0.1, warmup=0.1, clip_norm=5.0, l2=1e-4)
    params = TREES[tree]()
    optimizer = make_optimizer(config, 60, params)

    def loss(tree):
        return sum(jnp.sum((leaf - 1.8) ** 2) for leaf in jax.tree.leaves(tree))

    def body(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(params):
        return jax.lax.scan(body, (params, optimizer.init(params)), length=60)[0][0]

    after = train(params)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert loss(after) < 0.5 * loss(params)


def test_nnx_state_is_a_tree_like_any_other():
    _, params = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    assert jax.tree.leaves(decay_mask(params)) == [False, True]
    optimizer = make_optimizer(replace(PLAIN, freeze="^bias"), 10, params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert not np.any(jax.tree.leaves(updates)[0])
    assert np.any(jax.tree.leaves(updates)[1])


def test_the_schedule_drives_the_rate_of_each_step():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="linear", warmup=2)
    history = run(config, {"w": np.zeros(1)}, [{"w": np.ones(1)}] * 6, total_steps=6)
    # Rates 0, 1/2, 1, 3/4, 1/2, 1/4, summed.
    np.testing.assert_allclose([p["w"][0] for p in history], [0, -0.5, -1.5, -2.25, -2.75, -3.0], rtol=1e-6)


def test_clipping_starts_at_the_threshold():
    def step(config, grad):
        return -np.asarray(run(config, {"a": np.zeros(1), "b": np.zeros(1)}, [grad])[0]["b"])[0] / RATE

    by_norm = replace(PLAIN, clip_norm=5.0)
    for scale, factor in ((0.99, 1.0), (1.0, 1.0), (2.0, 0.5)):  # The norm of (3, 4) is 5.
        grad = {"a": np.array([3.0 * scale]), "b": np.array([4.0 * scale])}
        np.testing.assert_allclose(step(by_norm, grad), 4.0 * scale * factor, rtol=1e-6)
    by_value = replace(PLAIN, clip_value=2.0)
    assert step(by_value, {"a": np.zeros(1), "b": np.array([-3.0])}) == pytest.approx(-2.0)
    assert step(by_value, {"a": np.zeros(1), "b": np.array([1.5])}) == pytest.approx(1.5)
    both = replace(PLAIN, clip_value=3.0, clip_norm=2.5)  # (3, 100) -> (3, 3) -> 2.5 / sqrt(2) each
    assert step(both, {"a": np.array([3.0]), "b": np.array([100.0])}) == pytest.approx(2.5 / np.sqrt(2))


def test_coupled_penalties_enter_the_gradient_after_clipping():
    params = {"kernel": np.array([[2.0, -3.0, 0.0]]), "bias": np.array([5.0])}
    grad = {"kernel": np.array([[0.0, 0.0, 0.0]]), "bias": np.array([4.0])}
    config = replace(PLAIN, l1=0.5, l2=0.25, clip_norm=1.0)
    after = run(config, params, [grad])[0]
    np.testing.assert_allclose(after["kernel"], [[2 - RATE * (0.5 + 0.5), -3 + RATE * (0.75 + 0.5), 0.0]], rtol=1e-6)
    np.testing.assert_allclose(after["bias"], [5 - RATE * 1.0], rtol=1e-6)
    # Coupled means that it passes through the optimizer: Adam's first step is the sign of gradient plus penalty.
    adam = OptimizerConfig(name="adam", learning_rate=RATE, schedule="constant", l2=0.25)
    after = run(adam, params, [jax.tree.map(np.zeros_like, params)])[0]
    np.testing.assert_allclose(after["kernel"], [[2 - RATE, -3 + RATE, 0.0]], rtol=1e-6)


def test_decay_mask_takes_matrices_or_a_pattern():
    params = {
        "attention": {"bias": np.ones((2, 3)), "kernel": np.ones((4, 2, 3))},
        "norm": {"scale": np.ones(3)},
        "bias_table": np.ones((2, 2)),
    }
    mask = decay_mask(params)
    assert mask == {"attention": {"bias": False, "kernel": True}, "norm": {"scale": False}, "bias_table": True}
    assert jax.tree.leaves(decay_mask(params, "norm|table$")) == [False, False, True, True]
    assert decay_mask(jax.eval_shape(lambda: to_jax(params))) == mask
    zero = jax.tree.map(np.zeros_like, params)
    after = run(replace(PLAIN, weight_decay=0.5, decay_pattern="^norm"), params, [zero])[0]
    np.testing.assert_allclose(after["norm"]["scale"], 1 - RATE * 0.5, rtol=1e-6)
    assert np.all(np.asarray(after["attention"]["kernel"]) == 1)


LAYERED = {
    "embed": {"embedding": np.ones((2, 2))},
    "encoder": [{"layer_0": {"embedding_norm": np.ones(2)}}, {"EncoderBlock_1": {"kernel": np.ones((2, 2))}}],
    "blocks": {"2": {"kernel": np.ones((2, 2))}},
    "final_norm": np.ones(2),
    "head": {"kernel": np.ones((2, 2))},
}


def test_layer_wise_rates_are_exact():
    config = replace(PLAIN, learning_rate=1.0, layer_decay=0.8)
    exponents = {"embed/embedding": 4, "encoder/0/layer_0/embedding_norm": 3, "encoder/1/EncoderBlock_1/kernel": 2}
    exponents |= {"blocks/2/kernel": 1, "final_norm": 0, "head/kernel": 0}
    right = map_with_path(lambda path, _: 0.8 ** exponents[path], LAYERED)
    assert layer_rates(config, LAYERED) == right
    after = run(config, LAYERED, [jax.tree.map(np.ones_like, LAYERED)])[0]
    jax.tree.map(lambda p, rate: np.testing.assert_array_equal(p, 1 - np.float32(rate)), after, right)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon"])
def test_layer_wise_rates_scale_the_whole_update(name):
    params = to_jax(LAYERED)
    config = OptimizerConfig(name=name, learning_rate=0.5, schedule="constant", weight_decay=0.1)
    both = []
    for layer_decay in (1.0, 0.5):
        optimizer = make_optimizer(replace(config, layer_decay=layer_decay), 10)
        both.append(jax.jit(optimizer.update)(params, optimizer.init(params), params)[0])
    rates = layer_rates(replace(config, layer_decay=0.5), params)
    jax.tree.map(lambda whole, part, rate: np.testing.assert_array_equal(np.asarray(whole) * rate, part), *both, rates)


def test_layers_are_counted_with_the_frozen_ones():
    config = replace(PLAIN, learning_rate=1.0, layer_decay=0.5, freeze="^blocks/2")
    after = run(config, LAYERED, [jax.tree.map(np.ones_like, LAYERED)])[0]
    np.testing.assert_array_equal(after["blocks"]["2"]["kernel"], 1.0)
    np.testing.assert_array_equal(after["encoder"][1]["EncoderBlock_1"]["kernel"], 1 - 0.5**2)


@pytest.mark.parametrize("name", [*FIRST, "adan", "sophia", "prodigy", "schedule_free_adamw"])
def test_frozen_parameters_keep_their_bits_and_do_not_count(name):
    params = parameters() | {"embed": np.random.default_rng(2).normal(size=(3, 2))}
    grads = [{**g, "embed": np.full((3, 2), np.inf)} for g in gradients(parameters())]
    config = OptimizerConfig(name=name, learning_rate=RATE, schedule="constant", clip_norm=0.5, l1=0.1, freeze="^embed")
    after = run(config, params, grads)[-1]
    assert np.asarray(after["embed"]).tobytes() == np.asarray(params["embed"], np.float32).tobytes()
    alone = run(replace(config, freeze=None), parameters(), gradients(parameters()))[-1]
    assert_close({key: after[key] for key in alone}, alone)
    frozen_state = make_optimizer(config, 10).init(to_jax(params))
    assert all(leaf.shape != (3, 2) for leaf in jax.tree.leaves(frozen_state))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_keeps_its_structure_and_types_and_can_be_mapped(name, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), to_jax(LAYERED))
    common = {"freeze": "^embed", "layer_decay": 0.5, "clip_norm": 1.0, "l1": 0.1, "l2": 0.1}
    config = OptimizerConfig(name=name, schedule="constant", **common)
    optimizer = make_optimizer(config, 10, params)
    state = optimizer.init(params)
    updates, after = jax.eval_shape(lambda *args: optimizer.update(*args, grad_fn=cubes), params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updates) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    doubled = optax.tree_map_params(optimizer, lambda x: x + 1, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)
