"""What the losses of a classifier share: labels that are checked, and the sure example's weight."""

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, check_array, check_rank, check_shape, check_where, keep_rows


def check_classes(name: str, logits: jax.Array) -> None:
    """Raise unless there is a last axis with at least one class."""
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{name} must have a last axis of at least one class, got shape {logits.shape}")


def check_labels(
    logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return the labels, made harmless where they are masked or out of range, which are in range, and the mask."""
    check_array("logits", logits)
    check_array("labels", labels, "integer")
    check_classes("logits", logits)
    check_shape("labels", labels, logits.shape[:-1], f"of logits {logits.shape} without the class axis")
    where = check_where(where, labels.shape)
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)))
    in_range = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.clip(labels, 0, logits.shape[-1] - 1), in_range, where


def check_counts(class_counts: jax.Array, logits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return the examples of each class as floats, all NaN if one of them is negative or not finite."""
    check_array("class_counts", class_counts, "real")
    check_classes("logits", logits)
    check_rank("class_counts", class_counts, 1, "[classes]")
    check_shape("class_counts", class_counts, logits.shape[-1:], f"of the classes of logits {logits.shape}")
    return sound_counts(class_counts.astype(dtype))


def sound_counts(counts: jax.Array) -> jax.Array:
    """The counts, all NaN if one of them is negative or not finite."""
    return jnp.where(jnp.all((counts >= 0) & (counts < jnp.inf)), counts, jnp.nan)


def at_label(labels: jax.Array, classes: int) -> jax.Array:
    """[..., V], True at the label."""
    return jnp.arange(classes).reshape((1,) * labels.ndim + (-1,)) == labels[..., None]


def one_if(holds: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """1 where it holds and NaN where not: a factor that spoils exactly the rows that are wrong."""
    return jnp.where(holds, jnp.ones((), dtype), jnp.nan)


def check_pair(
    name: str, first: jax.Array, other: str, second: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Two [..., V] of one shape in the dtype of the computation, 0 at masked rows, and the mask."""
    check_array(name, first)
    check_array(other, second)
    check_classes(name, first)
    check_shape(other, second, first.shape, f"of {name}")
    where = check_where(where, first.shape[:-1])
    dtype = accumulation_dtype(first, second)
    return keep_rows(where, first).astype(dtype), keep_rows(where, second).astype(dtype), where


def focused(nats: jax.Array, gamma: jax.Array) -> jax.Array:
    """(1 - p)^gamma (-log p) of -log p; 0 with gradient 0 at p = 1, where the power alone has none for gamma < 1."""
    infinite = nats == jnp.inf
    finite = jnp.where(infinite, 1, nats)
    doubt = -jnp.expm1(-finite)
    sure = doubt <= 0
    power = jnp.exp(gamma * jnp.log(jnp.where(sure, 1, doubt)))
    return jnp.where(infinite, nats, jnp.where(sure, 0, power * finite))
