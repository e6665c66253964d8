"""Losses straight from hidden states equal those of the logits, for every path, in the gradients of all inputs."""

import functools
import math
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossfns import (
    gather_labelled,
    knowledge_distillation,
    linear_cross_entropy,
    linear_distillation,
    linear_log_probs,
    linear_sequence_log_probs,
    orpo,
    softmax_cross_entropy,
)
from lossfns.language import _output_layer

TOKENS, CLASSES, FEATURES = 7, 8, 3
OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01, "soft_cap": 3.0}


def draw(seed=0, scale=1.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    hidden, head = rng.normal(size=(TOKENS, FEATURES)), scale * rng.normal(size=(CLASSES, FEATURES))
    bias, labels = rng.normal(size=CLASSES), rng.integers(0, CLASSES, TOKENS)
    return (*(jnp.asarray(x, dtype) for x in (hidden, head, bias)), jnp.asarray(labels))


def plain(hidden, head, bias, labels, **options):
    options.pop("block_size", None)
    return softmax_cross_entropy(hidden @ head.T + bias[None], labels, **options)


def streamed(hidden, head, bias, labels, **options):
    return linear_cross_entropy(hidden, head, labels, bias=bias, **options)


def gradients(loss, weights, arrays, labels, **options):
    return jax.jit(jax.grad(lambda *xs: (weights * loss(*xs, labels, **options)).sum(), argnums=(0, 1, 2)))(*arrays)


EQUAL = jnp.full(TOKENS, 0.5)
UNEQUAL = jnp.arange(TOKENS) - 2.0
MASK = jnp.arange(TOKENS) % 3 != 1


def assert_near(actual, expected, tolerance=1e-5):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=tolerance, rtol=tolerance), actual, expected)


@pytest.mark.parametrize(("tile", "part"), [(3, 100), (7, 3), (100, 4)])
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
def test_tiles_of_tokens_give_the_gradient_of_the_logits(monkeypatch, tile, part, options):
    monkeypatch.setattr(_output_layer, "tile_tokens", lambda rows, classes: min(rows, tile))
    monkeypatch.setattr(_output_layer, "chunk_classes", lambda rows, classes: min(classes, part))
    jax.clear_caches()  # of programs with other tiles and parts
    *arrays, labels = draw()
    for weights, where in ((EQUAL, None), (UNEQUAL, None), (EQUAL * MASK, MASK), (UNEQUAL, MASK)):
        expected = gradients(plain, weights, arrays, labels, where=where, **options)
        assert_near(gradients(streamed, weights, arrays, labels, where=where, **options), expected)
        assert_near(streamed(*arrays, labels, where=where, **options), plain(*arrays, labels, where=where, **options))


@pytest.mark.parametrize("block", [1, 3, 4, 7, 8, 100])
def test_any_block_gives_the_value_and_gradient_of_the_logits(block):
    *arrays, labels = draw()
    options = {"where": MASK, "block_size": block, **OPTIONS}
    assert_near(streamed(*arrays, labels, **options), plain(*arrays, labels, **options))
    expected = gradients(plain, UNEQUAL, arrays, labels, **options)
    assert_near(gradients(streamed, UNEQUAL, arrays, labels, **options), expected)


@pytest.mark.parametrize("block", [None, 3])
def test_the_log_normaliser_and_its_gradient(block):
    *arrays, labels = draw()

    def objective(hidden, head, bias):
        values, log_z = streamed(hidden, head, bias, labels, where=MASK, return_lse=True, block_size=block)
        return values.mean() + jnp.square(log_z).sum()

    def expected(hidden, head, bias):
        log_z = jnp.where(MASK, jax.nn.logsumexp(hidden @ head.T + bias[None], axis=-1), 0)
        return plain(hidden, head, bias, labels, where=MASK).mean() + jnp.square(log_z).sum()

    for actual, wanted in zip(
        *(jax.value_and_grad(f, argnums=(0, 1, 2))(*arrays) for f in (objective, expected)), strict=True
    ):
        assert_near(actual, wanted)


