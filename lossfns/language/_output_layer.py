"""Cross-entropy of logits `hidden @ head.T` , never materialised, by one of two algorithms.

**By vocabulary**: all tokens and a block of classes at a time. Least memory, for any cotangents; four matrix products
for value and gradient, since the backward pass recomputes the logits.

    vocabulary_statistics -> stream -> _block -> Statistics -> cross_entropy

**By tokens**: all classes and a tile of tokens at a time. A tile has whole rows of logits, so its gradient is computed
at once: three products. For cotangents that are equal at all tokens that count, as in a mean.

    by_tokens -> gradient_in_forward
                   value alone                  _by_vocabulary, as above
                   value and gradient           _value_and_gradient: for each tile
                                                    _tile           loss, and coefficients of the logits' gradient
                                                    _add_gradient   for each chunk of classes: the logits' gradient,
                                                                    and with it hidden states' and head's gradients
                   gradient, other cotangents   _gradient -> gradient_of, by vocabulary

`by_default` chooses. The mask `where` of a loss arrives as `weights` [N], 1 for tokens that count and 0 for others: up
to a factor these are the cotangents of a mean, and so the `expected` ones of `gradient_in_forward`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossfns._blockwise import (
    Operands,
    Shifted,
    ShiftedLogSum,
    Sum,
    contract,
    exact_operands,
    gradient_in_forward,
    gradient_of,
    product,
    stream,
    transposed,
    vary_together,
)
from lossfns._blockwise.blocks import Blocks, add_at, is_half, set_at
from lossfns._blockwise.pytrees import PyTree, as_gradient_of
from lossfns._blockwise.sizes import even_size
from lossfns._contract import AxisName, accumulation_dtype
from lossfns._numerics import soft_capped


class Inputs(NamedTuple):
    """Hidden states, head and options of N tokens; None for a disabled option. Also their gradient.

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
    """Statistics of rows of logits, [N] each.

    Attributes:
        normalizer: Log-sum-exp, in two parts.
        label: The label's logit.
        total: Sum of the finite logits; None without label smoothing.
        number: Number of the finite logits; None without label smoothing.
    """

    normalizer: Shifted
    label: jax.Array
    total: jax.Array | None = None
    number: jax.Array | None = None


def cap(logits: jax.Array, bound: jax.Array | None) -> jax.Array:
    """Soft-capped logits; unchanged if there is no bound."""
    return logits if bound is None else soft_capped(logits, bound)


