"""Recurrent neural network transducer (RNN-T)."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_where,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative_int,
    zero_masked,
)
from lossfns._numerics import log_normalizer, row_shift
from lossfns._padding import check_prefix, check_present
from lossfns.sequence._lattice import log_sum_of_paths


@loss(static=("blank_id",), blank_id=non_negative_int)
def rnn_transducer(
    logits: jax.Array,
    labels: jax.Array,
    frames_where: jax.Array | None = None,
    labels_where: jax.Array | None = None,
    *,
    blank_id: int = 0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Transducer loss (RNN-T): negative log-likelihood of labels, summed over alignments.

    $$-\log \sum_{\pi} \prod_{(t, u) \in \pi} \mathrm{softmax}(x_{t,u})_{\pi_{t,u}}$$

    At frame t, after u labels, the model emits either the next label and stays, or the blank and moves to the next
    frame; a path $\pi$ ends with the last frame's blank after all labels.

    Args:
        logits: [..., T, L + 1, V], unnormalised log-probabilities in nats: the joint network's output for frame t after
            u = 0 .. L labels.
        labels: [..., L], integers in 0 .. V-1 other than the blank.
        frames_where: The present frames: boolean [..., T], or integer lengths [...]; None for all. An absent
            frame is skipped, wherever it is.
        labels_where: The present labels: boolean [..., L] without holes, or integer lengths [...]; None for all.
        blank_id: The blank's class, in 0 .. V-1.
        where: [...], boolean; False excludes the example.

    Returns:
        [...], nats per label sequence, at least 0; inf if every path has probability 0, and 0 for no frames and no
        labels. A present label that is out of range or blank, a length out of range or a label mask with a hole gives
        NaN.

    Example:
        One frame, one label, equal odds everywhere: the only path emits "a", then the blank, so the loss is log 4.

        >>> print(rnn_transducer(jnp.zeros((1, 2, 2)), jnp.array([1])).round(4))
        1.3863

    Conventions:
        - torchaudio's `rnnt_loss` has the same values (it also normalises the logits), with the last class as the
          default blank.
        - A frame may emit any number of labels, as in the paper; "monotonic" variants allow one.

    References:
        Graves 2012, arXiv:1211.3711.
    """
    check_array("logits", logits)
    check_array("labels", labels, "integer")
    if logits.ndim < 3 or logits.shape[-1] <= blank_id:
        raise ValueError(
            f"logits must have three last axes, frames, labels + 1 and more than blank_id = {blank_id} classes, "
            f"got {logits.shape}"
        )
    *batch, _, positions, classes = logits.shape
    expected = (*batch, positions - 1)
    if labels.shape != expected:
        raise ValueError(f"labels must have the shape {expected} of logits {logits.shape}, got {labels.shape}")
    where = check_where(where, labels.shape[:-1])
    frames, valid = check_present("frames_where", frames_where, logits.shape[:-2], where)
    in_text, valid_labels = check_prefix("labels_where", labels_where, labels.shape, where)
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)), fill=-1)
    is_symbol = (labels >= 0) & (labels < classes) & (labels != blank_id)
    wrong = keep_rows(where, jnp.any(in_text & ~is_symbol, axis=-1))
    valid &= valid_labels & ~wrong
    labels = jnp.where(in_text & is_symbol, labels, blank_id)

    # After u labels: position 0 is always present, position u if label u is.
    reached = jnp.concatenate([jnp.ones_like(in_text[..., :1], shape=(*batch, 1)), in_text], axis=-1)
    here = frames[..., None] & reached[..., None, :]
    x = keep_rows(here, keep_rows(where, logits)).astype(accumulation_dtype(logits))
    values = -_log_probability(x, labels, frames, in_text, here, blank_id)
    # Rounding may make a value negative; its gradient is right and kept.
    values += jax.lax.stop_gradient(jnp.maximum(-values, 0))
    return zero_masked(where, nan_where_invalid(valid, values))


def _log_probability(
    x: jax.Array, labels: jax.Array, frames: jax.Array, in_text: jax.Array, here: jax.Array, blank_id: int
) -> jax.Array:
    """Log-sum over paths through the grid of (frame, labels so far), with a row past the last frame."""
    _, shift = row_shift(x)
    log_z = log_normalizer(x, shift)
    log_z = jnp.where(log_z == -jnp.inf, 0, log_z)
    blank = x[..., blank_id] - shift[..., 0] - log_z
    index = jnp.broadcast_to(labels[..., None, :, None], (*x.shape[:-2], labels.shape[-1], 1))
    label = jnp.take_along_axis(x[..., :-1, :], index, axis=-1, mode="clip")[..., 0]
    label = label - shift[..., :-1, 0] - log_z[..., :-1]

    # Absent frames, and absent labels past the last frame, are crossed at no cost, which leads to the corner.
    down = jnp.where(here, blank, jnp.where(frames[..., None], -jnp.inf, 0))
    across = jnp.where(frames[..., None] & in_text[..., None, :], label, -jnp.inf)
    last = jnp.where(in_text, -jnp.inf, 0).astype(x.dtype)[..., None, :]
    nothing = [(0, 0)] * (x.ndim - 3)
    down = jnp.pad(down, [*nothing, (1, 0), (0, 0)], constant_values=-jnp.inf)
    across = jnp.pad(jnp.concatenate([across, last], -2), [*nothing, (0, 0), (1, 0)], constant_values=-jnp.inf)
    moves = tuple(jnp.moveaxis(x, -2, 0) for x in (down, across))
    return log_sum_of_paths(lambda moves, *_: moves, moves, (), ())
