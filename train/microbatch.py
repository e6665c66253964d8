"""Encoders that process a batch in micro-batches inside a loss that couples the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.errors import UsageError
from train.parallel import micro_batches
from train.trees import Batch, Params, widen

Encode = Callable[..., Any]


def microbatched(encode: Encode, n: int) -> Encode:
    r"""Runs an encoder on n micro-batches in turn: the numbers of the whole batch in the memory of one micro-batch.

    A contrastive loss couples the rows of a batch, so `accumulate` would change it. Its encoder treats rows
    independently, and with $z_j = f_\theta(x_j)$ the embeddings of micro-batch j

    $$\nabla_\theta\, \ell(z_1, \ldots, z_n) =
      \sum_j \left(\frac{\partial f_\theta(x_j)}{\partial \theta}\right)^{\!\top} \frac{\partial \ell}{\partial z_j}.$$

    So the forward pass keeps only the embeddings, and the backward pass runs the encoder again for each micro-batch.
    This is GradCache by plain autodiff: `jax.lax.map` over `jax.checkpoint`. It costs one more forward pass of the
    encoder.

    Args:
        encode: `(params, rows) -> embeddings`, or `(params, rows, key) -> embeddings`; `rows` and `embeddings`
            are pytrees of arrays with a leading axis of the same size. Rows must be independent, which excludes batch
            norm. Differentiable inputs must be arguments, preferably `params`.
        n: Number of micro-batches, a divisor of the rows; under `pmap` and `shard_map`, of the rows of each device.

    Returns:
        A function of the same arguments that returns the embeddings of all rows in order. Micro-batch j has the rows j,
        j + n, ... and the key `fold_in(key, j)`; keys in `rows`, one per row, are split like other arrays. Gradients of
        the parameters are accumulated in at least float32.

    >>> encode = lambda params, rows: {"z": params * rows["x"]}
    >>> loss = lambda params, n: jnp.sum(microbatched(encode, n)(params, {"x": jnp.arange(6.0)})["z"]) ** 2
    >>> [jax.grad(loss)(2.0, n).item() for n in (1, 2, 3)]  # d/dp (15 p)^2 = 450 p
    [900.0, 900.0, 900.0]

    References:
        Gao et al. 2021, arXiv:2101.06983.
    """
    if n < 1:
        raise UsageError(f"microbatched: n is {n}, but a batch has at least 1 micro-batch.")

    def run(params: Params, rows: Batch, key: jax.Array | None = None) -> Any:
        size = _count(rows)
        if size % n:
            raise UsageError(
                f"microbatched: {size} rows do not divide evenly into {n} micro-batches: choose a divisor of {size}."
            )
        keys = () if key is None else (jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n)),)
        if n == 1:
            return _checked(encode(params, rows, *(each[0] for each in keys)), size)

        def part(wide: Any, micro: Any) -> Any:
            own = jax.tree.map(_as, wide, params)
            return _checked(encode(own, *micro), size // n)

        # The backward pass of the map accumulates gradients in the dtype of its input.
        wide = jax.tree.map(widen, params)
        # Common subexpressions need no barrier: inside a loop the two forward passes cannot be merged.
        part = jax.checkpoint(part, prevent_cse=False)
        outputs = jax.lax.map(lambda micro: part(wide, micro), (micro_batches(rows, n), *keys))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(size, *x.shape[2:]), outputs)

    return run


def _count(rows: Batch) -> int:
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(rows)}
    if len(sizes) != 1 or sizes == {()}:
        shapes = jax.tree.map(np.shape, rows)
        raise UsageError(f"microbatched: all rows need the same leading axis, but the shapes are {shapes}.")
    return int(sizes.pop()[0])


def _checked(outputs: Any, size: int) -> Any:
    for leaf in jax.tree.leaves(outputs):
        if np.shape(leaf)[:1] != (size,):
            raise UsageError(
                f"microbatched: the encoder was given {size} rows and returned an array of shape {np.shape(leaf)}; "
                f"its leading axis has to be {size}."
            )
    return outputs


def _as(wide: jax.Array, leaf: Any) -> jax.Array:
    return wide.astype(jnp.result_type(leaf)) if jnp.issubdtype(wide.dtype, jnp.inexact) else wide