@pytest.mark.parametrize("block", [None, 3])
def test_gradients_of_the_options(block):
    *arrays, labels = draw()

    def objective(loss, smoothing, z_loss, cap):
        options = {"label_smoothing": smoothing, "z_loss": z_loss, "soft_cap": cap}
        return loss(*arrays, labels, where=MASK, block_size=block, **options).mean()

    actual, expected = (
        jax.grad(functools.partial(objective, loss), argnums=(0, 1, 2))(*map(jnp.float32, (0.1, 0.01, 3.0)))
        for loss in (streamed, plain)
    )
    assert_near(actual, expected)


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["random", "peaked"])
@pytest.mark.parametrize("block", [None, 3])
def test_bfloat16_gradients_are_no_worse_than_those_of_bfloat16_logits(scale, block):
    *arrays, labels = draw(scale=scale, dtype=jnp.bfloat16)

    def naive(hidden, head, bias, labels, **options):
        return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ head.T + bias[None], -1), labels[:, None], -1)[:, 0]

    with jax.enable_x64(True):
        doubles = [np.asarray(x, np.float64) for x in arrays]
        exact = [np.asarray(x) for x in gradients(plain, np.full(TOKENS, 0.5), doubles, np.asarray(labels))]
    streamed_by_block = functools.partial(streamed, block_size=block)
    worst = [
        max(np.abs(np.asarray(a).astype(float) - e).max() for a, e in zip(slopes, exact, strict=True))
        for slopes in (gradients(loss, EQUAL, arrays, labels) for loss in (streamed_by_block, naive))
    ]
    assert worst[0] <= worst[1]


def on_devices(run, specs, out_specs, given, backend):
    """`run` on four devices that share the vocabulary."""
    devices = jax.devices()[:4]
    if backend == "pmap":
        split = [x.reshape(4, -1, *x.shape[1:]) if s == P("v") else x for x, s in zip(given, specs, strict=True)]
        axes = tuple(0 if s == P("v") else None for s in specs)
        out = jax.pmap(run, axis_name="v", in_axes=axes, devices=devices)(*split)
        return [x.reshape(-1, *x.shape[2:]) if s == P("v") else x[2] for x, s in zip(out, out_specs, strict=True)]
    mesh = jax.make_mesh((4,), ("v",), axis_types=(AxisType.Auto,), devices=devices)
    mapped = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=backend == "check_vma")
    return jax.jit(mapped)(*given)


@pytest.mark.parametrize("backend", ["check_vma", "no check_vma", "pmap"])
@pytest.mark.parametrize("options", [{}, {"block_size": 1, **OPTIONS}], ids=["plain", "options"])
def test_a_vocabulary_spread_over_devices(backend, options):
    hidden, head, bias, labels = draw()

    def run(hidden, head, bias):
        def objective(hidden, head, bias):
            values = streamed(hidden, head, bias, labels, where=MASK, axis_name="v", **options)
            return (UNEQUAL * values).sum(), values

        slopes, values = jax.grad(objective, argnums=(0, 1, 2), has_aux=True)(hidden, head, bias)
        return values, *slopes

    specs = P(), P("v"), P("v")
    values, *slopes = on_devices(run, specs, (P(), *specs), (hidden, head, bias), backend)
    assert_near(values, plain(hidden, head, bias, labels, where=MASK, **options))
    assert_near(tuple(slopes), gradients(plain, UNEQUAL, (hidden, head, bias), labels, where=MASK, **options))


