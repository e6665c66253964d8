"""Statistics of logits `hidden @ head.T` without holding them: in blocks of the vocabulary, or in tiles of tokens.

By blocks of the vocabulary: the least memory, any cotangents, four matrix products for value and gradient. By tiles of
tokens: each tile has its whole rows of logits, so its gradient is made at once, three products; it serves cotangents
that are one number at all tokens that count, as those of a mean are.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise import (
    Shifted,
    ShiftedLogSum,
    Sum,
    contract,
    gradient_of,
    narrow,
    product,
    speculate,
    stream,
    transposed,
)
from lossfns._blockwise.sizes import even
from lossfns._blockwise.trees import Blocks, add_at, is_half, set_at, vary_alike
from lossfns._contract import accumulation_dtype
from lossfns._numerics import soft_capped


class Problem(NamedTuple):
    """The rows of hidden states, the head and the options (None if off). Flat: N tokens.

    Attributes:
        hidden: [N, D].
        head: [V, D].
        bias: [V].
        labels: [N], in 0 .. V-1.
        soft_cap: Scalar.
        label_smoothing: Scalar.
        z_loss: Scalar.
    """

    hidden: jax.Array
    head: jax.Array
    bias: jax.Array | None
    labels: jax.Array
    soft_cap: jax.Array | None = None
    label_smoothing: jax.Array | None = None
    z_loss: jax.Array | None = None


class Statistics(NamedTuple):
    """For each row [N]: log-sum-exp in two parts, the label's logit, sum and number of the finite logits."""

    normalizer: Shifted
    label: jax.Array
    total: jax.Array | None = None
    number: jax.Array | None = None


def cap(x: jax.Array, bound: jax.Array | None) -> jax.Array:
    """Soft-capped logits; unchanged if the cap is None."""
    return x if bound is None else soft_capped(x, bound)


def by_vocabulary(problem: Problem, block_size: int | None = None, axis_name: Any = None) -> Statistics:
    """Statistics in blocks of the vocabulary, which may be sharded over `axis_name`."""
    labels = problem.labels
    if axis_name is not None:
        labels = labels - lax.axis_index(axis_name) * problem.head.shape[0]
    block, whole, columns = _table(problem._replace(labels=labels))
    out: Statistics = stream(block, whole, columns, block_size=block_size, axis_name=axis_name)
    return out


def _table(problem: Problem) -> tuple[Any, Any, Any]:
    """The arguments of `stream`."""
    dtype = narrow(problem.hidden, problem.head)
    block = functools.partial(_block, dtype, problem.label_smoothing is not None)
    whole = {"rows": problem.hidden.T, "labels": problem.labels, "cap": problem.soft_cap}
    return block, whole, {"head": problem.head, "bias": problem.bias}


def _block(dtype: Any, smoothed: bool, whole: Any, part: Any, index: jax.Array) -> Any:
    logits = product(part["head"], whole["rows"], dtype)
    if part["bias"] is not None:
        logits += part["bias"][:, None]
    logits = cap(logits, whole["cap"])
    chosen = jnp.where(index[:, None] == whole["labels"][None], logits, 0)
    label: Any = Sum(chosen)
    normalizer: Any = ShiftedLogSum(logits)
    if not smoothed:
        return Statistics(normalizer, label)
    reached = logits > -jnp.inf
    total: Any = Sum(jnp.where(reached, logits, 0))
    number: Any = Sum(reached.astype(logits.dtype))
    return Statistics(normalizer, label, total, number)


def cross_entropy(statistics: Statistics, label_smoothing: Any, z_loss: Any) -> tuple[jax.Array, jax.Array]:
    """Loss and log-normaliser of each row."""
    (log_sum, shift), label, total, number = statistics
    values = log_sum - (label - shift)
    if total is not None and number is not None:
        smooth = jnp.where(number == 0, values, log_sum - (total / jnp.maximum(number, 1) - shift))
        values = (1 - label_smoothing) * values + label_smoothing * smooth
    if z_loss is not None:
        values += z_loss * jnp.square(log_sum + shift)
    return values, log_sum + shift


def _by_vocabulary(problem: Problem) -> tuple[jax.Array, jax.Array]:
    return cross_entropy(by_vocabulary(problem), problem.label_smoothing, problem.z_loss)


