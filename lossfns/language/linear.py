"""Losses from hidden states and an output head, without materialising the logits [tokens, vocabulary]."""

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
    r"""Cross-entropy of the logits `hidden @ head.T + bias`, without materialising the logits.

    $$-x_y + \log \sum_k e^{x_k}, \quad x = W h + b$$

    Value and gradient of `softmax_cross_entropy` on the logits, up to rounding: nothing is filtered or approximated.

    Args:
        hidden: [..., D], the final hidden states.
        head: [V, D], one row per class, the layout of an embedding: pass a tied embedding unchanged.
        labels: [...], integers in 0 .. V-1.
        bias: [V]. A class at -inf is masked: it has probability 0 and is excluded from label smoothing.
        where: [...], boolean; False excludes the token.
        label_smoothing: Mass $\epsilon$ in 0 .. 1, spread evenly over all unmasked classes.
        z_loss: Coefficient $\zeta$ of the squared log-normaliser.
        soft_cap: Bound $c$: the logits become $c \tanh(x / c)$, the bias included.
        block_size: Classes per block; the gradient is computed in the backward pass, for any weights: least memory, and
            on CPU fastest for tokens with different weights. None chooses by platform. On CPU it computes the gradient
            with the value, a tile of at most an eighth of the tokens at a time: fastest if all tokens that count have
            the same weight, as in their mean; otherwise the gradient is recomputed. On GPU and TPU, and on CPU for a
            half-precision head with more than 2^26 entries, it chooses blocks of classes.
        return_lse: Whether to also return the log-normalisers.
        axis_name: Name of a mapped device axis that the vocabulary is sharded over: `head` and `bias` are then this
            device's classes, in device order; tokens and labels (of the whole vocabulary) are the same on all devices.
            All devices return the same; the gradient of `hidden` is complete on each.
        precision: Of float32 products on accelerators, as in `jax.lax.Precision`: "highest" is float32, six bfloat16
            passes on TPU; "high" is three passes; "default" is one, TensorFloat-32 on GPU. Half-precision inputs, and
            float32 on CPU, are not affected.

    Returns:
        [...], nats per token; with `return_lse`, also $\log \sum_k e^{x_k}$, [...], 0 at masked tokens.

    Example:
        Odds of 3 to 1 for the first of two classes.

        >>> head = jnp.log(jnp.array([[3.0], [1.0]]))
        >>> print(linear_cross_entropy(jnp.ones((2, 1)), head, jnp.array([0, 1])).round(4))
        [0.2877 1.3863]

    Conventions:
        - If all inputs are bfloat16, products are of bfloat16 and summed in float32; the logits are never rounded.
          Their gradient is rounded to bfloat16 once, after subtracting the one-hot label. float32 inputs are multiplied
          in float32 on accelerators too, unless `precision` allows less.
        - The authors' code drops small gradients by default; its `cce_exact` drops none. For a sharded vocabulary it
          has the same convention: one loss on all devices, a complete gradient of the hidden states on each.
        - Liger's kernel rounds the logits to the inputs' dtype, and by default sums the head's gradient in the head's.

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
    r"""Log-probability of each label, $\log \mathrm{softmax}(W h + b)_y$, without materialising the logits.

    For losses with per-token or per-row weights: policy gradients, GRPO, DPO.

    Args:
        hidden: [..., D], the final hidden states. Nothing is shifted here: pass for each label the hidden state that
            predicts it.
        head: [V, D], one row per class.
        labels: [...], integers in 0 .. V-1.
        bias: [V]; a class at -inf is masked.
        where: [...], boolean; False excludes the token.
        soft_cap: Bound $c$: the logits become $c \tanh(x / c)$.
        block_size: Classes per block; None chooses.
        axis_name: See `linear_cross_entropy`.
        precision: See `linear_cross_entropy`.

    Returns:
        [...], nats per token, at most 0.

    Example:
        >>> head = jnp.log(jnp.array([[3.0], [1.0]]))
        >>> print(linear_log_probs(jnp.ones((2, 1)), head, jnp.array([0, 1])).round(4))
        [-0.2877 -1.3863]

    Conventions:
        To sample or score at a temperature, divide the hidden states (and the bias) by it.

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
    r"""Log-probability of each answer given its prompt, without materialising the logits, for DPO and its relatives.

    `sequence_log_probs` on the logits `hidden @ head.T + bias`, in value and gradient.

    Args:
        hidden: [..., T, D], the hidden states that predict the next tokens; the last is unused.
        head: [V, D], one row per token of the vocabulary.
        tokens: [..., T], prompt and answer as fed to the model, integers in 0 .. V-1.
        average: Whether to divide by the number of tokens.
        bias: [V]; a token at -inf is masked.
        where: [..., T], boolean: the tokens of the answer; shaped like the tokens, not the result. None for all tokens
            but the first, which is never scored.
        soft_cap: Bound $c$: the logits become $c \tanh(x / c)$.
        block_size: Classes per block; None chooses.
        axis_name: See `linear_cross_entropy`.
        precision: See `linear_cross_entropy`.

    Returns:
        [...], nats per sequence, at most 0, summed in float32 or wider; 0 for an empty answer.

    Example:
        An answer of two tokens with probability 1/4 each.

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
    """Returns the flat inputs, the mask, whether each label is in the vocabulary, and the accumulation dtype."""
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
    # At least float32, but not the widest dtype of all inputs: products of narrow arrays stay narrow.
    if dtype == jnp.float64:
        rows, head, bias = rows.astype(dtype), head.astype(dtype), None if bias is None else bias.astype(dtype)
    flat = jnp.clip(labels, 0, classes - 1).reshape(-1).astype(jnp.int32)
    return Inputs(rows, head, bias, flat, cap), where, valid, dtype