@pytest.mark.parametrize("loss", [linear_cross_entropy, linear_log_probs])
def test_a_spread_vocabulary_sends_a_few_numbers_a_token(loss):
    """Two sums over the devices forward; back, the gradient of the hidden states as well. Never scores, never heads."""
    tokens, features, classes = 64, 16, 512
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((tokens, features), (classes, features))]
    labels = jnp.zeros(tokens, int)
    mesh = jax.make_mesh((4,), ("v",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def values(hidden, head):
        spread = jax.shard_map(
            lambda *x: loss(*x, labels, axis_name="v"), mesh=mesh, in_specs=(P(), P("v")), out_specs=P()
        )
        return spread(hidden, head)

    def gradients(hidden, head):
        return jax.grad(lambda *x: values(*x).sum(), argnums=(0, 1))(hidden, head)

    def sent(function):
        text = jax.jit(function).lower(*given).compile().as_text()
        calls = re.findall(r"= (.+?) (all-[a-z-]+|reduce-scatter|collective-permute)(?:-start)?\(", text)
        assert {kind for _, kind in calls} == {"all-reduce"}
        sizes = [[math.prod(map(int, n.split(","))) for n in re.findall(r"\[([\d,]+)\]", shape)] for shape, _ in calls]
        return len(calls), sum(map(sum, sizes))

    assert sent(values) == (2, 3 * tokens)
    count, numbers = sent(gradients)
    assert count <= 3
    assert numbers <= (3 + features) * tokens


def test_labels_outside_of_a_spread_vocabulary_give_nan():
    hidden, head, bias, _ = draw()
    labels = jnp.array([-1, 0, 1, 7, 8, 3, 100])

    def run(head, bias):
        return (streamed(hidden, head, bias, labels, axis_name="v"),)

    (values,) = on_devices(run, (P("v"), P("v")), (P(),), (head, bias), "check_vma")
    np.testing.assert_array_equal(np.isnan(values), (labels < 0) | (labels > 7))


def test_tokens_and_vocabulary_spread_over_two_axes():
    """Shares of the tokens on one axis, of the classes on the other; parameters' gradients arrive summed."""
    hidden, head, bias, labels = draw()
    hidden, labels = jnp.concatenate([hidden, hidden[:1]]), jnp.concatenate([labels, labels[:1]])
    mesh = jax.make_mesh((2, 4), ("d", "v"), axis_types=(AxisType.Auto,) * 2)

    def run(hidden, head, bias, labels):
        def objective(hidden, head, bias):
            return jax.lax.psum(streamed(hidden, head, bias, labels, axis_name="v").sum(), "d")

        return jax.grad(objective, argnums=(0, 1, 2))(hidden, head, bias)

    specs = P("d"), P("v"), P("v")
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(*specs, P("d")), out_specs=specs)
    assert_near(jax.jit(mapped)(hidden, head, bias, labels), gradients(plain, 1.0, (hidden, head, bias), labels))


def test_a_token_outside_of_the_vocabulary_spoils_its_answer_only():
    hidden, head, *_ = draw()
    tokens, answer = jnp.array([[0, 1, 8], [9, 1, 2]]), jnp.ones((2, 3), bool)
    values = linear_sequence_log_probs(hidden[:6].reshape(2, 3, 3), head, tokens, where=answer)
    np.testing.assert_array_equal(np.isnan(values), [True, False])  # the first token of a row is not predicted


def test_log_probs_of_zero_logits():
    np.testing.assert_allclose(linear_log_probs(jnp.zeros((2, 3)), jnp.ones((8, 3)), jnp.array([0, 7])), -np.log(8))


def test_distillation_of_both_heads_and_a_teacher_that_stays():
    hidden, head, bias, _ = draw()
    teacher, teacher_head, teacher_bias, _ = draw(1)

    def objective(hidden, head, bias, teacher):
        options = {"student_bias": bias, "teacher_bias": teacher_bias, "temperature": 2.0, "where": MASK}
        return (UNEQUAL * linear_distillation(hidden, head, teacher, teacher_head, block_size=3, **options)).sum()

    def expected(hidden, head, bias, teacher):
        logits = hidden @ head.T + bias[None], teacher @ teacher_head.T + teacher_bias[None]
        return (UNEQUAL * knowledge_distillation(*logits, temperature=2.0, where=MASK)).sum()

    given = hidden, head, bias, teacher
    actual, wanted = (jax.grad(f, argnums=(0, 1, 2, 3))(*given) for f in (objective, expected))
    assert_near(actual, wanted)
    assert not np.any(actual[3])


@pytest.mark.parametrize("backend", ["check_vma", "pmap"])
def test_distillation_over_a_spread_vocabulary(backend):
    hidden, head, _, _ = draw()
    teacher, teacher_head, _, _ = draw(1)

    def run(hidden, head, teacher_head):
        slopes = jax.grad(
            lambda *x: (UNEQUAL * linear_distillation(*x, teacher, teacher_head, axis_name="v")).sum(), argnums=(0, 1)
        )
        return slopes(hidden, head)

    actual = on_devices(run, (P(), P("v"), P("v")), (P(), P("v")), (hidden, head, teacher_head), backend)
    expected = jax.grad(
        lambda h, w: (UNEQUAL * knowledge_distillation(h @ w.T, teacher @ teacher_head.T)).sum(), argnums=(0, 1)
    )(hidden, head)
    assert_near(tuple(actual), expected)


def test_rows_that_do_not_fit_are_never_lost_in_silence():
    hidden, head, _, labels = draw()
    where = jnp.array([True, False, True, True, False, True, False])
    out = gather_labelled(hidden, labels, where=where, capacity=3)
    assert int(out.overflow) == 1
    assert np.isnan(linear_cross_entropy(out.hidden, head, out.labels, where=out.where)).tolist() == [
        False,
        False,
        True,
    ]
    out = gather_labelled(hidden, labels, where=where, capacity=3, on_overflow="drop")
    assert int(out.overflow) == 1
    np.testing.assert_array_equal(out.labels, labels[jnp.array([0, 2, 3])])
    np.testing.assert_array_equal(out.positions, [0, 2, 3])
    out = gather_labelled(hidden.reshape(1, 7, 3), labels[None], where=where[None], capacity=5)
    assert int(out.overflow) == 0
    np.testing.assert_array_equal(out.positions, [0, 2, 3, 5, 7])
    np.testing.assert_array_equal(out.hidden[-1], 0)


def test_gathering_needs_a_mask_and_a_capacity():
    hidden, _, _, labels = draw()
    with pytest.raises(TypeError, match="where must be an array, got None"):
        gather_labelled(hidden, labels, where=None, capacity=3)
    with pytest.raises(ValueError, match="capacity must be a Python integer of at least 1, got None"):
        gather_labelled(hidden, labels, where=MASK, capacity=None)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_distillation_from_a_model_that_is_nearly_the_same_keeps_its_digits(noise, temperature):
    rng = np.random.default_rng(0)
    hidden, head = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 16), (200, 16)))
    other = (head + noise * rng.normal(size=head.shape)).astype(np.float32)
    values = linear_distillation(hidden, jnp.asarray(head), hidden, jnp.asarray(other), temperature=temperature)
    student, teacher = (hidden.astype(np.float64) @ x.T.astype(np.float64) / temperature for x in (head, other))
    log_p, log_t = (x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True)) for x in (student, teacher))
    terms = np.exp(log_t) * (log_t - log_p + np.expm1(log_p - log_t))
    # The logits are rounded to about 1e-7, which is `1e-7 / noise` of the gaps.
    np.testing.assert_allclose(values, temperature**2 * terms.sum(axis=-1), rtol=2e-6 / noise)


