"""Sums over tables of rows x columns that are never materialised, exact in value and gradient.

A softmax over a vocabulary, a batch of negatives or a queue needs a table of scores, say [65536 columns, 8192 rows],
but only a few numbers per row or column of it. The engine computes the table in blocks of columns and rows, reduces
each block immediately, and recomputes it in the backward pass. Nothing is filtered or approximated; sums are in float32
or wider with a running maximum.

What it offers:

- `stream(block_fn, row_inputs, column_inputs)`: `block_fn(rows, columns, index)` returns a pytree of reductions of a
  block: `LogSum`, `ShiftedLogSum`, `SoftmaxMean`, `Sum` (one value per row, over all columns), `ColumnLogSum` and
  `ColumnSum` (one value per column, over all rows). It has gradients of any order, for any cotangents. With `axis_name`
  the columns may be sharded over devices.
- `stream(..., bound=...)`: for scores with a known bound, such as cosines over a temperature. If exponentials of the
  bound are safe, maxima are not computed, and all log-sums of a score share one exponential in value and gradient.
  Chosen at run time.
- `stream(..., expected=...)`: the gradient is computed in the forward pass, for cotangents that are a multiple of the
  expected ones, as in a mean; it is recomputed for others. Saves a third of the work if all reductions are sums.
- `stream_ring(block_fn, row_inputs, column_inputs, axis_name)`: over the columns of all devices, never gathered.
- `stream_symmetric(block_fn, shared, items)`: log-sums over the rows of a symmetric table, with half the work.
- `map_rows(function, rows, entries)`: functions of rows other than sums over columns, such as the farthest column, a
  group of rows at a time.
- `product(columns, rows)`: the matrix product of scores in the form that is fast on CPU, in both passes. bfloat16
  operands are multiplied as they are and summed in float32.
- `gradient_in_forward`, `gradient_of`: the two halves of `expected`, for functions that compute their own gradient.

Modules, from the bottom up:

    pytrees, blocks, sizes      floats of a pytree; equal blocks of an axis; block sizes
    products                    matrix products
    reductions                  the state, result and cotangent of each reduction
    table                       forward and backward pass over the blocks
    forward_gradient            gradients computed in the forward pass
    stream, ring, symmetric     differentiable passes over any table, a ring of devices, a symmetric table
    rows                        `map_rows`

Blocks are [columns, rows], the transpose of the usual layout of logits, because on CPU XLA's products are only fast if
they contract dimension 1 of the left operand, and its reductions over the first axis are vectorised. The last block
overlaps the previous one and repeated scores are masked, so one program serves any number of rows and columns.
"""

from lossfns._blockwise.forward_gradient import gradient_in_forward as gradient_in_forward
from lossfns._blockwise.products import PRECISIONS as PRECISIONS
from lossfns._blockwise.products import Operands as Operands
from lossfns._blockwise.products import contract as contract
from lossfns._blockwise.products import exact_operands as exact_operands
from lossfns._blockwise.products import product as product
from lossfns._blockwise.products import transposed as transposed
from lossfns._blockwise.pytrees import vary_together as vary_together
from lossfns._blockwise.reductions import ColumnLogSum as ColumnLogSum
from lossfns._blockwise.reductions import ColumnSum as ColumnSum
from lossfns._blockwise.reductions import LogSum as LogSum
from lossfns._blockwise.reductions import Moments as Moments
from lossfns._blockwise.reductions import Shifted as Shifted
from lossfns._blockwise.reductions import ShiftedLogSum as ShiftedLogSum
from lossfns._blockwise.reductions import SoftmaxMean as SoftmaxMean
from lossfns._blockwise.reductions import Sum as Sum
from lossfns._blockwise.ring import stream_ring as stream_ring
from lossfns._blockwise.rows import keep as keep
from lossfns._blockwise.rows import map_rows as map_rows
from lossfns._blockwise.stream import gradient_of as gradient_of
from lossfns._blockwise.stream import stream as stream
from lossfns._blockwise.symmetric import stream_symmetric as stream_symmetric
