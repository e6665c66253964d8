"""The engine against the whole table, for every kind of reduction and any block."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import _blockwise as engine
from lossfns._blockwise.trees import get_at

ROWS, COLUMNS, FEATURES = 5, 11, 3


def draw():
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(ROWS, FEATURES)), rng.normal(size=(COLUMNS, FEATURES))
    return jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32), jnp.float32(1.3)


def every_kind(whole, part, index):
    rows, scale = whole
    scores = scale * engine.product(part["vectors"], rows)
    masked = jnp.where((part["number"] % 5 == 3)[:, None], -jnp.inf, scores)
    terms = jnp.where(masked == -jnp.inf, 0, jnp.sin(scores))
    return {
        "log-sum": engine.LogSum(masked),
        "parts": engine.ShiftedLogSum(masked),
        "mean": engine.Mean(masked, terms),
        "sum": engine.Sum(jnp.square(scores)),
        "columns": (engine.ColumnLogSum(scores), engine.ColumnSum(terms), engine.ColumnSum(terms[:, 0])),
    }


def streamed(rows, columns, scale, size):
    part = {"vectors": columns, "number": jnp.arange(COLUMNS)}
    out = engine.stream(every_kind, (rows.T, scale), part, block_size=size)
    return out | {"parts": sum(out["parts"])}


def at_once(rows, columns, scale):
    scores = scale * columns @ rows.T
    mask = (jnp.arange(COLUMNS) % 5 == 3)[:, None]
    masked, terms = jnp.where(mask, -jnp.inf, scores), jnp.where(mask, 0, jnp.sin(scores))
    log_sum = jax.nn.logsumexp(masked, 0)
    return {
        "log-sum": log_sum,
        "parts": log_sum,
        "mean": engine.Moments(log_sum, (jax.nn.softmax(masked, 0) * terms).sum(0)),
        "sum": jnp.square(scores).sum(0),
        "columns": (jax.nn.logsumexp(scores, 1), terms.sum(1), terms[:, 0]),
    }


def weighted(results):
    """A number in which every entry of every result has a weight of its own."""
    return sum((jnp.cos(jnp.arange(x.size) + i) * x).sum() for i, x in enumerate(jax.tree.leaves(results)))


def assert_near(actual, expected, tolerance=2e-5):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=tolerance, rtol=tolerance), actual, expected)


@pytest.mark.parametrize("size", [None, 1, 4])
def test_any_block_gives_what_the_whole_table_gives(size):
    given = draw()
    run = jax.jit(jax.value_and_grad(lambda *x: weighted(streamed(*x, size)), argnums=(0, 1, 2)))
    assert_near(run(*given), jax.value_and_grad(lambda *x: weighted(at_once(*x)), argnums=(0, 1, 2))(*given))
    assert_near(streamed(*given, size), at_once(*given))


def second(function, argument):
    return jax.jit(jax.grad(lambda x: jnp.square(jax.grad(function)(x)).sum()))(argument)


def test_second_derivatives():
    rows, columns, scale = draw()
    actual, expected = (
        second(lambda x, f=f: weighted(f(x, columns, scale)), rows)
        for f in (functools.partial(streamed, size=4), at_once)
    )
    assert_near(actual, expected, 1e-4)


def test_mapped_over_a_batch():
    rows, columns, scale = draw()
    actual = jax.vmap(lambda rows: streamed(rows, columns, scale, 4))(jnp.stack([rows, 2 * rows]))
    assert_near(jax.tree.map(lambda x: x[1], actual), at_once(2 * rows, columns, scale), 1e-4)


def test_rows_without_a_column_have_no_gradient():
    rows, columns, _ = draw()

    def nothing(whole, part, index):
        return engine.LogSum(jnp.full((len(index), ROWS), -jnp.inf) + 0 * engine.product(part, whole))

    values, slopes = jax.value_and_grad(lambda x: jnp.exp(engine.stream(nothing, x.T, columns, block_size=4)).sum())(
        rows
    )
    assert values == 0
    assert not np.any(slopes)
    assert np.all(engine.stream(nothing, rows.T, columns[:0]) == -np.inf)


def softplus_sums(whole, part, index):
    return engine.Sum(jax.nn.softplus(engine.product(part, whole)))


@pytest.mark.parametrize("weights", [np.full(ROWS, 0.25), np.arange(ROWS) - 1.0], ids=str)
def test_gradients_made_for_cotangents_that_come_and_that_do_not(weights):
    rows, columns, _ = draw()
    expected = jnp.ones(ROWS)

    def mine(rows, columns):
        return (weights * engine.stream(softplus_sums, rows.T, columns, block_size=4, expected=expected)).sum()

    def plain(rows, columns):
        return (weights * jax.nn.softplus(columns @ rows.T).sum(0)).sum()

    actual, wanted = (jax.jit(jax.grad(f, argnums=(0, 1)))(rows, columns) for f in (mine, plain))
    assert_near(actual, wanted)
    # Cotangents that are alike by chance have derivatives of their own.
    squares = [lambda x, f=f: jnp.square(f(x, columns)) for f in (mine, plain)]
    assert_near(*(second(f, rows) for f in squares), 1e-4)


def test_large_gradients_are_scaled_in_parts(monkeypatch):
    from lossfns._blockwise import speculative

    monkeypatch.setattr(speculative, "LARGE", 8)
    for weights in (np.full(ROWS, 0.25),):
        test_gradients_made_for_cotangents_that_come_and_that_do_not(weights)


def symmetric_scores(scale, part, other, index, other_index):
    return jnp.where(index[:, None] == other_index[None], -jnp.inf, scale * engine.product(part, other.T))


@pytest.mark.parametrize("size", [None, 4])
def test_symmetric_tables(size):
    _, items, scale = draw()

    def mine(items, scale):
        return weighted(engine.stream_symmetric(symmetric_scores, scale, items, block_size=size))

    def plain(items, scale):
        scores = jnp.where(jnp.eye(COLUMNS, dtype=bool), -jnp.inf, scale * items @ items.T)
        return weighted(jax.nn.logsumexp(scores, 1))

    actual, wanted = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(items, scale) for f in (mine, plain))
    assert_near(actual, wanted)
    if size == 4:
        assert_near(*(second(lambda x, f=f: f(x, scale), items) for f in (mine, plain)), 1e-4)


def products(a, b, dtype):
    """All forms of a product, with operands and results that XLA may lay out as it likes."""
    out = []
    for axes in itertools.product((0, 1), (0, 1)):
        contract = functools.partial(engine.contract, axes=axes, dtype=dtype)
        x, y = a if axes[0] else a.T, b if axes[1] else b.T
        out += [contract(x, y), contract((x.astype(jnp.float32) * 2).astype(dtype), y).T + 1]
        out.append(jax.lax.scan(lambda c, x, y=y, contract=contract: (c + contract(x, y), None), out[-2], x[None])[0])
        out.append(jax.vmap(contract)(jnp.stack([x, x]), jnp.stack([y, y]))[1])
    return out


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (130, 64, 70)])
def test_half_precision_products_run_in_all_forms(dtype, shape):
    """Some fail on CPU when they are run: by the layout that XLA chooses for an operand or the result."""
    rng, (m, k, n) = np.random.default_rng(0), shape
    a, b = (jnp.asarray(rng.integers(-2, 3, size), dtype) for size in ((m, k), (n, k)))
    expected = np.asarray(a, np.float32) @ np.asarray(b, np.float32).T
    actual = jax.jit(functools.partial(products, dtype=dtype))(a, b)
    assert_near(actual, [expected, 2 * expected.T + 1, 2 * expected, expected] * 4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=str)
def test_part_of_an_array_and_its_derivative(dtype):
    x = jnp.arange(12, dtype=dtype).reshape(6, 2)
    for start in (1, jnp.int32(2)):
        part, pull_back = jax.vjp(functools.partial(get_at, start=start, size=3), x)
        np.testing.assert_array_equal(part, x[int(start) : int(start) + 3])
        (slope,) = pull_back(jnp.ones_like(part))
        np.testing.assert_array_equal(slope[:, 0].astype(int), np.isin(np.arange(6), np.arange(3) + int(start)))
