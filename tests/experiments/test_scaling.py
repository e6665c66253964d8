"""The formulas behind docs/scaling.md: against the model, the optimizers, the compiler and numbers by hand."""

import dataclasses
import math
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.scaling import (
    GRADIENT_BYTES,
    HARDWARE,
    MODELS,
    STATE_BYTES,
    Hardware,
    Model,
    Plan,
    model_table,
    plan_table,
    plans,
)
from experiments.models.transformer import SHARDING_RULES, CausalLM, TransformerConfig
from train import OptimizerConfig, Term, build_train_step, create_state, make_mesh, make_optimizer, param_specs
from train.devices.mesh import batch_sharding
from train.devices.sharding import state_shardings

DOCUMENT = Path(__file__).parents[2] / "docs/scaling.md"
TINY = Model("tiny", depth=1, width=64, vocab=512, seq_len=32)


def parameters(model, **options):
    config = TransformerConfig(width=model.width, depth=model.depth, heads=model.width // 32, **options)
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    network = CausalLM(config, model.vocab)
    shapes = jax.eval_shape(lambda t: network.init(jax.random.key(0), t, valid=t == 0), tokens)["params"]
    return network, shapes


def total_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("model", [TINY, MODELS["125M"], MODELS["70B"]], ids=lambda model: model.name)
def test_the_number_of_parameters_is_that_of_the_model(model):
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters(model)[1])) == model.parameters


@pytest.mark.parametrize("name", STATE_BYTES)
def test_the_bytes_of_a_state_are_those_of_the_optimizer(name):
    model = MODELS["1.3B"]
    optimizer = make_optimizer(OptimizerConfig(name=name), 10)
    state = jax.eval_shape(lambda params: create_state(params, optimizer, key=0), parameters(model)[1])
    found = (total_bytes(state.params) + total_bytes(state.opt_state)) / model.parameters
    # Muon keeps a second number of the embedding, 8 % of this model.
    assert found == pytest.approx(STATE_BYTES[name], rel=0.05 if name == "muon" else 1e-6)


def test_the_flops_are_those_of_the_compiled_program():
    network, shapes = parameters(TINY)

    def loss(params, tokens):
        return jnp.sum(network.apply({"params": params}, tokens, valid=tokens >= 0) ** 2)

    tokens = jax.ShapeDtypeStruct((8, TINY.seq_len), jnp.int32)
    analysis = jax.jit(jax.grad(loss)).lower(shapes, tokens).compile().cost_analysis()
    ratio = analysis["flops"] / (TINY.flops_per_token * 8 * TINY.seq_len)
    assert 1 <= ratio < 1.15  # what is no matrix product, a larger share the smaller the model


def test_collectives_by_hand():
    """A billion parameters, to count in GB, on devices that send 1 GB in a second."""
    model = Model("round", depth=1, width=1000, vocab=987_992, seq_len=1)
    assert model.parameters == 10**9
    slow = Hardware("slow", 1e12, 1e12, fast_link=1e9, island=8, slow_link=0.1e9)
    sent = Plan(model, slow, data=4).collective_bytes()
    assert sent == {"data": 2 * 3 / 4 * 4e9, "fsdp": 0, "tensor": 0}
    plan = Plan(model, slow, data=2, fsdp=4, tokens=1000)
    assert plan.collective_bytes() == {"data": 4e9 / 4, "fsdp": 3 / 4 * 8e9, "tensor": 0}
    assert plan.collective_seconds() == {"data": 1.0, "fsdp": 6.0, "tensor": 0.0}
    assert (plan.state_bytes, plan.gathered_memory) == (16e9 / 4, 4e9)
    tight = Plan(model, dataclasses.replace(slow, memory=9e9), data=2, fsdp=4, tokens=1000)
    assert tight.recomputes
    assert tight.collective_bytes()["fsdp"] == 3 / 4 * 12e9
    assert tight.gathered_memory == 4 * 1000 * (12 * 1000 + 987_992)
    tensor = Plan(model, slow, tensor=2, tokens=1000)
    assert not tensor.recomputes
    assert tensor.collective_bytes()["tensor"] == (4 + 2) * 2 / 2 * 4 * 1000 * 1000
    # Two islands: a ring over data outside of fsdp 8 has one link a device, a ring over 16 has eight for each border.
    assert Plan(model, slow, data=2, fsdp=8).collective_seconds()["data"] == pytest.approx(4 / 8 / 0.1)
    assert Plan(model, slow, fsdp=16).collective_seconds()["fsdp"] == pytest.approx(15 / 16 * 8 / 0.8)


