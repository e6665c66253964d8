"""Distances and same-class masks, for losses over pairs of examples or of examples and classes."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, stream
from lossfns._contract import AxisName, check_array, check_rank, check_shape, check_where, keep_rows
from lossfns._global_batch import gather_rows, row_numbers
from lossfns._numerics import log_normalizer, magnitude, row_shift, unit_vectors
from lossfns.contrastive._shared import Embeddings, negatives

NORMS = ("l2", "squared_l2", "l1")


def length(x: jax.Array) -> jax.Array:
    """Euclidean norm over the last axis, scaled by the largest entry; derivative 0 at the zero vector."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    scaled = x / jnp.where(largest == 0, 1, largest)
    squares = jnp.sum(scaled * scaled, axis=-1)
    return largest[..., 0] * jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))


def distance(norm: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The norm of a - b over the last axis, one of `NORMS`."""
    if norm == "l1":
        return jnp.sum(magnitude(a - b), axis=-1)
    return jnp.sum(jnp.square(a - b), axis=-1) if norm == "squared_l2" else length(a - b)


def gap(norm: str, x: jax.Array, near: jax.Array, far: jax.Array) -> jax.Array:
    """d(x, near) - d(x, far), without cancellation where both are large."""
    to_near, to_far = x - near, x - far
    if norm == "l1":
        return jnp.sum(magnitude(to_near) - magnitude(to_far), axis=-1)
    between, both = far - near, to_near + to_far
    if norm == "squared_l2":
        return jnp.sum(between * both, axis=-1)
    # |u| - |v| = (|u|^2 - |v|^2) / (|u| + |v|), scaled by the largest entry.
    largest = jnp.max(jnp.maximum(jnp.abs(to_near), jnp.abs(to_far)), axis=-1, keepdims=True, initial=0)
    largest = jax.lax.stop_gradient(jnp.where(largest == 0, 1, largest))
    lengths = length(to_near / largest) + length(to_far / largest)
    squares = jnp.sum(between / largest * (both / largest), axis=-1)
    return largest[..., 0] * squares / jnp.where(lengths == 0, 1, lengths)


def check_labelled(embeddings: jax.Array, labels: jax.Array, where: jax.Array | None) -> jax.Array | None:
    """Raises unless there is a label for each embedding; returns the mask."""
    check_array("embeddings", embeddings)
    check_array("labels", labels, "integer")
    check_rank("embeddings", embeddings, 2, "[examples, features]")
    check_shape("labels", labels, embeddings.shape[:1], f"of embeddings {embeddings.shape}")
    return check_where(where, labels.shape)


def labelled_rows(
    vectors: jax.Array, labels: jax.Array, where: jax.Array | None, axis_name: AxisName
) -> tuple[Embeddings, Embeddings]:
    """The examples of this device and of all devices."""
    here = Embeddings(vectors, row_numbers(labels.shape[0], axis_name), where, keep_rows(where, labels))
    return here, gather_rows(here, axis_name)


def relations(anchors: Embeddings, others: Embeddings) -> tuple[jax.Array, jax.Array]:
    """Masks [N, M] of the positives and of the negatives of each anchor."""
    assert anchors.label is not None
    assert others.label is not None
    same = anchors.label[:, None] == others.label[None]
    present = jnp.ones_like(same)
    if anchors.present is not None and others.present is not None:
        present = anchors.present[:, None] & others.present[None]
    return present & same & (anchors.pair[:, None] != others.pair[None]), present & ~same


def log_one_plus(scores: jax.Array, counts: jax.Array) -> jax.Array:
    """log(1 + sum of e^score) over the valid scores of the last axis; 0 if there are none."""
    scores = jnp.where(counts, scores, -jnp.inf)
    _, shift = row_shift(scores)
    return jax.nn.softplus(log_normalizer(scores, shift) + shift[..., 0])


def check_proxies(
    embeddings: jax.Array,
    class_name: str,
    class_vectors: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    least: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns (labels clipped into range, whether each is in range, where)."""
    where = check_labelled(embeddings, labels, where)
    check_array(class_name, class_vectors)
    check_rank(class_name, class_vectors, 2, "[classes, features]")
    classes, features = class_vectors.shape[0], embeddings.shape[1]
    check_shape(class_name, class_vectors, (classes, features), f"by the features of embeddings {embeddings.shape}")
    if classes < least:
        raise ValueError(f"{class_name} must have at least {least} classes, got shape {class_vectors.shape}")
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)))
    return jnp.clip(labels, 0, classes - 1), (labels >= 0) & (labels < classes), where


def log_sum_of_others(
    rows: jax.Array, class_vectors: jax.Array, labels: jax.Array, where: jax.Array | None, block_size: int | None
) -> jax.Array:
    """For each row, the log-sum-exp of its products with the vectors of the other classes."""
    columns = Embeddings(class_vectors, jnp.arange(class_vectors.shape[0], dtype=labels.dtype))
    out: jax.Array = stream(_other_classes, Embeddings(rows, labels, where).as_rows, columns, block_size=block_size)
    return out


def _other_classes(rows: Embeddings, columns: Embeddings, index: jax.Array) -> LogSum:
    return LogSum(negatives(rows, columns._replace(vectors=unit_vectors(columns.vectors))))