def cross_entropy(
    statistics: Statistics, label_smoothing: jax.Array | None, z_loss: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Loss and log-normaliser of each row."""
    (log_sum, shift), label, total, number = statistics
    values = log_sum - (label - shift)
    if label_smoothing is not None and total is not None and number is not None:
        smooth = jnp.where(number == 0, values, log_sum - (total / jnp.maximum(number, 1) - shift))
        values = (1 - label_smoothing) * values + label_smoothing * smooth
    if z_loss is not None:
        values += z_loss * jnp.square(log_sum + shift)
    return values, log_sum + shift


def by_default(inputs: Inputs, weights: jax.Array, precision: str) -> tuple[jax.Array, jax.Array]:
    """Loss and log-normaliser of each row, by the algorithm that suits platform and memory.

    On CPU by tokens, which is faster, unless the gradient of a half-precision head would need a float32 sum of more
    than `ACCUMULATED` bytes. Elsewhere by vocabulary: each block of that gradient is written once, in the head's dtype,
    and tokens sharded over devices stay there.
    """
    if is_half(inputs.head) and 4 * inputs.head.size > ACCUMULATED:
        return _by_vocabulary(precision, inputs)
    # Marked together: otherwise the two branches would vary over different axes under `shard_map`.
    inputs, weights = vary_together((inputs, weights))
    results: tuple[jax.Array, jax.Array] = lax.platform_dependent(
        inputs,
        weights,
        cpu=functools.partial(by_tokens, precision=precision),
        default=lambda inputs, _: _by_vocabulary(precision, inputs),
    )
    return results


ACCUMULATED = 2**28


def vocabulary_statistics(
    inputs: Inputs, precision: str, block_size: int | None = None, axis_name: AxisName = None
) -> Statistics:
    """Statistics in blocks of the vocabulary, which may be sharded over `axis_name`."""
    labels = inputs.labels
    if axis_name is not None:
        labels = labels - lax.axis_index(axis_name) * inputs.head.shape[0]
    block_fn, rows, columns = _table(inputs._replace(labels=labels), precision)
    return Statistics(*stream(block_fn, rows, columns, block_size=block_size, axis_name=axis_name))


def _by_vocabulary(precision: str, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    return cross_entropy(vocabulary_statistics(inputs, precision), inputs.label_smoothing, inputs.z_loss)


class _Rows(NamedTuple):
    """Row inputs of the table of logits."""

    soft_cap: jax.Array | None
    labels: jax.Array | None
    """[N]; None in a gradient."""
    hidden: jax.Array
    """[D, N], transposed."""


class _Columns(NamedTuple):
    """Column inputs of the table of logits."""

    bias: jax.Array | None
    """[V]."""
    head: jax.Array
    """[V, D]."""


_Reductions = tuple[ShiftedLogSum, Sum] | tuple[ShiftedLogSum, Sum, Sum, Sum]
"""Reductions of the fields of `Statistics`."""


def _operands(inputs: Inputs, precision: str) -> Operands:
    return exact_operands(inputs.hidden, inputs.head)._replace(precision=precision)


def _table(inputs: Inputs, precision: str) -> tuple[functools.partial[_Reductions], _Rows, _Columns]:
    """The block function, row inputs and column inputs of `stream`."""
    block_fn = functools.partial(_block, _operands(inputs, precision), inputs.label_smoothing is not None)
    return block_fn, _Rows(inputs.soft_cap, inputs.labels, inputs.hidden.T), _Columns(inputs.bias, inputs.head)


def _block(operands: Operands, smoothed: bool, rows: _Rows, columns: _Columns, index: jax.Array) -> _Reductions:
    assert rows.labels is not None
    logits = product(columns.head, rows.hidden, operands)
    if columns.bias is not None:
        logits += columns.bias[:, None]
    logits = cap(logits, rows.soft_cap)
    label = jnp.where(index[:, None] == rows.labels[None], logits, 0)
    if not smoothed:
        return ShiftedLogSum(logits), Sum(label)
    exists = logits > -jnp.inf
    total = jnp.where(exists, logits, 0)
    return ShiftedLogSum(logits), Sum(label), Sum(total), Sum(exists.astype(logits.dtype))


def by_tokens(inputs: Inputs, weights: jax.Array, precision: str) -> tuple[jax.Array, jax.Array]:
    """Loss and log-normaliser of each row; the gradient is computed in the forward pass.

    Args:
        inputs: Hidden states, head and options.
        weights: [N], 1 for rows that count and 0 for others. If the losses' cotangents are a multiple of them, the
            gradient of the forward pass is used.
        precision: Of float32 products.
    """
    inputs, weights = vary_together((inputs, weights))
    if 0 in (inputs.hidden.shape[0], inputs.head.shape[0]):
        return _by_vocabulary(precision, inputs)
    expected = weights, jnp.zeros_like(weights)
    value = functools.partial(_by_vocabulary, precision)
    value_and_gradient = functools.partial(_value_and_gradient, precision)
    gradient = functools.partial(_gradient, precision)
    return gradient_in_forward(value, value_and_gradient, gradient, expected, (inputs,))


def _gradient(
    precision: str, arguments: tuple[Inputs], cotangents: PyTree, start: tuple[Inputs] | None, active: jax.Array | None
) -> tuple[Inputs]:
    """The gradient for any cotangents, by vocabulary, added to `start`; see `GradientFn`."""
    (inputs,) = arguments
    options = inputs.label_smoothing, inputs.z_loss
    d_options: list[jax.Array | None] = []

    def statistics_cotangents(results: PyTree) -> Statistics:
        nonlocal d_options
        _, pull_back = jax.vjp(cross_entropy, Statistics(*results), *options)
        of_statistics: Statistics
        of_statistics, *d_options = pull_back(cotangents)
        return of_statistics

    # Hidden states, head, bias and soft cap: through the table of logits.
    block_fn, rows, columns = _table(inputs, precision)
    given = None
    if start is not None:
        (total,) = start
        given = _Rows(total.soft_cap, None, total.hidden.T), _Columns(total.bias, total.head)
    d_rows, d_columns = gradient_of(block_fn, rows, columns, statistics_cotangents, given, active)

    # Label smoothing and z-loss: directly, since they act on the statistics.
    if start is not None:
        pairs = zip((total.label_smoothing, total.z_loss), d_options, strict=True)
        d_options = [
            x if x is None or more is None or active is None else x + jnp.where(active, more, 0) for x, more in pairs
        ]
    return (_as_gradient_of(inputs, d_rows.hidden.T, d_columns.head, d_columns.bias, d_rows.soft_cap, *d_options),)


def _as_gradient_of(inputs: Inputs, *grads: jax.Array | None) -> Inputs:
    """The gradient of hidden states, head, bias, soft cap, label smoothing and z-loss, in the dtypes of the inputs."""
    return as_gradient_of(inputs, [x for x in grads if x is not None])


def tile_tokens(tokens: int, classes: int) -> int:
    """Tokens in a tile: at most 64 MiB of logits in float32 and an eighth of all tokens, but at least 128 tokens."""
    return even_size(tokens, max(min(2**24 // classes, tokens // 8) // 8 * 8, 128))


def chunk_classes(tokens: int, classes: int) -> int:
    """Classes in a chunk of a tile: 2 MiB of the logits' gradient, which stay in a CPU's cache."""
    return min(max(2**19 // tokens // 128 * 128, 128), classes)


def _value_and_gradient(
    precision: str, arguments: tuple[Inputs], expected: tuple[jax.Array, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[Inputs]]:
    """Losses, log-normalisers, and the gradient of `sum(expected[0] * losses)`, a tile of tokens at a time."""
    (inputs,) = arguments
    dtype = accumulation_dtype(*(x for x in inputs if x is not None and jnp.issubdtype(x.dtype, jnp.floating)))
    operands = _operands(inputs, precision)
    tokens, classes = inputs.hidden.shape[0], inputs.head.shape[0]
    tiles = Blocks((inputs.hidden, inputs.labels, expected[0]), tile_tokens(tokens, classes))
    chunks = Blocks(inputs.head, chunk_classes(tiles.size, classes))
    options = [None if x is None else x.astype(dtype) for x in (inputs.bias, *inputs[4:])]
    start = (
        jnp.zeros(tokens, dtype),
        jnp.zeros(tokens, dtype),
        jnp.zeros(inputs.hidden.shape, dtype),
        jnp.zeros(inputs.head.shape, dtype),
        [None if x is None else jnp.zeros_like(x) for x in options],
    )

    def step(carry: _Carry, i: jax.Array) -> tuple[_Carry, None]:
        values, log_sums, d_hidden, d_head, (d_bias, d_cap, *d_others) = carry
        (hidden, labels, weights), index, first_visit = tiles.block(i, dtype)
        # Tokens that the previous tile covered get weight 0.
        weights = weights if first_visit is None else jnp.where(first_visit, weights, 0)
        products = contract(hidden, inputs.head, (1, 1), operands)
        (value, log_sum), coefficients, more = _tile(products, labels, weights, *options)
        # Gradients of rows start from 0 in each tile; gradients of head, bias and soft cap are summed over tiles.
        given = jnp.zeros_like(hidden), d_head, d_bias, d_cap
        d_rows, d_head, d_bias, d_cap = _add_gradient(
            chunks, given, products, hidden, labels, coefficients, operands, *options[:2]
        )
        d_others = [None if x is None or dx is None else x + dx for x, dx in zip(d_others, more, strict=True)]
        values, log_sums = set_at(values, value, index[0]), set_at(log_sums, log_sum, index[0])
        return (values, log_sums, add_at(d_hidden, d_rows, index[0]), d_head, [d_bias, d_cap, *d_others]), None

    carry = tiles.scan(step, vary_together((start, inputs, expected))[0])
    values, log_sums, d_hidden, d_head, d_options = carry
    return (values, log_sums), (_as_gradient_of(inputs, d_hidden, d_head, *d_options),)


_Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array, list[jax.Array | None]]
"""Losses, log-normalisers, and the gradients of hidden states, head, and bias and options."""


class _Coefficients(NamedTuple):
    """Coefficients of the gradient of a tile's logits, [T] each."""

    shift: jax.Array
    power: jax.Array
    """Multiplies e^(logit - shift)."""
    label: jax.Array
    """Added at the label."""
    total: jax.Array | None
    """Added at every finite logit."""


def _tile(
    products: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None,
    bound: jax.Array | None,
    label_smoothing: jax.Array | None,
    z_loss: jax.Array | None,
) -> tuple[tuple[jax.Array, jax.Array], _Coefficients, list[jax.Array | None]]:
    """Per-token loss and log-normaliser of a tile, and the coefficients of the gradient with respect to its logits.

    `products` [T, V] are `hidden @ head.T`, `weights` [T] the cotangents of the losses. The last two numbers are the
    gradients with respect to label smoothing and z-loss.
    """
    # The statistics of the rows, as in `_block`.
    logits = cap(products if bias is None else products + bias[None], bound)
    largest = jnp.max(logits, axis=1)
    shift = jnp.where(jnp.isinf(largest), 0, largest)
    label = jnp.take_along_axis(logits, labels[:, None], axis=1, mode="clip")[:, 0]
    power = jnp.sum(jnp.exp(logits - shift[:, None]), axis=1)
    statistics = Statistics(Shifted(jnp.log(power), shift), label)
    if label_smoothing is not None:
        exists = logits > -jnp.inf
        number = jnp.sum(exists, axis=1, dtype=logits.dtype)
        statistics = statistics._replace(total=jnp.sum(jnp.where(exists, logits, 0), axis=1), number=number)
    # Their cotangents are the coefficients; for the logarithm, d log(power) = d power / power.
    results, pull_back = jax.vjp(cross_entropy, statistics, label_smoothing, z_loss)
    g, *d_options = pull_back((weights, jnp.zeros_like(weights)))
    power_g = g.normalizer.log_sum / jnp.where(power == 0, 1, power)
    return results, _Coefficients(shift, power_g, g.label, g.total), d_options


_TileGradient = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]
"""Gradients of the tile's hidden states [T, D], head [V, D], bias [V] and soft cap; None for a disabled option."""