@pytest.mark.parametrize("gone", [-np.inf, -1e9, -100.0])
def test_a_class_that_only_the_student_gives_mass_to_costs_what_it_takes(gone):
    rng = np.random.default_rng(0)
    hidden, head = (rng.normal(size=shape).astype(np.float32) / 4 for shape in ((4, 16), (300, 16)))
    bias = np.where(np.arange(300) == 7, np.float32(gone), 0).astype(np.float32)
    values = linear_distillation(*map(jnp.asarray, (hidden, head, hidden, head)), teacher_bias=jnp.asarray(bias))
    logits = hidden.astype(np.float64) @ head.T.astype(np.float64)
    masses = np.exp(logits)
    # Equal but for one class, KL is log 1 / (1 - p) of its probability p.
    exact = -np.log1p(-masses[:, 7] / masses.sum(axis=-1))
    np.testing.assert_allclose(values, exact, rtol=1e-3)


@pytest.mark.parametrize("noise", [1e-4, 1e-3])
def test_distillation_at_a_temperature_far_above_the_logits_keeps_its_digits(noise):
    rng = np.random.default_rng(0)
    hidden, head = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 16), (200, 16)))
    other = (head + noise * rng.normal(size=head.shape)).astype(np.float32)
    values = linear_distillation(hidden, jnp.asarray(head), hidden, jnp.asarray(other), temperature=1e4)
    # Towards an infinite temperature T^2 KL is half of the variance of the gaps.
    gaps = hidden.astype(np.float64) @ (other.astype(np.float64) - head).T
    np.testing.assert_allclose(values, gaps.var(axis=-1) / 2, rtol=2e-6 / noise + 1e-3)


