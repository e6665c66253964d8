"""Sums over tables of rows x columns that are never held: one block at a time, exact in value and gradient.

A softmax over a vocabulary, a batch of negatives or a queue needs a table of scores, say [65536 columns, 8192 rows],
of which only a few numbers for each row or column are wanted. `stream` computes it in blocks of some columns and some
rows, reduces each as it comes, and recomputes it in the backward pass: the whole table is never in memory, nothing is
filtered or approximated, and sums are kept in float32 or wider with a running maximum. What it offers:

- `stream(block, whole, columns)`: `block(whole, part, index)` says what the scores of a block are and how they are
  reduced, by returning any pytree of `LogSum`, `Mean`, `Sum` (one value for each row, over all columns),
  `ColumnLogSum` and `ColumnSum` (one value for each column, over all rows). Gradients of any order follow, for any
  cotangents. `ShiftedLogSum` is `LogSum` for losses that subtract a score from it. With `axis_name` the columns may be
  spread over devices.
- `stream(..., bound=...)`, and so of the other two: where no score can exceed a bound, as cosines over a temperature
  cannot, and the bound is low enough for exponentials as they are, there is no search for maxima, and the sums of rows
  and of columns, and their gradients, share one exponential of each score. Decided at run time.
- `stream(..., expected=...)`: the gradient is made in the forward pass already, for cotangents that are a multiple of
  those expected (as those of a mean are); for others it is recomputed. Saves a third of the work where all reductions
  are sums.
- `stream_symmetric(block, whole, items)`: log-sums over the rows of a symmetric table, at half the work.
- `map_rows(function, rows, entries)`: results of rows that are no sums over columns, as of the nearest and the farthest
  column, for a group of rows at a time.
- `product(part, rows)`: the scores' matrix product in the form that is fast on CPU, in both passes, with bfloat16
  operands as well: they are multiplied as they are and summed in float32.
- `speculate`: the trick behind `expected`, for functions that make their own gradient; `gradient_of` is its other half.

Blocks are [columns, rows], transposed from how one thinks of logits, because XLA's CPU products are fast only if they
contract dimension 1 of their left operand, and its reductions over the first axis are vectorised. How large they are
is said in `sizes`. The last one overlaps the one before, and what it repeats is masked, so one program serves any
number of rows and columns.
"""

from lossfns._blockwise.columns import gradient_of as gradient_of
from lossfns._blockwise.columns import stream as stream
from lossfns._blockwise.products import contract as contract
from lossfns._blockwise.products import narrow as narrow
from lossfns._blockwise.products import product as product
from lossfns._blockwise.products import transposed as transposed
from lossfns._blockwise.reductions import ColumnLogSum as ColumnLogSum
from lossfns._blockwise.reductions import ColumnSum as ColumnSum
from lossfns._blockwise.reductions import LogSum as LogSum
from lossfns._blockwise.reductions import Mean as Mean
from lossfns._blockwise.reductions import Moments as Moments
from lossfns._blockwise.reductions import Shifted as Shifted
from lossfns._blockwise.reductions import ShiftedLogSum as ShiftedLogSum
from lossfns._blockwise.reductions import Sum as Sum
from lossfns._blockwise.ring import stream_ring as stream_ring
from lossfns._blockwise.rows import keep as keep
from lossfns._blockwise.rows import map_rows as map_rows
from lossfns._blockwise.speculative import speculate as speculate
from lossfns._blockwise.symmetric import stream_symmetric as stream_symmetric
from lossfns._blockwise.trees import vary_alike as vary_alike
