"""The engine against the whole table, for every kind of reduction and any block."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossfns
from lossfns import _blockwise as engine
from lossfns._blockwise import Operands
from lossfns._blockwise.blocks import get_at
from lossfns._blockwise.table import block_sizes

ROWS, COLUMNS, FEATURES = 5, 11, 3


def draw():
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(ROWS, FEATURES)), rng.normal(size=(COLUMNS, FEATURES))
    return jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32), jnp.float32(1.3)


def every_kind(row_inputs, part, index):
    rows, scale = row_inputs
    scores = scale * engine.product(part["vectors"], rows)
    masked = jnp.where((part["number"] % 5 == 3)[:, None], -jnp.inf, scores)
    terms = jnp.where(masked == -jnp.inf, 0, jnp.sin(scores))
    return {
        "log-sum": engine.LogSum(masked),
        "parts": engine.ShiftedLogSum(masked),
        "mean": engine.SoftmaxMean(masked, terms),
        "sum": engine.Sum(jnp.square(scores)),
        "columns": (engine.ColumnLogSum(scores), engine.ColumnSum(terms)),
    }


def streamed(rows, columns, scale, size, bound=None):
    part = {"vectors": columns, "number": jnp.arange(COLUMNS)}
    out = engine.stream(every_kind, (rows.T, scale), part, block_size=size, bound=bound)
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
        "columns": (jax.nn.logsumexp(scores, 1), terms.sum(1)),
    }


def weighted(results):
    """A number in which every entry of every result has a weight of its own."""
    return sum((jnp.cos(jnp.arange(x.size) + i) * x).sum() for i, x in enumerate(jax.tree.leaves(results)))


def assert_near(actual, expected, tolerance=2e-5):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=tolerance, rtol=tolerance), actual, expected)


LIMIT = np.log(np.finfo(np.float32).max) / 2
"""The largest bound of scores with which their exponentials are taken as they are."""


SIZES = [None, 1, 4, (4, 2), (COLUMNS, 3), (1, 1)]


@pytest.mark.parametrize("bound", [None, 40.0, 50.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_block_gives_what_the_whole_table_gives(size, bound):
    given = draw()
    run = jax.jit(jax.value_and_grad(lambda *x: weighted(streamed(*x, size, bound)), argnums=(0, 1, 2)))
    assert_near(run(*given), jax.value_and_grad(lambda *x: weighted(at_once(*x)), argnums=(0, 1, 2))(*given))
    assert_near(streamed(*given, size, bound), at_once(*given))


def second(function, argument):
    return jax.jit(jax.grad(lambda x: jnp.square(jax.grad(function)(x)).sum()))(argument)


@pytest.mark.parametrize("bound", [None, 40.0])
@pytest.mark.parametrize("size", [4, (4, 2)], ids=str)
def test_second_derivatives(size, bound):
    rows, columns, scale = draw()
    actual, expected = (
        second(lambda x, f=f: weighted(f(x, columns, scale)), rows)
        for f in (functools.partial(streamed, size=size, bound=bound), at_once)
    )
    assert_near(actual, expected, 1e-4)


def both_ways(_, part, index):
    return engine.LogSum(part), engine.ColumnLogSum(part)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_up_to_any_bound(dtype):
    """Equal to the formula on both sides of where shifts begin, next to rows and columns without a score."""
    rng = np.random.default_rng(1)
    cotangents = rng.normal(size=ROWS), rng.normal(size=COLUMNS)

    def run(scores, bound):
        results, pull_back = jax.vjp(lambda x: engine.stream(both_ways, None, x, block_size=4, bound=bound), scores)
        return results, pull_back(tuple(jnp.asarray(g, dtype) for g in cotangents))[0]

    with jax.enable_x64(True), np.errstate(all="ignore"):
        run = jax.jit(run)
        limit = np.log(np.finfo(dtype).max) / 2
        for top in (1e-3, 0.999 * limit, 1.001 * limit, 1.9 * limit, 300 * limit):
            scores = rng.uniform(-top, top, (COLUMNS, ROWS)).astype(dtype)
            scores[1], scores[2], scores[:, 0], scores[3] = top, -top, -np.inf, -np.inf
            scores[5:, 1] = -top  # far below the others, for one row and, but for one column, for all it has
            exact = scores.astype(np.longdouble)
            by_row, by_column = (np.logaddexp.reduce(exact, axis=i) for i in (0, 1))
            shares = np.exp(exact - by_row[None]), np.exp(exact - by_column[:, None])
            slope = cotangents[0][None] * np.nan_to_num(shares[0]) + cotangents[1][:, None] * np.nan_to_num(shares[1])
            (of_rows, of_columns), slopes = run(scores, dtype(top))
            tolerance = 8 * np.finfo(dtype).eps * max(top, 1)
            np.testing.assert_allclose(of_rows, by_row.astype(dtype), rtol=tolerance)
            np.testing.assert_allclose(of_columns, by_column.astype(dtype), rtol=tolerance)
            np.testing.assert_allclose(slopes, slope.astype(dtype), rtol=tolerance, atol=tolerance)


def symmetric(items, scale, bound):
    return engine.stream_symmetric(symmetric_scores, scale, items, block_size=4, bound=bound)


def asymmetric(items, scale, bound):
    return jnp.concatenate(engine.stream(both_ways_of, (items.T, scale), items, block_size=(4, 3), bound=bound))


def both_ways_of(whole, part, index):
    scores = whole[1] * engine.product(part, whole[0])
    return engine.LogSum(scores), engine.ColumnLogSum(scores)


@pytest.mark.parametrize("log_sums", [symmetric, asymmetric])
def test_mapped_over_bounds_on_both_sides(log_sums):
    """Mapped, both forms are run: what the one not taken overflows to must not show, in second derivatives either."""
    items = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size=(COLUMNS, FEATURES)), jnp.float32)
    scales = jnp.array([1.0, 12.0, 60.0])
    assert 3 * scales[1] < LIMIT < 2 * LIMIT < 3 * scales[2]

    def slope(items, scale):
        return jax.grad(lambda x: weighted(log_sums(x, scale, 3 * scale)))(items)

    def second_of_all(items):
        return jnp.square(jax.vmap(slope, in_axes=(None, 0))(items, scales)).sum()

    def second_of_one(items, scale):
        return jnp.square(slope(items, scale)).sum()

    mapped = jax.jit(jax.vmap(slope, in_axes=(None, 0)))(items, scales)
    one_by_one = [jax.jit(slope)(items, scale) for scale in scales]
    assert_near(mapped, jnp.stack(one_by_one), 1e-4)
    one_by_one = [jax.jit(jax.grad(second_of_one))(items, scale) for scale in scales]
    assert_near(jax.jit(jax.grad(second_of_all))(items), sum(one_by_one), 1e-3)


def test_mapped_over_a_batch():
    rows, columns, scale = draw()
    actual = jax.vmap(lambda rows: streamed(rows, columns, scale, (4, 2)))(jnp.stack([rows, 2 * rows]))
    assert_near(jax.tree.map(lambda x: x[1], actual), at_once(2 * rows, columns, scale), 1e-4)


def test_rows_without_a_column_have_no_gradient():
    rows, columns, _ = draw()

    def nothing(whole, part, index):
        scores = engine.product(part, whole)
        return engine.LogSum(jnp.where(scores < jnp.inf, -jnp.inf, scores))

    values, slopes = jax.value_and_grad(lambda x: jnp.exp(engine.stream(nothing, x.T, columns, block_size=4)).sum())(
        rows
    )
    assert values == 0
    assert not np.any(slopes)
    assert np.all(engine.stream(nothing, rows.T, columns[:0]) == -np.inf)


def softplus_sums(whole, part, index):
    return engine.Sum(jax.nn.softplus(engine.product(part, whole)))


@pytest.mark.parametrize("size", [4, (4, 2)], ids=str)
@pytest.mark.parametrize("weights", [np.full(ROWS, 0.25), np.arange(ROWS) - 1.0], ids=str)
def test_gradients_made_for_cotangents_that_come_and_that_do_not(weights, size):
    rows, columns, _ = draw()
    expected = jnp.ones(ROWS)

    def mine(rows, columns):
        return (weights * engine.stream(softplus_sums, rows.T, columns, block_size=size, expected=expected)).sum()

    def plain(rows, columns):
        return (weights * jax.nn.softplus(columns @ rows.T).sum(0)).sum()

    actual, wanted = (jax.jit(jax.grad(f, argnums=(0, 1)))(rows, columns) for f in (mine, plain))
    assert_near(actual, wanted)
    # Cotangents that are equal by chance still have separate derivatives.
    squares = [lambda x, f=f: jnp.square(f(x, columns)) for f in (mine, plain)]
    assert_near(*(second(f, rows) for f in squares), 1e-4)


def test_rows_that_are_not_the_last_axis_are_refused():
    rows, columns, _ = draw()
    with pytest.raises(
        ValueError, match=r"row_inputs must have the 5 rows as their last axis, got shapes \[\(5, 3\)\]"
    ):
        engine.stream(lambda whole, part, _: engine.Sum(part @ whole.T), rows, columns)


@pytest.mark.parametrize(
    ("rows", "columns", "block_size", "cpu", "default"),  # columns, rows
    [
        (8192, 8192, None, (1024, 1024), (512, 8192)),  # 4 MiB and 16 MiB
        (100, 65536, None, (9363, 100), (32768, 100)),  # 7 and 2 even blocks of columns
        (16384, 248320, None, (1022, 1024), (512, 16384)),  # at least 512 columns
        (8192, 8192, 512, (512, 2048), (512, 8192)),
        (8192, 8192, (512, 256), (512, 256), (512, 256)),
        (5, 7, None, (7, 5), (7, 5)),
    ],
)
def test_blocks_of_a_table(rows, columns, block_size, cpu, default):
    given = jnp.zeros((1, rows)), jnp.zeros((columns, 1))
    assert block_sizes(lambda rows, columns, _: engine.Sum(columns @ rows), *given, block_size) == (cpu, default)


ROWS_AND_COLUMNS = jax.ShapeDtypeStruct((2304, 4), jnp.float32)
LOSSES = {
    "table": lambda a, b: lossfns.clip(a, b),
    "triangle": lambda a, b: lossfns.nt_xent(a, b),
    "head": lambda a, b: lossfns.linear_cross_entropy(a, b, jnp.arange(len(a))),
    "bfloat16 head": lambda a, b: lossfns.linear_cross_entropy(
        a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), jnp.arange(len(a))
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_program_for_another_platform_does_not_ask_its_host(name, monkeypatch):
    """Nothing is compiled: the text is what a host of that platform would make."""

    def text(platform):
        run = jax.jit(jax.grad(lambda a, b: LOSSES[name](a, b).mean(), argnums=(0, 1)))
        traced = run.trace(ROWS_AND_COLUMNS, ROWS_AND_COLUMNS)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    cpu, tpu, cuda = (text(platform) for platform in ("cpu", "tpu", "cuda"))
    # A layout is asked for on CPU only.
    assert ["LayoutConstraint" in x for x in (cpu, tpu, cuda)] == [True, False, False]
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jax.clear_caches()  # of what was traced
    assert text("tpu") == tpu


def test_large_gradients_are_scaled_in_parts(monkeypatch):
    from lossfns._blockwise import forward_gradient

    monkeypatch.setattr(forward_gradient, "LARGE", 8)
    test_gradients_made_for_cotangents_that_come_and_that_do_not(np.full(ROWS, 0.25), 4)


def symmetric_scores(scale, part, other, index, other_index):
    return jnp.where(index[:, None] == other_index[None], -jnp.inf, scale * engine.product(part, other.T))


@pytest.mark.parametrize(("size", "bound"), [(None, None), (4, None), (None, 40.0), (4, 40.0), (4, 50.0)])
def test_symmetric_tables(size, bound):
    _, items, scale = draw()

    def mine(items, scale):
        return weighted(engine.stream_symmetric(symmetric_scores, scale, items, block_size=size, bound=bound))

    def plain(items, scale):
        scores = jnp.where(jnp.eye(COLUMNS, dtype=bool), -jnp.inf, scale * items @ items.T)
        return weighted(jax.nn.logsumexp(scores, 1))

    actual, wanted = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(items, scale) for f in (mine, plain))
    assert_near(actual, wanted)
    if size == 4:
        assert_near(*(second(lambda x, f=f: f(x, scale), items) for f in (mine, plain)), 1e-4)


@pytest.mark.parametrize(("size", "sums"), [(COLUMNS, 1), (4, 2)])
def test_a_single_block_has_no_other_triangle(size, sums):
    """Its sums would be of a constant table of -inf, over which XLA's compiler takes seconds, and says so."""
    _, items, scale = draw()
    program = jax.make_jaxpr(lambda x: engine.stream_symmetric(symmetric_scores, scale, x, block_size=size))(items)
    assert str(program).count("reduce_max[") == sums


def products(a, b, dtype):
    """All forms of a product, with operands and results that XLA may lay out as it likes."""
    out = []
    for axes in itertools.product((0, 1), (0, 1)):
        contract = functools.partial(engine.contract, axes=axes, operands=Operands(dtype))
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
