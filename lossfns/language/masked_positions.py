"""Gathers labelled positions before the output head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._contract import check_array, check_shape, check_where, loss, one_of, optional_size


class Labelled(NamedTuple):
    """Result of `gather_labelled` with capacity C.

    Attributes:
        hidden: [C, D], the labelled rows in order; zeros after the last.
        labels: [C], their labels; 0 after the last.
        where: [C], boolean, which slots are filled: `where` and weights of the loss.
        positions: [C], integers: the position of each row in the flattened batch; its size after the last.
        overflow: Integer, how many labelled rows did not fit.
    """

    hidden: jax.Array
    labels: jax.Array
    where: jax.Array
    positions: jax.Array
    overflow: jax.Array


@loss(static=("capacity", "on_overflow"), capacity=optional_size, on_overflow=one_of("nan", "drop"))
def gather_labelled(
    hidden: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array,
    capacity: int,
    on_overflow: str = "nan",
) -> Labelled:
    """Gathers the labelled rows, so that head and loss are computed for them alone.

    A masked language model predicts about 15 % of its positions; the others need no logits.

    Args:
        hidden: [..., D].
        labels: [...], integers.
        where: [...], boolean: the rows to keep.
        capacity: Number C of rows in the result. `apply_mlm_mask` at rate r chooses at most
            `max(1, round(r * T))` tokens in each row of T.
        on_overflow: If there are more, "nan" gives the last slot a label out of range, so that the loss is NaN; "drop"
            drops the rest: check `overflow`.

    Returns:
        A `Labelled`, for `linear_cross_entropy(out.hidden, head, out.labels, where=out.where)`.

    Example:
        Two of four positions are labelled; the capacity is three.

        >>> where = jnp.array([False, True, False, True])
        >>> out = gather_labelled(jnp.arange(4.0)[:, None], jnp.array([5, 6, 7, 8]), where=where, capacity=3)
        >>> print(out.labels, out.where, out.hidden[:, 0], out.overflow)
        [6 8 0] [ True  True False] [1. 3. 0.] 0

    Conventions:
        BERT's code gathers a fixed number of positions per sequence; this gathers from the whole batch, so that rows
        with few labels make room for rows with many.
    """
    check_array("hidden", hidden)
    check_array("labels", labels, "integer")
    if hidden.ndim == 0:
        raise ValueError("hidden must have a last axis of features, got a scalar")
    check_shape("labels", labels, hidden.shape[:-1], f"of hidden {hidden.shape} without the feature axis")
    if where is None:
        raise ValueError(
            "where must be a boolean array of the labels' shape, got None: then there is nothing to gather"
        )
    if capacity is None:
        raise ValueError("capacity must be a Python integer of at least 1, got None")
    marked = check_where(where, labels.shape).reshape(-1)  # type: ignore[union-attr]
    rows = hidden.reshape(labels.size, hidden.shape[-1])
    if labels.size == 0:
        nothing = jnp.zeros(capacity, bool)
        empty = jnp.zeros((capacity, hidden.shape[-1]), hidden.dtype), jnp.zeros(capacity, labels.dtype)
        return Labelled(*empty, nothing, nothing.astype(jnp.int32), jnp.zeros((), jnp.int32))
    count = jnp.sum(marked, dtype=jnp.int32)
    positions = jnp.nonzero(marked, size=capacity, fill_value=labels.size)[0].astype(jnp.int32)
    filled = positions < labels.size
    overflow = jnp.maximum(count - capacity, 0)
    picked = jnp.where(filled[:, None], rows.at[positions].get(mode="fill", fill_value=0), 0)
    kept = jnp.where(filled, labels.reshape(-1).at[positions].get(mode="fill", fill_value=0), 0)
    if on_overflow == "nan":
        wrong = (jnp.arange(capacity) == capacity - 1) & (overflow > 0)
        kept = jnp.where(wrong, jnp.full_like(kept, -1), kept)
    return Labelled(picked, kept, filled, positions, overflow)
