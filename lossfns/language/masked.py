"""Masked language modelling and its masking."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import (
    check_array,
    check_shape,
    check_where,
    loss,
    non_negative_int,
    probability,
    static_number,
    uncompiled,
)
from lossfns.classification.cross_entropy import softmax_cross_entropy


@loss()
def masked_lm(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Masked language modelling: cross-entropy of the original tokens at the masked positions.

    $$-\log p(t_i \mid \tilde t), \quad i \in M$$

    Args:
        logits: [..., V], one row for each position.
        labels: [...], the original tokens, integers in 0 .. V-1.
        where: [...], boolean: the masked positions $M$. None if the rows were gathered beforehand and all count.

    Returns:
        [...], nats per position; 0 where not masked. With `where` as the term's weights, the mean is over the masked
        tokens of the whole batch.

    Example:
        >>> logits = jnp.zeros((3, 4))
        >>> print(masked_lm(logits, jnp.array([2, 0, 1]), where=jnp.array([True, False, False])).round(4))
        [1.3863 0.     0.    ]

    Conventions:
        Hugging Face labels unmasked positions -100: pass `where=labels != -100`.

    References:
        Devlin et al. 2018, arXiv:1810.04805.
    """
    return softmax_cross_entropy(logits, labels, where=where)


class MaskedTokens(NamedTuple):
    """Result of `apply_mlm_mask`, [..., T] each.

    Attributes:
        tokens: The model's input, with the selected positions replaced.
        labels: The original tokens.
        masked: Boolean, the selected positions: `where` of `masked_lm`.
    """

    tokens: jax.Array
    labels: jax.Array
    masked: jax.Array


