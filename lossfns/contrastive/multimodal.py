"""Images and texts beyond contrast: captions, and whether a fused pair matches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._blockwise import product
from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_rank,
    check_shape,
    check_where,
    flag,
    hyper,
    loss,
    non_negative,
    optional_size,
    positive,
    zero_masked,
)
from lossfns.classification import softmax_cross_entropy
from lossfns.contrastive._shared import check_pair, units
from lossfns.contrastive.pairs import clip
from lossfns.language import next_token, next_token_where


@loss(
    static=("length_average", "axis_name", "block_size"),
    contrastive_weight=non_negative,
    caption_weight=non_negative,
    length_average=flag,
    scale=positive,
    block_size=optional_size,
)
def co_ca(
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
    axis_name: str | tuple[str, ...] | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Contrastive captioners (CoCa): the image is told from others by its text, and its caption is predicted.

    $$\lambda_{con} L_{con, i} - \lambda_{cap} \sum_t \log p(y_{it} \mid y_{i, < t}, x_i)$$

    is the value of pair i, with $L_{con}$ that of `clip` and the sum that of `next_token` over the caption.

    Args:
        a: [N, D], embeddings of the images; normalised here.
        b: [N, D], embeddings of the texts, in the same order.
        logits: [N, T, V], at each position of the caption the prediction of the next token.
        tokens: [N, T], the caption as fed to the decoder, integers in 0 .. V-1; the shift is made here.
        token_where: [N, T], boolean: the tokens to predict; False at padding.
        contrastive_weight: $\lambda_{con}$.
        caption_weight: $\lambda_{cap}$.
        length_average: Whether the caption's sum is divided by the number of its predicted tokens.
        scale: Multiplies the cosines; see `clip`.
        where: [N], boolean; False deletes the pair.
        axis_name: Name of a mapped device axis; see `clip`.
        block_size: Texts in a block; see `clip`.

    Returns:
        [N], nats for each pair, float32 or wider; 0 at masked pairs. A token outside 0 .. V-1 gives NaN in its pair.

    Raises:
        ValueError: If shapes do not fit or a hyper-parameter is out of range.
        TypeError: If embeddings or logits are not floating or tokens not integers.

    Example:
        log(1 + 1/e) for the contrast, and twice two tokens at log 4 each.

        >>> print(co_ca(jnp.eye(2), jnp.eye(2), jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int), scale=1.0).round(4))
        [5.8584 5.8584]

    Conventions:
        The weights and the sum over tokens are the paper's. open_clip takes the mean over the tokens of the whole
        batch, a second denominator: as terms of a train step that is two, `clip` weighed by pairs and `next_token` by
        `next_token_where`, with loss weights 1 and 2.

    References:
        Yu et al. 2022, arXiv:2205.01917.
    """
    check_pair("a", a, "b", b)
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
    return zero_masked(where, hyper(contrastive_weight, dtype) * contrast + hyper(caption_weight, dtype) * caption)


@loss()
def image_text_matching(logits: jax.Array, matched: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Image-text matching: does this text, fused with this image, belong to it?

    Args:
        logits: [..., 2], first the logit of "no match", then that of "match", for each fused pair.
        matched: [...], boolean, or integers 1 (it belongs) and 0 (it does not).
        where: [...], boolean; False deletes the pair.

    Returns:
        [...], nats for each pair, float32 or wider; 0 at masked pairs. An integer other than 0 and 1 gives NaN.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If logits are not floating or matched neither boolean nor integer.

    Example:
        Odds of 3 to 1 for a match: log(4/3) if it is one, log 4 if not.

        >>> logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]]))
        >>> print(image_text_matching(logits, jnp.array([True, False])).round(4))
        [0.2877 1.3863]

    Conventions:
        ALBEF takes the mean over 3N fused pairs: N that match, N images with a hard text and N texts with a hard
        image, which `hard_negative_pairs` chooses.

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
    """What `hard_negative_pairs` returns."""

    b_of_a: jax.Array
    """[N], the row of `b` chosen for each row of `a`."""
    a_of_b: jax.Array
    """[N], the row of `a` chosen for each row of `b`."""
    present: jax.Array
    """[N], boolean: whether there was one to choose; else its own row stands there, which must not be counted."""


@loss(temperature=positive)
def hard_negative_pairs(
    key: jax.Array,
    a: jax.Array,
    b: jax.Array,
    *,
    temperature: float | jax.Array = 0.07,
    where: jax.Array | None = None,
) -> HardNegativePairs:
    r"""Draw for each image a text that is not its own, and for each text an image, the more similar the likelier.

    Row j of `b` is drawn for row i of `a` with probability proportional to $e^{\cos(a_i, b_j) / \tau}$ among $j \ne i$,
    and row j of `a` for row i of `b` likewise. No gradient.

    Args:
        key: A JAX random key.
        a: [N, D], embeddings of the one kind; normalised here.
        b: [N, D], embeddings of the other, in the same order.
        temperature: $\tau$, divides the cosines.
        where: [N], boolean; a pair with False is neither drawn nor drawn for.

    Returns:
        Rows, integers, to take from the features that are fused; of this device's batch, as in ALBEF, because those of
        others are not here. `present` is the mask for their `image_text_matching`. As integers cannot be NaN, a traced
        temperature out of range goes unseen.

    Raises:
        ValueError: If shapes do not fit or a hyper-parameter is out of range.
        TypeError: If embeddings are not floating.

    Example:
        Of two pairs each has the other's.

        >>> drawn = hard_negative_pairs(jax.random.key(0), jnp.eye(2), jnp.eye(2))
        >>> print(drawn.b_of_a, drawn.a_of_b, drawn.present)
        [1 0] [1 0] [ True  True]

    References:
        Li et al. 2021, arXiv:2107.07651.
    """
    check_pair("a", a, "b", b)
    where = check_where(where, a.shape[:1])
    count, dtype = a.shape[0], accumulation_dtype(a, b)
    own = jnp.arange(count)
    if count == 0:
        return HardNegativePairs(own, own, jnp.zeros(0, bool))
    u, v = jax.lax.stop_gradient((units(where, a, dtype), units(where, b, dtype)))
    choices = own[:, None] != own[None]
    if where is not None:
        choices &= where[:, None] & where[None]
    scores = jnp.where(choices, product(u, v.T) / hyper(temperature, dtype), -jnp.inf)
    present = jnp.any(choices, axis=1)
    first, second = jax.random.split(key)
    b_of_a, a_of_b = jax.random.categorical(first, scores, axis=1), jax.random.categorical(second, scores.T, axis=1)
    return HardNegativePairs(jnp.where(present, b_of_a, own), jnp.where(present, a_of_b, own), present)