def test_utilisation_lies_between_nothing_and_everything_hidden():
    plan = Plan(MODELS["1.3B"], HARDWARE["H100"], fsdp=8, tokens=16_384)
    compute, talk = plan.compute_seconds, sum(plan.collective_seconds().values())
    assert plan.utilisation == (compute / (compute + talk), 1.0)
    assert np.isclose(compute, 9.07e9 * 16_384 / 989e12, rtol=1e-3)
    twice = Plan(MODELS["1.3B"], HARDWARE["v5e"], fsdp=16)
    assert twice.recomputes
    assert max(twice.utilisation) == pytest.approx(0.75)


@pytest.mark.parametrize("plan", plans(), ids=lambda plan: f"{plan.model.name} {plan.hardware.name} {plan.devices}")
def test_a_plan_fits_its_devices(plan):
    assert plan.state_bytes + plan.activation_bytes + plan.gathered_memory < 0.95 * plan.hardware.memory
    assert plan.state_bytes == pytest.approx(
        (STATE_BYTES[plan.optimizer] + GRADIENT_BYTES) * plan.model.parameters / (plan.fsdp * plan.tensor)
    )


def test_the_document_shows_the_tables():
    text = DOCUMENT.read_text()
    assert model_table() in text
    assert plan_table() in text


def compiled_step(axes, model=TINY, rows=64, **options):
    """The compiled train step of a model on a mesh of eight devices."""
    network, shapes = parameters(model, **options)
    tokens = np.zeros((rows, model.seq_len), np.int32)
    optimizer, mesh = make_optimizer(OptimizerConfig(name="momentum"), 10), make_mesh(**axes)

    def objective(params, batch, ctx):
        logits = network.apply({"params": params}, batch["tokens"], valid=batch["tokens"] >= 0)
        return {"square": Term(jnp.sum(logits**2, (1, 2)), weights=1)}

    state = jax.eval_shape(lambda params: create_state(params, optimizer, key=0), shapes)
    places = state_shardings(state, mesh, SHARDING_RULES, min_size=1024)
    step = build_train_step(objective, optimizer, loss_weights={"square": 1.0})
    rest = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    jitted = jax.jit(step, in_shardings=(places, batch_sharding(mesh)), out_shardings=(places, rest))
    return jitted.lower(state, {"tokens": tokens}).compile()


def collective_bytes(text):
    """Bytes of the results of each kind of collective in a compiled program, float32 and 32 bits wide."""
    found = Counter()
    for shape, kind in re.findall(r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all)\(", text):
        sizes = re.findall(r"[fsu]32\[([\d,]*)\]", shape)
        found[kind] += 4 * sum(math.prod(int(size) for size in dims.split(",") if size) for dims in sizes)
    return found


def test_fsdp_moves_parameters_and_gradients_and_not_the_activations():
    """Once each: without recomputation the compiler keeps a gathered kernel for the backward pass."""
    found = collective_bytes(compiled_step({"fsdp": 8}).as_text())
    split = 4 * TINY.matrices
    lookup = 4 * 64 * TINY.seq_len * TINY.width  # of the global batch in the embedding, which is split by words
    assert split <= found["all-gather"] <= 1.02 * split + lookup
    assert split <= found["all-reduce"] + 8 * found["reduce-scatter"] <= 1.02 * (4 * TINY.parameters) + lookup
    assert found["all-to-all"] < 0.1 * split


@pytest.mark.full
def test_blocks_that_are_computed_twice_are_gathered_twice():
    once, twice = (collective_bytes(compiled_step({"fsdp": 8}, recompute=again).as_text()) for again in (False, True))
    assert twice["all-gather"] - once["all-gather"] == pytest.approx(4 * 12 * TINY.depth * TINY.width**2, rel=0.05)


def test_blocks_that_are_computed_twice_change_nothing():
    def gradient(again):
        network, shapes = parameters(TINY, recompute=again, dropout=0.5)
        params = jax.tree.map(lambda leaf: 0.1 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), shapes)
        tokens, rngs = jnp.arange(8).reshape(2, 4), {"dropout": jax.random.key(1)}
        run = lambda p: network.apply({"params": p}, tokens, valid=tokens >= 0, train=True, rngs=rngs)  # noqa: E731
        return jax.jit(jax.grad(lambda p: jnp.sum(run(p) ** 2)))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient(True), gradient(False))


def test_the_rules_split_every_matrix_of_the_model():
    mesh = make_mesh(fsdp=4, tensor=2)
    _, shapes = parameters(TINY)
    specs = param_specs(shapes, mesh, SHARDING_RULES)
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        spec = specs
        for key in path:
            spec = spec[key.key]
        axes = {name for axis in spec if axis for name in ((axis,) if isinstance(axis, str) else axis)}
        assert (axes == {"fsdp", "tensor"}) == (leaf.ndim == 2), jax.tree_util.keystr(path)
