"""Losses from hidden states and an output head, without holding the logits [tokens, vocabulary]."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._blockwise import PRECISIONS
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    check_where,
    flag,
    keep_rows,
    loss,
    nan_where_invalid,
    non_negative_or_off,
    one_of,
    optional_size,
    positive,
    probability_or_off,
    zero_masked,
)
from lossfns.language._output_layer import Inputs, by_default, cross_entropy, vocabulary_statistics
from lossfns.language.causal import next_token_where


@loss(
    static=("block_size", "return_lse", "axis_name", "precision"),
    label_smoothing=probability_or_off,
    z_loss=non_negative_or_off,
    soft_cap=positive,
    block_size=optional_size,
    return_lse=flag,
    precision=one_of(*PRECISIONS),
)
def linear_cross_entropy(
    hidden: jax.Array,
    head: jax.Array,
    labels: jax.Array,
    *,
    bias: jax.Array | None = None,
    where: jax.Array | None = None,
    label_smoothing: float | jax.Array = 0.0,
    z_loss: float | jax.Array = 0.0,
    soft_cap: float | jax.Array | None = None,
    block_size: int | None = None,
    return_lse: bool = False,
    axis_name: AxisName = None,
    precision: str = "highest",
) -> jax.Array | tuple[jax.Array, jax.Array]:
    r"""Cross-entropy of the logits `hidden @ head.T + bias`, computed a block at a time.

    $$-x_y + \log \sum_k e^{x_k}, \quad x = W h + b$$

    The value and gradient of `softmax_cross_entropy` on the logits, to rounding: nothing is filtered or approximated.
    The logits, four bytes for each pair of a token and a class, are neither held nor written.

    Args:
        hidden: [..., D], the last hidden state of each token.
        head: [V, D], one row for each class: the layout of an embedding, so a tied one is passed as it is.
        labels: [...], integers in 0 .. V-1.
        bias: [V]. A class at -inf is masked: it has probability 0 and no share of label smoothing.
        where: [...], boolean; False deletes the token.
        label_smoothing: Mass $\epsilon$ in 0 .. 1, spread evenly over all classes that exist.
        z_loss: Coefficient $\zeta$ of the squared log-normaliser.
        soft_cap: Bound $c$: the logits become $c \tanh(x / c)$, the bias included.
        block_size: None chooses by platform. On CPU the gradient is computed with the value, a tile of at most an
            eighth of the tokens at a time: fastest where all tokens that count have the same weight, as in their mean;
            if it turns out otherwise, the gradient is computed again. On GPU and TPU, and on CPU for a head in half
            precision with more than 2^26 entries, blocks of classes are processed instead. A number takes that many
            classes at a time on every platform and computes the gradient afterwards, for any weights: least memory on
            CPU, and fastest there where tokens have weights of their own.
        return_lse: Whether to return the log-normalisers as well.
        axis_name: Name of a mapped device axis over which the vocabulary is spread: `head` and `bias` are then those of
            this device's classes, in order of the devices, while the tokens are the same on all devices and labels are
            numbers of the whole vocabulary. All devices return the same; the gradient of `hidden` is complete on each.
        precision: Of products in float32 on accelerators, in the names of `jax.lax.Precision`: "highest" is float32, in
            six passes of bfloat16 on TPU; "high" is three passes; "default" is one, on GPU tensor-float-32. Half
            precision is multiplied exactly by all of them, and so is float32 on CPU.

    Returns:
        [...], nats for each token. A label outside of the vocabulary gives NaN. With `return_lse`, that and $\log
        \sum_k e^{x_k}$, [...], 0 at masked tokens.

    Example:
        Odds of 3 to 1 for the first of two classes.

        >>> head = jnp.log(jnp.array([[3.0], [1.0]]))
        >>> print(linear_cross_entropy(jnp.ones((2, 1)), head, jnp.array([0, 1])).round(4))
        [0.2877 1.3863]

    Conventions:
        - Inputs that are all bfloat16 are multiplied as such and summed in float32; the logits are never rounded. The
          gradient of the logits is rounded to bfloat16 once, when it is multiplied, its label's one already subtracted.
          float32 inputs are multiplied in float32 on accelerators too, unless `precision` allows shorter formats.
        - The authors' code drops small gradients by default; its `cce_exact` drops none. A spread vocabulary has the
          same convention there: one loss on all devices, a complete gradient of the hidden states on each.
        - Liger's kernel rounds the logits to the dtype of the inputs, and sums the gradient of the head in that of the
          head unless another is asked for.

    References:
        Wijmans et al. 2024, arXiv:2411.09009. Szegedy et al. 2016, arXiv:1512.00567 (label smoothing). Chowdhery et al.
        2022, arXiv:2204.02311 (z-loss). Gemma Team 2024, arXiv:2408.00118 (soft cap).
    """
    inputs, where, valid, dtype = _prepare(hidden, head, labels, bias, soft_cap, where, axis_name)
    inputs = inputs._replace(
        label_smoothing=None if label_smoothing is None else as_scalar(label_smoothing, dtype),
        z_loss=None if z_loss is None else as_scalar(z_loss, dtype),
    )
    if block_size is None and axis_name is None:
        present = jnp.ones(labels.shape, bool) if where is None else where
        values, log_sums = by_default(inputs, present.reshape(-1).astype(dtype), precision)
    else:
        statistics = vocabulary_statistics(inputs, precision, block_size, axis_name)
        values, log_sums = cross_entropy(statistics, inputs.label_smoothing, inputs.z_loss)
    values = zero_masked(where, nan_where_invalid(valid, values.reshape(labels.shape)))
    return (values, zero_masked(where, log_sums.reshape(labels.shape))) if return_lse else values


@loss(
    static=("block_size", "axis_name", "precision"),
    soft_cap=positive,
    block_size=optional_size,
    precision=one_of(*PRECISIONS),
)
def linear_log_probs(
    hidden: jax.Array,
    head: jax.Array,
    labels: jax.Array,
    *,
    bias: jax.Array | None = None,
    where: jax.Array | None = None,
    soft_cap: float | jax.Array | None = None,
    block_size: int | None = None,
    axis_name: AxisName = None,
    precision: str = "highest",
) -> jax.Array:
    r"""Log-probability of each label, $\log \mathrm{softmax}(W h + b)_y$, without holding the logits.

    For losses with different weights for tokens or rows: policy gradients, GRPO, DPO.

    Args:
        hidden: [..., D], the last hidden state of each token. Nothing is shifted here: the hidden state at a token is
            that which predicts its label.
        head: [V, D], one row for each class.
        labels: [...], integers in 0 .. V-1.
        bias: [V]; a class at -inf is masked.
        where: [...], boolean; False deletes the token.
        soft_cap: Bound $c$: the logits become $c \tanh(x / c)$.
        block_size: Classes in a block; None chooses.
        axis_name: As of `linear_cross_entropy`.
        precision: As of `linear_cross_entropy`.

    Returns:
        [...], nats for each token, at most 0. A label outside of the vocabulary gives NaN.

    Example:
        >>> head = jnp.log(jnp.array([[3.0], [1.0]]))
        >>> print(linear_log_probs(jnp.ones((2, 1)), head, jnp.array([0, 1])).round(4))
        [-0.2877 -1.3863]

    Conventions:
        To sample or score at a temperature, divide the hidden states by it (and the bias).

    References:
        Wijmans et al. 2024, arXiv:2411.09009.
    """
    return _log_probs(hidden, head, labels, bias, where, soft_cap, block_size, axis_name, precision)


@loss(
    static=("average", "block_size", "axis_name", "precision"),
    average=flag,
    soft_cap=positive,
    block_size=optional_size,
    precision=one_of(*PRECISIONS),
)
def linear_sequence_log_probs(
    hidden: jax.Array,
    head: jax.Array,
    tokens: jax.Array,
    *,
    average: bool = False,
    bias: jax.Array | None = None,
    where: jax.Array | None = None,
    soft_cap: float | jax.Array | None = None,
    block_size: int | None = None,
    axis_name: AxisName = None,
    precision: str = "highest",
) -> jax.Array:
    r"""Log-probability of each answer given its prompt, without holding the logits; input of DPO and its relatives.

    `sequence_log_probs` on the logits `hidden @ head.T + bias`, in value and gradient.

    Args:
        hidden: [..., T, D], at each position the hidden state that predicts the next token; that of the last is not
            used.
        head: [V, D], one row for each token of the vocabulary.
        tokens: [..., T], prompt and answer as fed to the model, integers in 0 .. V-1.
        average: Whether to divide by the number of tokens summed.
        bias: [V]; a token at -inf is masked.
        where: [..., T], boolean: the tokens of the answer. It has the shape of the tokens, not of the result. None for
            all tokens but the first, which nothing predicts.
        soft_cap: Bound $c$: the logits become $c \tanh(x / c)$.
        block_size: Classes in a block; None chooses.
        axis_name: As of `linear_cross_entropy`.
        precision: As of `linear_cross_entropy`.

    Returns:
        [...], nats for each sequence, at most 0, summed in float32 or wider; 0 for an answer without tokens. A token
        outside of the vocabulary gives NaN.

    Example:
        Two tokens of an answer, each of probability 1/4.

        >>> hidden, head, where = jnp.zeros((1, 3, 2)), jnp.ones((4, 2)), jnp.array([[False, True, True]])
        >>> print(linear_sequence_log_probs(hidden, head, jnp.array([[0, 1, 2]]), where=where).round(4))
        [-2.7726]

    References:
        Rafailov et al. 2023, arXiv:2305.18290. Wijmans et al. 2024, arXiv:2411.09009.
    """
    check_array("hidden", hidden)
    check_array("tokens", tokens, "integer")
    if hidden.ndim < 2:
        raise ValueError(f"hidden must have two last axes, positions and features, got shape {hidden.shape}")
    check_shape("tokens", tokens, hidden.shape[:-1], f"of hidden {hidden.shape} without the feature axis")
    scored = next_token_where(tokens, where=where)
    # Rolled as in `next_token`: position 0 is never scored, so nothing wraps around.
    labels, at = jnp.roll(tokens, -1, axis=-1), jnp.roll(scored, -1, axis=-1)
    log_probs = _log_probs(hidden, head, labels, bias, at, soft_cap, block_size, axis_name, precision)
    total = jnp.sum(log_probs, axis=-1)
    return total / jnp.maximum(jnp.sum(scored, axis=-1), 1).astype(total.dtype) if average else total


def _log_probs(
    hidden: jax.Array,
    head: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None,
    where: jax.Array | None,
    soft_cap: Any,
    block_size: int | None,
    axis_name: Any,
    precision: str,
) -> jax.Array:
    inputs, where, valid, _ = _prepare(hidden, head, labels, bias, soft_cap, where, axis_name)
    values, _ = cross_entropy(vocabulary_statistics(inputs, precision, block_size, axis_name), None, None)
    return zero_masked(where, nan_where_invalid(valid, -values.reshape(labels.shape)))


def _prepare(
    hidden: jax.Array,
    head: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None,
    soft_cap: Any,
    where: jax.Array | None,
    axis_name: Any,
) -> tuple[Inputs, jax.Array | None, jax.Array, jnp.dtype]:
    """Returns the flat inputs, the mask, whether each label is in the vocabulary, and the dtype to compute in."""
    check_array("hidden", hidden)
    check_array("head", head)
    check_array("labels", labels, "integer")
    check_rank("head", head, 2, "[vocabulary, features]")
    if head.shape[0] == 0:
        raise ValueError(f"head must have at least one class, got shape {head.shape}")
    if hidden.ndim == 0 or hidden.shape[-1] != head.shape[1]:
        raise ValueError(f"hidden must have a last axis of the {head.shape[1]} features of head, got {hidden.shape}")
    check_shape("labels", labels, hidden.shape[:-1], f"of hidden {hidden.shape} without the feature axis")
    arrays = [hidden, head]
    if bias is not None:
        check_shape("bias", check_array("bias", bias), head.shape[:1], f"of the classes of head {head.shape}")
        arrays.append(bias)
    where = check_where(where, labels.shape)
    dtype = accumulation_dtype(*arrays)
    classes = head.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    labels = keep_rows(where, labels.astype(jnp.promote_types(labels.dtype, jnp.int32)))
    valid = (labels >= 0) & (labels < classes)
    rows = keep_rows(where, hidden).reshape(labels.size, hidden.shape[-1])
    cap = None if soft_cap is None else as_scalar(soft_cap, dtype)
    # At least float32, but not the widest dtype of all: products of narrow arrays stay narrow.
    if dtype == jnp.float64:
        rows, head, bias = rows.astype(dtype), head.astype(dtype), None if bias is None else bias.astype(dtype)
    flat = jnp.clip(labels, 0, classes - 1).reshape(-1).astype(jnp.int32)
    return Inputs(rows, head, bias, flat, cap), where, valid, dtype
