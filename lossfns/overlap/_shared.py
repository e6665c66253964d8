"""Soft memberships, sums over an example or the batch, and means over classes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    check_array,
    check_shape,
    check_where,
    keep_rows,
    zero_masked,
)
from lossfns._numerics import log_probabilities, vary_like


class Memberships(NamedTuple):
    """Predicted and true memberships of the positions of each example, 0 at absent positions."""

    predicted: jax.Array
    """[N, P, C], probabilities."""
    true: jax.Array
    """[N, P, C], 0 .. 1, NaN where a label is out of range."""
    present: jax.Array
    """[N, P], boolean: neither masked nor void."""
    where: jax.Array | None
    """[N], boolean, or None."""


def memberships(
    logits: jax.Array, labels: jax.Array, valid: jax.Array | None, where: jax.Array | None, one_class: bool = False
) -> Memberships:
    """Checks the arguments; a softmax if `labels` lacks the class axis of `logits`, else sigmoids."""
    check_array("logits", logits)
    if logits.ndim < 2 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have the shape [examples, ..., classes], at least one class, got {logits.shape}")
    sigmoids = not one_class and isinstance(labels, jax.Array) and labels.ndim == logits.ndim
    if sigmoids:
        check_array("labels", labels, "real")
        check_shape("labels", labels, logits.shape, "of logits, one membership a class")
    else:
        check_array("labels", labels, "integer")
        check_shape("labels", labels, logits.shape[:-1], f"of logits {logits.shape} without the class axis")
    where = check_where(where, logits.shape[:1])
    rows, classes = logits.shape[0], logits.shape[-1]
    present = jnp.ones(logits.shape[:-1], bool)
    if valid is not None:
        check_shape("valid", check_array("valid", valid, "boolean"), logits.shape[:-1], "of the places of logits")
        present &= valid
    if where is not None:
        present &= jnp.expand_dims(where, tuple(range(1, present.ndim)))

    x = keep_rows(present, logits).astype(accumulation_dtype(logits, labels))
    if sigmoids:
        true = keep_rows(present, labels).astype(x.dtype)
        true = jnp.where((true >= 0) & (true <= 1), true, jnp.nan)
        predicted = jax.nn.sigmoid(x)
    else:
        labels = keep_rows(present, labels)
        true = (labels[..., None] == jnp.arange(classes).reshape((1,) * labels.ndim + (-1,))).astype(x.dtype)
        true = jnp.where(((labels >= 0) & (labels < classes))[..., None], true, jnp.nan)
        predicted = jnp.exp(log_probabilities(x))
    # Absent positions have no memberships and so are in no sum.
    predicted, true = (zero_masked(present[..., None], t) for t in (predicted, true))
    places = jnp.size(present) // rows if rows else 0
    return Memberships(
        predicted.reshape(rows, places, classes),
        true.reshape(rows, places, classes),
        present.reshape(rows, places),
        where,
    )


def total(counts: jax.Array, over: str, axis_name: AxisName) -> jax.Array:
    """Sums over the positions of an example, [N, C], or of the (global) batch, [1, C], from counts [N, P, C]."""
    if over == "example":
        return jnp.sum(counts, axis=1)
    summed = jnp.sum(counts, axis=(0, 1))[None]
    return summed if axis_name is None else jax.lax.psum(summed, axis_name)


def ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """`part / whole`, 0 where the whole is 0.

    The derivative of a quotient divides by the square of the whole. For a class without true positions that square may
    underflow to 0 and make the gradient NaN even at weight 0; in units of the whole, only 1 is squared. The derivative
    is 0 for a whole below the smallest normal number, where the reciprocal may be infinite.
    """
    none = whole < jnp.finfo(whole.dtype).tiny
    some = jnp.where(none, 1, whole)
    per_unit = jax.lax.stop_gradient(1 / some)  # XLA would merge two quotients into one by an underflowing product
    return jnp.where(none, 0, (part * per_unit) / (some * per_unit))


def mean_over_classes(costs: jax.Array, sizes: jax.Array, absent: str) -> jax.Array:
    """Mean of [rows, C] over the classes, or over those with a true position; 0 without any."""
    if absent == "keep":
        return jnp.mean(costs, axis=-1)
    # A label out of range makes the sizes of all classes NaN, not 0, so that they count and the NaN shows.
    there = sizes != 0
    return ratio(jnp.sum(jnp.where(there, costs, 0), axis=-1), jnp.sum(there, axis=-1).astype(costs.dtype))


def per_row(values: jax.Array, given: Memberships) -> jax.Array:
    """One value per example: its own, or the batch's at every present one."""
    # The sum over devices is the same on all, but the values vary over devices.
    values = vary_like(values, given.predicted)
    return zero_masked(given.where, jnp.broadcast_to(values, given.predicted.shape[:1]))