def by_default(problem: Problem, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and log-normaliser of each row, in the form that suits memory and platform.

    By tiles of tokens the head's gradient is summed in float32. For a head of half precision that is a second array,
    twice as large: there its blocks are the default, each written once, in the head's own dtype; but on CPU up to
    `ACCUMULATED` bytes, where tiles are faster.
    """
    if not is_half(problem.head):
        return by_tokens(problem, present)
    if 4 * problem.head.size > ACCUMULATED:
        return _by_vocabulary(problem)
    # Both branches must vary over the same mapped axes under `shard_map`.
    problem, present = vary_alike((problem, present))
    out: tuple[jax.Array, jax.Array] = lax.platform_dependent(problem, present, cpu=by_tokens, default=_whatever_counts)
    return out


ACCUMULATED = 2**28


def _whatever_counts(problem: Problem, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _by_vocabulary(problem)


def by_tokens(problem: Problem, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and log-normaliser of each row; the forward pass computes the gradient too.

    Args:
        problem: The rows.
        present: [N], 1 or 0: the rows that count. The computed gradient is used if the cotangents are a multiple of it.
    """
    problem, present = vary_alike((problem, present))
    if 0 in (problem.hidden.shape[0], problem.head.shape[0]):
        return _by_vocabulary(problem)
    out: tuple[jax.Array, jax.Array] = speculate(
        _by_vocabulary, _value_and_gradient, _gradient, (present, jnp.zeros_like(present)), (problem,)
    )
    return out


def _gradient(arguments: tuple[Problem], cotangents: Any, start: Any, active: Any) -> tuple[Problem]:
    """The gradient for any cotangents, in blocks of the vocabulary, added to a given one."""
    (problem,) = arguments
    options = problem.label_smoothing, problem.z_loss
    of_options: Any = None

    def pull(statistics: Statistics) -> Any:
        nonlocal of_options
        _, pull_back = jax.vjp(cross_entropy, statistics, *options)
        slopes, *of_options = pull_back(cotangents)
        return slopes

    block, whole, columns = _table(problem)
    given = None
    if start is not None:
        (slope,) = start
        given = ({"rows": slope.hidden.T, "cap": slope.soft_cap}, {"head": slope.head, "bias": slope.bias})
    d_whole, d_columns = gradient_of(block, whole, columns, pull, given, active)
    if start is not None:
        held = slope.label_smoothing, slope.z_loss
        of_options = [
            None if x is None else x + jnp.where(active, more, 0) for x, more in zip(held, of_options, strict=True)
        ]
    slopes = (d_whole["rows"].T, d_columns["head"], d_columns["bias"], None, d_whole["cap"], *of_options)
    return (Problem(*slopes),)


def tile_rows(rows: int, classes: int) -> int:
    """Tokens in a tile: at most 64 MiB of logits in float32 and at most an eighth of them all, but 128 tokens."""
    return even(rows, max(min(2**24 // classes, rows // 8) // 8 * 8, 128))


def part_columns(rows: int, classes: int) -> int:
    """Classes of a tile that are differentiated at a time: 2 MiB of logits, which stay in a CPU's cache."""
    return min(max(2**19 // rows // 128 * 128, 128), classes)


def _value_and_gradient(arguments: tuple[Problem], expected: Any) -> Any:
    (problem,) = arguments
    dtype, narrowed = accumulation_dtype(*_floats(problem)), narrow(problem.hidden, problem.head)
    rows, classes = problem.hidden.shape[0], problem.head.shape[0]
    tiles = Blocks((problem.hidden, problem.labels, expected[0]), tile_rows(rows, classes))
    parts = Blocks(problem.head, part_columns(tiles.size, classes))
    options = [None if x is None else x.astype(dtype) for x in (problem.bias, *problem[4:])]
    start = (
        jnp.zeros(rows, dtype),
        jnp.zeros(rows, dtype),
        jnp.zeros(problem.hidden.shape, dtype),
        jnp.zeros(problem.head.shape, dtype),
        [None if x is None else jnp.zeros_like(x) for x in options],
    )

    def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
        values, log_sums, d_hidden, d_head, (d_bias, d_bound, *d_others) = carry
        (hidden, labels, weights), index, fresh = tiles.part(i, dtype)
        weights = weights if fresh is None else jnp.where(fresh, weights, 0)
        raw = contract(hidden, problem.head, (1, 1), narrowed)
        (value, log_sum), slopes, more = _tile(raw, labels, weights, *options)
        gradient = jnp.zeros_like(hidden), d_head, d_bias, d_bound
        d_rows, d_head, d_bias, d_bound = _add_gradient(
            parts, gradient, raw, hidden.astype(narrowed), labels, slopes, *options[:2]
        )
        d_others = [None if x is None else x + dx for x, dx in zip(d_others, more, strict=True)]
        values, log_sums = set_at(values, value, index[0]), set_at(log_sums, log_sum, index[0])
        return (values, log_sums, add_at(d_hidden, d_rows, index[0]), d_head, [d_bias, d_bound, *d_others]), None

    values, log_sums, d_hidden, d_head, d_options = tiles.scan(step, vary_alike((start, problem, expected))[0])
    slopes = [d_hidden, d_head, d_options[0], None, *d_options[1:]]
    slopes = [None if x is None or dx is None else dx.astype(x.dtype) for x, dx in zip(problem, slopes, strict=True)]
    return (values, log_sums), (Problem(*slopes),)


def _floats(problem: Problem) -> list[jax.Array]:
    return [x for x in problem if x is not None and jnp.issubdtype(x.dtype, jnp.floating)]


class _Slopes(NamedTuple):
    """Coefficients [T] of the gradient with respect to a tile's logits."""

    shift: jax.Array
    power: jax.Array
    """Multiplies e^(logit - shift)."""
    label: jax.Array
    """Added at the label."""
    total: jax.Array | None
    """Added at every finite logit."""


def _tile(
    raw: jax.Array, labels: jax.Array, weights: jax.Array, bias: Any, bound: Any, smoothing: Any, z_loss: Any
) -> Any:
    """Losses and log-normalisers [T] of a tile [T, V], the coefficients of its gradient, and two sums.

    These are its slopes for smoothing and z-loss.
    """
    logits = cap(raw if bias is None else raw + bias[None], bound)
    top = jnp.max(logits, axis=1)
    shift = jnp.where(jnp.isinf(top), 0, top)
    label = jnp.take_along_axis(logits, labels[:, None], axis=1, mode="clip")[:, 0]
    power = jnp.sum(jnp.exp(logits - shift[:, None]), axis=1)
    statistics = Statistics(Shifted(jnp.log(power), shift), label)
    if smoothing is not None:
        reached = logits > -jnp.inf
        number = jnp.sum(reached, axis=1, dtype=logits.dtype)
        statistics = statistics._replace(total=jnp.sum(jnp.where(reached, logits, 0), axis=1), number=number)
    results, pull_back = jax.vjp(cross_entropy, statistics, smoothing, z_loss)
    of, *more = pull_back((weights, jnp.zeros_like(weights)))
    of_power = of.normalizer.log_sum / jnp.where(power == 0, 1, power)
    return results, _Slopes(shift, of_power, of.label, of.total), more


def _add_gradient(
    parts: Blocks,
    gradient: tuple[Any, Any, Any, Any],
    raw: jax.Array,
    hidden: jax.Array,
    labels: jax.Array,
    slopes: _Slopes,
    bias: Any,
    bound: Any,
) -> tuple[Any, Any, Any, Any]:
    """Adds a tile's gradient for hidden states, head, bias and soft cap to the given ones.

    The slopes [T, P] of one part of the vocabulary at a time are made, turned and multiplied while they are in the
    cache; no second array of the size of the logits is held.
    """
    turned = transposed(hidden)

    def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
        d_rows, d_head, d_bias, d_bound = carry
        head, classes, fresh = parts.part(i, hidden.dtype)
        some = lax.dynamic_slice_in_dim(raw, classes[0], parts.size, 1)
        some = some if bias is None else some + lax.dynamic_slice_in_dim(bias, classes[0], parts.size)[None]
        logits = cap(some, bound)
        slope = slopes.power[:, None] * jnp.exp(logits - slopes.shift[:, None])
        slope += jnp.where(classes[None] == labels[:, None], slopes.label[:, None], 0)
        if slopes.total is not None:
            slope += jnp.where(logits > -jnp.inf, slopes.total[:, None], 0)
        slope = slope if fresh is None else jnp.where(fresh, slope, 0)
        if bound is not None:
            ratio = jnp.where(jnp.isinf(some), 0, some / bound)
            bent = jnp.where(some == jnp.inf, 1, jnp.tanh(ratio))
            d_bound += jnp.sum(slope * (bent - ratio * (1 - bent * bent)))
            slope *= 1 - bent * bent
        if bias is not None:
            d_bias = add_at(d_bias, jnp.sum(slope, axis=0), classes[0])
        slope = slope.astype(hidden.dtype)  # once, the label's one subtracted
        d_rows += contract(slope, head, (1, 0), hidden.dtype)
        d_head = add_at(d_head, contract(transposed(slope), turned, (1, 1), hidden.dtype), classes[0])
        return (d_rows, d_head, d_bias, d_bound), None

    out: tuple[Any, Any, Any, Any] = parts.scan(step, gradient)
    return out
