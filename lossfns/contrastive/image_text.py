"""Image-text losses: CLIP, SigLIP, CoCa and image-text matching."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._blockwise import ColumnLogSum, LogSum, Sum, product, stream, stream_ring
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    check_array,
    check_rank,
    check_shape,
    check_where,
    finite,
    flag,
    loss,
    non_negative,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._global_batch import gather_rows
from lossfns.classification.cross_entropy import softmax_cross_entropy
from lossfns.contrastive._shared import (
    Embeddings,
    against_negatives,
    check_embeddings,
    negatives,
    normalize_rows,
    paired_sides,
    row_dot,
    valid_pairs,
)
from lossfns.language.causal import next_token, next_token_where


@loss(
    static=("axis_name", "ring", "block_size"), scale=positive, max_scale=positive, ring=flag, block_size=optional_size
)
def clip(
    a: jax.Array,
    b: jax.Array,
    *,
    scale: float | jax.Array = 1 / 0.07,
    max_scale: float | jax.Array = 100.0,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    ring: bool = False,
    block_size: int | None = None,
) -> jax.Array:
    r"""Contrastive language-image pretraining (CLIP): which text belongs to this image, and which image to this text?

    With $s_{ij}$ the cosines of $a_i$ and $b_j$ times the scale, the value of a pair is the mean of both directions,

    $$\tfrac12 \Bigl(\log \sum_j e^{s_{ij}} + \log \sum_j e^{s_{ji}}\Bigr) - s_{ii}$$

    The [N, N] scores are never materialised: one pass over blocks sums rows and columns.

    Args:
        a: [N, D], embeddings of one modality; normalised here.
        b: [N, D], of the other modality, in the same order.
        scale: Multiplies the cosines; a reciprocal temperature. To learn it, learn its logarithm: pass
            `jnp.exp(log_scale)`.
        max_scale: Upper bound of the scale; a clamped scale gets the gradient at the bound.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.
        ring: Whether, over `axis_name`, `b` is passed around the devices instead of gathered, so that no device holds
            the embeddings of all devices. Value and gradient are the same.
        block_size: Rows of `b` per block; None chooses.

    Returns:
        [N], nats per pair.

    Example:
        The positive has cosine 1, the one negative in each direction 0: log(1 + 1/e) at scale 1.

        >>> print(f"{clip(jnp.eye(2), jnp.eye(2), scale=1.0)[0]:.4f}")
        0.3133

    Conventions:
        The paper's scale starts at 1/0.07 and is kept at 100 or below. open_clip does so by clamping the learnt
        logarithm after each step, so its gradient at the bound is the same as here, and the scale can decrease again.
        Over devices, open_clip's gradient without `gather_with_grad` omits the gradient of other devices' losses with
        respect to local embeddings; here it is always included.

    References:
        Radford et al. 2021, arXiv:2103.00020.
    """
    check_embeddings("a", a, "b", b)
    where = check_where(where, a.shape[:1])
    dtype = accumulation_dtype(a, b)
    if a.shape[0] == 0:
        return jnp.zeros(0, dtype)
    factor, bound = as_scalar(scale, dtype), as_scalar(max_scale, dtype)
    # In this order: otherwise a scale far above the bound would lose all digits.
    factor = jax.lax.stop_gradient(jnp.minimum(factor, bound)) + (factor - jax.lax.stop_gradient(factor))
    rows, columns = paired_sides(
        normalize_rows(where, a, dtype) * factor, normalize_rows(where, b, dtype), where, axis_name
    )
    if axis_name is not None and ring:
        of_rows, of_columns = stream_ring(
            _both_ways, rows.as_rows, columns, axis_name, block_size=block_size, bound=factor
        )
    else:
        everyone = gather_rows(columns, axis_name)
        of_rows, of_columns = stream(_both_ways, rows.as_rows, everyone, block_size=block_size, bound=factor)
        if axis_name is not None:  # send each device's sums over rows to the device that owns the column
            parts = of_columns.reshape(-1, a.shape[0])
            parts = jax.lax.all_to_all(parts, axis_name, split_axis=0, concat_axis=0, tiled=True)
            of_columns = _log_sum_of(parts)
    own = row_dot(rows.vectors, columns.vectors)
    values = (against_negatives(of_rows, own) + against_negatives(of_columns, own)) / 2
    return zero_masked(where, values)


def _both_ways(rows: Embeddings, columns: Embeddings, index: jax.Array) -> tuple[LogSum, ColumnLogSum]:
    scores = negatives(rows, columns)
    return LogSum(scores), ColumnLogSum(scores)


def _log_sum_of(parts: jax.Array) -> jax.Array:
    """Log-sum-exp over the first axis; -inf with gradient 0 where all entries are -inf."""
    empty = jnp.all(parts == -jnp.inf, axis=0)
    return jnp.where(empty, -jnp.inf, jax.nn.logsumexp(jnp.where(empty, 0, parts), axis=0))


@loss(static=("axis_name", "ring", "block_size"), scale=positive, bias=finite, ring=flag, block_size=optional_size)
def siglip(
    a: jax.Array,
    b: jax.Array,
    *,
    scale: float | jax.Array = 10.0,
    bias: float | jax.Array = -10.0,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    ring: bool = False,
    block_size: int | None = None,
) -> jax.Array:
    r"""Sigmoid loss for language-image pretraining (SigLIP): binary classification of all pairs.

    $$\sum_j \log\bigl(1 + e^{-z_{ij} (t \cos(a_i, b_j) + \beta)}\bigr), \qquad z_{ii} = 1,\; z_{ij} = -1 \text{ else}$$

    is the value of row i, the sum over its N pairs; the mean over rows is the paper's sum over all pairs divided by N.
    The [N, N] scores are never materialised. The gradient is computed in the forward pass; if the rows turn out to
    have unequal weights, it is recomputed.

    Args:
        a: [N, D], embeddings of one modality; normalised here.
        b: [N, D], of the other modality, in the same order.
        scale: $t$, multiplies the cosines. To learn it, learn its logarithm: pass `jnp.exp(log_scale)`.
        bias: $\beta$, added to the scaled cosines.
        where: [N], boolean; False excludes the pair and all pairs with its embeddings.
        axis_name: Mapped device axis of the global batch.
        ring: Whether, over `axis_name`, `b` is passed around the devices instead of gathered, as in the paper, so that
            no device holds the embeddings of all devices. Value and gradient are the same.
        block_size: Rows of `b` per block; None chooses.

    Returns:
        [N], nats per row of `a`.

    Example:
        With almost no scale and no bias, each of the two pairs of a row costs log 2.

        >>> print(siglip(jnp.eye(2), jnp.eye(2), scale=1e-9, bias=0.0).round(4))
        [1.3863 1.3863]

    Conventions:
        The defaults are the paper's initial values: scale 10, learnt as its logarithm, and bias -10. The bias offsets
        the N-1 negatives per positive: 1024 random pairs start at about 10, without it at about 734. Divided by N as in
        big_vision; a mean over all pairs is N times smaller. Summing columns instead of rows gives other values but the
        same mean.

    References:
        Zhai et al. 2023, arXiv:2303.15343.
    """
    check_embeddings("a", a, "b", b)
    where = check_where(where, a.shape[:1])
    dtype = accumulation_dtype(a, b)
    if a.shape[0] == 0:
        return jnp.zeros(0, dtype)
    rows, columns = paired_sides(
        normalize_rows(where, a, dtype) * as_scalar(scale, dtype), normalize_rows(where, b, dtype), where, axis_name
    )
    # One bias per row: its gradient is then summed over columns first, which XLA vectorises on CPU.
    row_inputs = rows.as_rows, jnp.broadcast_to(as_scalar(bias, dtype), a.shape[:1])
    if axis_name is not None and ring:
        values = stream_ring(_yes_or_no, row_inputs, columns, axis_name, block_size=block_size)
    else:
        present = jnp.ones(a.shape[0], dtype) if where is None else where.astype(dtype)
        everyone = gather_rows(columns, axis_name)
        values = stream(_yes_or_no, row_inputs, everyone, block_size=block_size, expected=present)
    return zero_masked(where, values)


def _yes_or_no(row_inputs: tuple[Embeddings, jax.Array], columns: Embeddings, index: jax.Array) -> Sum:
    rows, bias = row_inputs
    scores = product(columns.vectors, rows.vectors) + bias[None]
    costs = _softplus(jnp.where(columns.pair[:, None] == rows.pair[None], -scores, scores))
    if rows.present is None and columns.present is None:
        return Sum(costs)
    return Sum(jnp.where(valid_pairs(rows, columns, jnp.ones((1, 1), bool)), costs, 0))


@jax.custom_jvp
def _softplus(x: jax.Array) -> jax.Array:
    """log(1 + e^x); its derivative takes one exponential and no value."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@_softplus.defjvp