def test_the_lines_of_the_docs_run_and_are_the_losses_of_the_logits(tmp_path):
    rng = np.random.default_rng(0)
    answers, tokens, features, classes = 4, 6, 5, 12

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    mesh = jax.make_mesh((1, 2, 4), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    given = {
        "hidden": normal(answers, tokens, features),
        "head": normal(classes, features),
        "reference_hidden": normal(answers, tokens, features),
        "reference_head": normal(classes, features),
        "tokens": jnp.asarray(rng.integers(0, classes, (answers, tokens))),
        "is_answer": jnp.arange(tokens)[None] > jnp.arange(answers)[:, None],
        "old_log_probs": normal(answers, tokens - 1),
        "rewards": normal(answers),
        "desirable": jnp.array([True, False, True, False]),
        "mismatched": normal(answers),
        "mismatched_reference": normal(answers),
        "jax": jax,
        "mesh": mesh,
        "P": P,
    }
    page = (Path(__file__).parents[2] / "docs" / "heads.md").read_text()
    program = tmp_path / "page.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    given |= runpy.run_path(str(program), init_globals=given)
    logits = given["hidden"] @ given["head"].T
    nats = softmax_cross_entropy(logits[:, :-1], given["labels"], where=given["scored"])
    assert_near(given["per_token"], -nats)
    assert_near(given["odds"], orpo(*(-nats.sum(1) / given["scored"].sum(1)).reshape(2, 2).T))
    assert_near(given["values"], softmax_cross_entropy(logits, given["tokens"]))

    def total(loss, hidden, head):
        values = loss(hidden, head, given["tokens"])
        return jnp.sum(values * jnp.arange(tokens)[None])

    def plain(hidden, head, labels):
        return softmax_cross_entropy(hidden @ head.T, labels)

    assert_near(given["split_values"], plain(given["hidden"], given["head"], given["tokens"]))
    slopes = [
        jax.jit(jax.grad(functools.partial(total, loss), argnums=(0, 1)))(given["hidden"], given["head"])
        for loss in (given["on_mesh"], plain)
    ]
    assert_near(*slopes)


@pytest.mark.parametrize("options", [{}, {"block_size": 2048}], ids=["default", "blocks"])
def test_tokens_spread_under_jit_are_never_gathered_on_accelerators(options, monkeypatch):
    """Here CPU compiles the forms of accelerators: value and gradient for a batch on 8 devices, in the global view."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, default, **_: default(*given))
    tokens, features, classes = 4096, 16, 2048
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def shape(spec, dtype, *sizes):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=jax.sharding.NamedSharding(mesh, spec))

    arrays = (
        shape(P("data"), jnp.float32, tokens, features),
        shape(P(), jnp.float32, classes, features),
        shape(P("data"), jnp.int32, tokens),
    )
    total = jax.jit(jax.value_and_grad(lambda h, w, y: linear_cross_entropy(h, w, y, **options).mean(), argnums=(0, 1)))
    program = total.lower(*arrays).compile().as_text()
    assert "all-reduce" in program  # of the loss, and of the gradient of the head
    assert "all-gather" not in program
    assert f"[{tokens // 8}," in program or f",{tokens // 8}]" in program


TOTALS = {
    "by tokens": lambda h, w, y, **options: linear_cross_entropy(h, w, y, **options).sum(),
    "by vocabulary": lambda h, w, y, **options: linear_cross_entropy(h, w, y, block_size=3, **options).sum(),
    "log-probabilities": lambda h, w, y, **options: linear_log_probs(h, w, y, **options).sum(),
    "sequences": lambda h, w, y, **options: linear_sequence_log_probs(h, w, y, **options).sum(),
    "distillation": lambda h, w, y, **options: linear_distillation(h, w, 2 * h, w, **options).sum(),
}


@pytest.mark.parametrize("name", TOTALS)
@pytest.mark.parametrize("precision", ["highest", "high", "default"])
def test_every_product_of_value_and_gradient_has_the_precision(name, precision):
    hidden, head, _, labels = draw()
    total = functools.partial(TOTALS[name], precision=precision)
    program = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).trace(hidden, head, labels).lower().as_text()
    matrices = r"\(tensor<\d+x\d+xf32>, tensor<\d+x\d+xf32>\)"  # not vectors: an offset of distillation is always exact
    products = [line for line in program.splitlines() if "dot_general" in line and re.search(matrices, line)]
    found = {re.search(r"precision = \[(\w+), \1\]|$", line).group(1) or "DEFAULT" for line in products}
    assert len(products) >= 4
    assert found == {precision.upper()}
