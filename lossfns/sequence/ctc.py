"""Connectionist temporal classification."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_where,
    flag,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative_int,
    zero_masked,
)
from lossfns._numerics import log_add, log_normalizer, row_shift, vary_like
from lossfns._padding import check_prefix, check_present, positions


@loss(static=("blank_id", "zero_infinity"), blank_id=non_negative_int, zero_infinity=flag)
def ctc(
    logits: jax.Array,
    labels: jax.Array,
    logits_where: jax.Array | None = None,
    labels_where: jax.Array | None = None,
    *,
    blank_id: int = 0,
    zero_infinity: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Connectionist temporal classification (CTC): negative log-likelihood of labels, summed over alignments.

    $$-\log \sum_{\pi : B(\pi) = y} \prod_t \mathrm{softmax}(x_t)_{\pi_t}$$

    $B$ merges repeated symbols of a path $\pi$ and then removes the blanks.

    Args:
        logits: [..., T, V], unnormalised log-probabilities of the symbols at each frame, in nats. A symbol at -inf is
            masked.
        labels: [..., L], integers in 0 .. V-1 other than the blank.
        logits_where: The present frames: boolean [..., T], or integer lengths [...]; None for all. An absent
            frame is skipped, wherever it is.
        labels_where: The present labels: boolean [..., L] without holes, or integer lengths [...]; None for all.
        blank_id: The blank's class, in 0 .. V-1.
        zero_infinity: Whether infeasible label sequences have the value 0 instead of inf, with gradient 0 either way.
        where: [...], boolean; False excludes the example.

    Returns:
        [...], nats per label sequence (not per label), at least 0; inf if the labels need more frames. A present label
        that is out of range or blank, a length out of range or a label mask with a hole gives NaN.

    Example:
        Two frames at equal odds of blank and "a": three of four paths give "a", so the loss is log(4/3).

        >>> print(ctc(jnp.zeros((2, 2)), jnp.array([1])).round(4))
        0.2877

        Two frames are too few for "aa", which needs a blank in between.

        >>> twice = jnp.array([1, 1])
        >>> print(ctc(jnp.zeros((2, 2)), twice), ctc(jnp.zeros((2, 2)), twice, zero_infinity=True))
        inf 0.0

    Conventions:
        - torch's `ctc_loss` takes log-probabilities, with the same values for `reduction="none"`. Its default "mean"
          first divides each value by its number of labels, here the term's weight `1 / max(length, 1)`. Its gradient at
          an infeasible example is NaN.
        - Optax's `ctc_loss` takes paddings (1 if absent) and gives a large finite number for infeasible labels. It does
          not rescale from frame to frame: at 16 x 256 frames, 64 symbols and 40 labels its gradient is off by 6e-4 from
          float64, this one by 6e-6.

    References:
        Graves et al. 2006, doi:10.1145/1143844.1143891.
    """
    check_array("logits", logits)
    check_array("labels", labels, "integer")
    if logits.ndim < 2 or logits.shape[-1] <= blank_id:
        raise ValueError(
            f"logits must have two last axes, frames and more than blank_id = {blank_id} classes, got {logits.shape}"
        )
    if labels.ndim != logits.ndim - 1 or labels.shape[:-1] != logits.shape[:-2]:
        raise ValueError(
            f"labels must have the shape {logits.shape[:-2]} of logits {logits.shape} without frames and classes, and "
            f"a last axis of labels, got {labels.shape}"
        )
    where = check_where(where, labels.shape[:-1])
    frames, valid = check_present("logits_where", logits_where, logits.shape[:-1], where)
    in_text, valid_labels = check_prefix("labels_where", labels_where, labels.shape, where)
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)), fill=-1)
    is_symbol = (labels >= 0) & (labels < logits.shape[-1]) & (labels != blank_id)
    wrong = keep_rows(where, jnp.any(in_text & ~is_symbol, axis=-1))
    valid &= valid_labels & ~wrong
    labels = jnp.where(in_text & is_symbol, labels, blank_id)

    x = keep_rows(frames, keep_rows(where, logits)).astype(accumulation_dtype(logits))
    values = -_log_probability(x, labels, jnp.sum(in_text, axis=-1), frames, blank_id)
    # Rounding may make a value negative; its gradient is right and kept.
    values += jax.lax.stop_gradient(jnp.maximum(-values, 0))
    if zero_infinity:
        values = jnp.where(values == jnp.inf, 0, values)
    return zero_masked(where, nan_where_invalid(valid, values))


def _log_probability(x: jax.Array, labels: jax.Array, length: jax.Array, frames: jax.Array, blank_id: int) -> jax.Array:
    """The forward algorithm over labels and blanks: 2 L + 1 states, the even ones blank."""
    states = 2 * labels.shape[-1] + 1
    symbols = jnp.full((*labels.shape[:-1], states), blank_id, labels.dtype).at[..., 1::2].set(labels)
    before = jnp.pad(symbols, [(0, 0)] * (symbols.ndim - 1) + [(2, 0)], constant_values=blank_id)[..., :states]
    may_skip = (symbols != blank_id) & (symbols != before)

    _, shift = row_shift(x)
    log_z = log_normalizer(x, shift)[..., None]
    symbol_logits = jnp.take_along_axis(x, symbols[..., None, :], axis=-1, mode="clip")
    scores = symbol_logits - shift - jnp.where(log_z == -jnp.inf, 0, log_z)

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        alpha, total = carry
        score, present = inputs
        padded = jnp.pad(alpha, [(0, 0)] * (alpha.ndim - 1) + [(2, 0)], constant_values=-jnp.inf)
        jump = jnp.where(may_skip, padded[..., :states], -jnp.inf)
        moved = log_add(alpha, padded[..., 1 : states + 1], jump) + score
        alpha = jnp.where(present[..., None], moved, alpha)
        # A constant subtracted at each frame keeps the numbers small and accurate; it cancels in the gradient.
        _, top = row_shift(alpha)
        return (alpha - top, total + top[..., 0]), None

    # Before the first frame all probability is on the first blank, which leads to both first states.
    place = positions(states, symbols.ndim)
    first = jnp.where(place == 0, 0.0, -jnp.inf).astype(x.dtype)
    alpha = vary_like(jnp.broadcast_to(first, symbols.shape), x, labels, frames)
    by_frame = jnp.moveaxis(scores, -2, 0), jnp.moveaxis(frames, -1, 0)
    # Only alpha is stored for the gradient; its shares are recomputed.
    (alpha, total), _ = jax.lax.scan(jax.checkpoint(step), (alpha, jnp.zeros_like(alpha[..., 0])), by_frame)
    at_end = (place == 2 * length[..., None]) | (place == 2 * length[..., None] - 1)
    alpha = jnp.where(at_end, alpha, -jnp.inf)
    _, top = row_shift(alpha)
    return log_normalizer(alpha, top) + top[..., 0] + total