def _add_gradient(
    chunks: Blocks[jax.Array],
    gradient: _TileGradient,
    products: jax.Array,
    hidden: jax.Array,
    labels: jax.Array,
    coefficients: _Coefficients,
    operands: Operands,
    bias: jax.Array | None,
    bound: jax.Array | None,
) -> _TileGradient:
    """Adds a tile's gradient with respect to hidden states, head, bias and soft cap to the given one.

    The gradient of the logits is computed, transposed and multiplied one chunk of P classes [T, P] at a time while it
    is in the cache: no second array of the size of the logits `products` [T, V] is materialised.
    """
    hidden_by_feature = transposed(hidden.astype(operands.dtype))

    def step(carry: _TileGradient, i: jax.Array) -> tuple[_TileGradient, None]:
        d_hidden, d_head, d_bias, d_bound = carry
        # Recompute the logits of the chunk from the products.
        head, index, first_visit = chunks.block(i, operands.dtype)
        uncapped = lax.dynamic_slice_in_dim(products, index[0], chunks.size, 1)
        if bias is not None:
            uncapped = uncapped + lax.dynamic_slice_in_dim(bias, index[0], chunks.size)[None]
        logits = cap(uncapped, bound)
        # Their gradient: softmax minus one-hot label, and label smoothing.
        g = coefficients.power[:, None] * jnp.exp(logits - coefficients.shift[:, None])
        g += jnp.where(index[None] == labels[:, None], coefficients.label[:, None], 0)
        if coefficients.total is not None:
            g += jnp.where(logits > -jnp.inf, coefficients.total[:, None], 0)
        g = g if first_visit is None else jnp.where(first_visit, g, 0)
        # Backward through c tanh(x / c), also to c.
        if bound is not None and d_bound is not None:
            ratio = jnp.where(jnp.isinf(uncapped), 0, uncapped / bound)
            tanh = jnp.where(uncapped == jnp.inf, 1, jnp.tanh(ratio))
            d_bound += jnp.sum(g * (tanh - ratio * (1 - tanh * tanh)))
            g *= 1 - tanh * tanh
        if d_bias is not None:
            d_bias = add_at(d_bias, jnp.sum(g, axis=0), index[0])
        # Backward through the matrix product.
        g = g.astype(operands.dtype)  # rounded once, after subtracting the one-hot label
        d_hidden += contract(g, head, (1, 0), operands)
        d_head = add_at(d_head, contract(transposed(g), hidden_by_feature, (1, 1), operands), index[0])
        return (d_hidden, d_head, d_bias, d_bound), None

    return chunks.scan(step, gradient)