def _softplus_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


@loss(
    static=("length_average", "axis_name", "block_size"),
    contrastive_weight=non_negative,
    caption_weight=non_negative,
    length_average=flag,
    scale=positive,
    block_size=optional_size,
)
def coca(
    a: jax.Array,
    b: jax.Array,
    logits: jax.Array,
    tokens: jax.Array,
    *,
    token_where: jax.Array | None = None,
    contrastive_weight: float | jax.Array = 1.0,
    caption_weight: float | jax.Array = 2.0,
    length_average: bool = False,
    scale: float | jax.Array = 1 / 0.07,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Contrastive captioners (CoCa): `clip` of image and text, plus `next_token` of the caption.

    $$\lambda_{con} L_{con, i} - \lambda_{cap} \sum_t \log p(y_{it} \mid y_{i, < t}, x_i)$$

    is the value of pair i, with $L_{con}$ the value of `clip` and the sum `next_token` over the caption.

    Args:
        a: [N, D], embeddings of the images; normalised here.
        b: [N, D], embeddings of the texts, in the same order.
        logits: [N, T, V], predictions of the caption's next tokens.
        tokens: [N, T], the captions as fed to the decoder, integers in 0 .. V-1; shifted here.
        token_where: [N, T], boolean: the tokens to predict; False at padding.
        contrastive_weight: $\lambda_{con}$.
        caption_weight: $\lambda_{cap}$.
        length_average: Whether to divide a caption's sum by its number of predicted tokens.
        scale: Multiplies the cosines; see `clip`.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.
        block_size: Texts per block; None chooses.

    Returns:
        [N], nats per pair. A token outside 0 .. V-1 gives NaN in its pair.

    Example:
        log(1 + 1/e) contrastive, plus twice two tokens at log 4 each.

        >>> print(coca(jnp.eye(2), jnp.eye(2), jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int), scale=1.0).round(4))
        [5.8584 5.8584]

    Conventions:
        The weights and the sum over tokens are the paper's. open_clip averages over the tokens of the whole batch, a
        second denominator: in a train step use two terms, `clip` weighted by pairs and `next_token` by
        `next_token_where`, with loss weights 1 and 2.

    References:
        Yu et al. 2022, arXiv:2205.01917.
    """
    check_embeddings("a", a, "b", b)
    check_array("logits", logits)
    check_array("tokens", tokens, "integer")
    check_rank("logits", logits, 3, "[pairs, positions, classes]")
    check_shape("logits", logits, (a.shape[0], *logits.shape[1:]), f"by the pairs of a {a.shape}")
    check_shape("tokens", tokens, logits.shape[:-1], f"of logits {logits.shape} without the class axis")
    where = check_where(where, a.shape[:1])
    scored = token_where
    if token_where is not None:
        check_shape("token_where", check_array("token_where", token_where, "boolean"), tokens.shape, "of tokens")
    if where is not None:
        scored = jnp.broadcast_to(where[:, None], tokens.shape) if scored is None else scored & where[:, None]
    dtype = accumulation_dtype(a, b, logits)
    contrast = clip(a, b, scale=scale, where=where, axis_name=axis_name, block_size=block_size).astype(dtype)
    caption = jnp.sum(next_token(logits, tokens, where=scored).astype(dtype), axis=1)
    if length_average:
        number = jnp.sum(next_token_where(tokens, where=scored), axis=1)
        caption /= jnp.maximum(number, 1).astype(dtype)
    return zero_masked(
        where, as_scalar(contrastive_weight, dtype) * contrast + as_scalar(caption_weight, dtype) * caption
    )


@loss()
def image_text_matching(logits: jax.Array, matched: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Image-text matching: does a fused image-text pair match?

    Args:
        logits: [..., 2], logits of "no match" and "match" of each fused pair.
        matched: [...], boolean, or integers 1 (match) and 0 (no match).
        where: [...], boolean; False excludes the pair.

    Returns:
        [...], nats per pair. An integer other than 0 and 1 gives NaN.

    Example:
        Odds of 3 to 1 for a match: log(4/3) if they match, log 4 if not.

        >>> logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]]))
        >>> print(image_text_matching(logits, jnp.array([True, False])).round(4))
        [0.2877 1.3863]

    Conventions:
        ALBEF averages over 3N fused pairs: N matching ones, N images with a hard text and N texts with a hard image,
        drawn by `hard_negative_pairs`.

    References:
        Li et al. 2021, arXiv:2107.07651.
    """
    check_array("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] != 2:
        raise ValueError(f"logits must have a last axis of 2, (no match, match), got shape {logits.shape}")
    check_array("matched", matched, "boolean or integer")
    check_shape("matched", matched, logits.shape[:-1], f"of logits {logits.shape} without the last axis")
    if matched.dtype == bool:
        matched = matched.astype(jnp.int32)
    return softmax_cross_entropy(logits, matched, where=where)


class HardNegativePairs(NamedTuple):
    """Result of `hard_negative_pairs`."""

    b_of_a: jax.Array
    """[N], the row of `b` chosen for each row of `a`."""
    a_of_b: jax.Array
    """[N], the row of `a` chosen for each row of `b`."""
    present: jax.Array
    """[N], boolean: whether there was a negative; otherwise the index is the row's own, to be ignored."""


@loss(temperature=positive)
def hard_negative_pairs(
    key: jax.Array,
    a: jax.Array,
    b: jax.Array,
    *,
    temperature: float | jax.Array = 0.07,
    where: jax.Array | None = None,
) -> HardNegativePairs:
    r"""Draws hard negatives: a similar text for each image and a similar image for each text.

    Row j of `b` is drawn for row i of `a` with probability proportional to $e^{\cos(a_i, b_j) / \tau}$ among $j \ne i$,
    and row j of `a` for row i of `b` likewise. No gradient.

    Args:
        key: A JAX random key.
        a: [N, D], embeddings of one modality; normalised here.
        b: [N, D], of the other modality, in the same order.
        temperature: $\tau$, divides the cosines.
        where: [N], boolean; False: neither drawn nor drawn for.

    Returns:
        Row indices into the features to fuse, within this device's batch as in ALBEF, since other devices' features are
        not available. `present` is the mask for `image_text_matching`. Integers cannot be NaN, so a traced temperature
        out of range is not detected.

    Example:
        With two pairs, each is the other's negative.

        >>> drawn = hard_negative_pairs(jax.random.key(0), jnp.eye(2), jnp.eye(2))
        >>> print(drawn.b_of_a, drawn.a_of_b, drawn.present)
        [1 0] [1 0] [ True  True]

    References:
        Li et al. 2021, arXiv:2107.07651.
    """
    check_embeddings("a", a, "b", b)
    where = check_where(where, a.shape[:1])
    count, dtype = a.shape[0], accumulation_dtype(a, b)
    own = jnp.arange(count)
    if count == 0:
        return HardNegativePairs(own, own, jnp.zeros(0, bool))
    u, v = jax.lax.stop_gradient((normalize_rows(where, a, dtype), normalize_rows(where, b, dtype)))
    choices = own[:, None] != own[None]
    if where is not None:
        choices &= where[:, None] & where[None]
    scores = jnp.where(choices, product(u, v.T) / as_scalar(temperature, dtype), -jnp.inf)
    present = jnp.any(choices, axis=1)
    first, second = jax.random.split(key)
    b_of_a, a_of_b = jax.random.categorical(first, scores, axis=1), jax.random.categorical(second, scores.T, axis=1)
    return HardNegativePairs(jnp.where(present, b_of_a, own), jnp.where(present, a_of_b, own), present)