@uncompiled(
    mask_id=non_negative_int,
    vocab_size=non_negative_int,
    rate=static_number(probability),
    mask_share=static_number(probability),
    random_share=static_number(probability),
)
def apply_mlm_mask(
    key: jax.Array,
    tokens: jax.Array,
    *,
    mask_id: int,
    vocab_size: int,
    special: Sequence[int] = (),
    where: jax.Array | None = None,
    word_ids: jax.Array | None = None,
    rate: float = 0.15,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> MaskedTokens:
    r"""Selects tokens to predict and masks them (BERT).

    Of the $m$ candidate tokens of a row, exactly $\max(1, \mathrm{round}(r m))$ are selected (Python's rounding), so
    the number of predictions in a row of length T is bounded by the same formula with T. Of these, 80 % become the
    mask, 10 % a random ordinary token and 10 % stay, drawn independently.

    Args:
        key: PRNG key; the same key masks the same batch in the same way.
        tokens: [..., T], integers; rows are independent.
        mask_id: The mask token. It counts as special.
        vocab_size: Random tokens are uniform over 0 .. vocab_size - 1 without the special ones.
        special: Token ids that are never selected or drawn: [CLS], [SEP], [PAD] and so on.
        where: [..., T], boolean: the candidate positions. None for all; special tokens never are.
        word_ids: [..., T], integers, equal for adjacent pieces of a word and negative outside words. With it whole
            words are selected in random order, skipping those that would exceed the number, so a row may have fewer.
        rate: Fraction $r$ of tokens to select, a Python number.
        mask_share: Fraction of the selected tokens replaced by `mask_id`.
        random_share: Fraction of the selected tokens replaced by a random token; the rest stay.

    Returns:
        The masked tokens, the original ones as labels, and the selected positions, none in a row without candidates.

    Raises:
        ValueError: If every token is special.

    Example:
        One of four ordinary tokens is selected at rate 0.25; fractions of 1 and 0 always mask it.

        >>> tokens = jnp.array([1, 5, 6, 7, 8, 2])
        >>> options = dict(mask_id=3, vocab_size=9, special=(0, 1, 2), mask_share=1.0, random_share=0.0)
        >>> out = apply_mlm_mask(jax.random.key(0), tokens, rate=0.25, **options)
        >>> int(out.masked.sum()), int((out.tokens == 3).sum()), bool((out.labels == tokens).all())
        (1, 1, True)

    Conventions:
        BERT's code counts [CLS] and [SEP] in $m$ and draws random tokens from the whole vocabulary. Hugging Face's
        collator selects each token independently, so the number varies and may be zero.

    References:
        Devlin et al. 2018, arXiv:1810.04805, appendix A.1, and the authors' `create_pretraining_data.py` (whole words
        too).
    """
    if mask_share + random_share > 1 + 1e-9:
        raise ValueError(f"mask_share and random_share must sum to at most 1, got {mask_share} + {random_share}")
    excluded = _special_ids(special, mask_id, vocab_size)
    tokens = check_array("tokens", jnp.asarray(tokens) if isinstance(tokens, np.ndarray) else tokens, "integer")
    if tokens.ndim == 0:
        raise ValueError("tokens must have a last axis of positions, got a scalar")
    # Python's rounding: the device may round the product differently.
    counts = np.array([0] + [max(1, round(rate * m)) for m in range(1, tokens.shape[-1] + 1)], np.int32)
    shares = np.array([mask_share, mask_share + random_share], np.float32)
    out: MaskedTokens = _apply_mlm_mask(key, tokens, excluded, counts, shares, mask_id, vocab_size, where, word_ids)
    return out


def _special_ids(special: Sequence[int], mask_id: int, vocab_size: int) -> np.ndarray:
    ids = np.asarray(special)
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(
            f"special must be token numbers, got dtype {ids.dtype}; a mask of positions is given as where=~mask"
        )
    if not 0 <= mask_id < vocab_size:
        raise ValueError(f"mask_id must be in 0 .. vocab_size - 1 = {vocab_size - 1}, got {mask_id}")
    excluded = np.unique(np.append(ids.astype(np.int32), np.int32(mask_id)))
    excluded = excluded[(excluded >= 0) & (excluded < vocab_size)]
    if len(excluded) == vocab_size:
        raise ValueError(f"all {vocab_size} tokens of the vocabulary are special, none can be drawn at random")
    return excluded


@jax.jit
def _apply_mlm_mask(
    key: jax.Array,
    tokens: jax.Array,
    excluded: jax.Array,
    counts: jax.Array,
    shares: jax.Array,
    mask_id: jax.Array,
    vocab_size: jax.Array,
    where: jax.Array | None,
    word_ids: jax.Array | None,
) -> MaskedTokens:
    choose_key, draw_key, token_key = jax.random.split(key, 3)
    where = check_where(where, tokens.shape)
    maskable = jnp.all(jnp.expand_dims(tokens, -1) != _as_last_axis(excluded, tokens.ndim), axis=-1)
    if where is not None:
        maskable &= where
    if word_ids is not None:
        check_shape("word_ids", check_array("word_ids", word_ids, "integer"), tokens.shape, "of tokens")
        maskable &= word_ids >= 0
    number = counts[jnp.sum(maskable, axis=-1)]
    scores = jax.random.uniform(choose_key, tokens.shape)
    if word_ids is None:
        order = jnp.argsort(jnp.where(maskable, scores, 2), axis=-1)
        masked = jnp.argsort(order, axis=-1) < number[..., None]
    else:
        masked = jnp.vectorize(_choose_words, signature="(t),(t),(t),()->(t)")(scores, maskable, word_ids, number)

    drawn = jax.random.randint(token_key, tokens.shape, 0, vocab_size - excluded.shape[0], tokens.dtype)
    # Drawn by rank among the ordinary tokens; each special token at or below shifts it up by one.
    thresholds = excluded - jnp.arange(excluded.shape[0], dtype=excluded.dtype)
    drawn += jnp.sum(drawn[..., None] >= _as_last_axis(thresholds, tokens.ndim), axis=-1).astype(tokens.dtype)
    fate = jax.random.uniform(draw_key, tokens.shape)
    hidden = jnp.where(fate < shares[0], mask_id.astype(tokens.dtype), jnp.where(fate < shares[1], drawn, tokens))
    return MaskedTokens(jnp.where(masked, hidden, tokens), tokens, masked)


def _as_last_axis(x: jax.Array, leading: int) -> jax.Array:
    return x.reshape((1,) * leading + x.shape)


def _choose_words(scores: jax.Array, maskable: jax.Array, word_ids: jax.Array, number: jax.Array) -> jax.Array:
    """Whole words in random order that fit into `number` positions; arrays [T]."""
    starts = jnp.append(jnp.ones(min(1, word_ids.size), bool), word_ids[1:] != word_ids[:-1])
    word = jnp.cumsum(starts) - 1
    lengths = jnp.zeros(word.shape, jnp.int32).at[word].add(maskable.astype(jnp.int32))

    def take(used: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        fits = used + length <= number
        return used + jnp.where(fits, length, 0), fits

    order = jnp.argsort(scores)
    _, fits = jax.lax.scan(take, jnp.zeros_like(number), lengths[order])
    return jnp.zeros(word.shape, bool).at[order].set(fits)[word] & maskable
