"""Denoising objectives: replaced tokens (ELECTRA) and corrupted spans (T5)."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lossfns._contract import (
    Number,
    check_array,
    check_shape,
    loss,
    non_negative_int,
    non_negative_or_off,
    probability,
    static_number,
    uncompiled,
)
from lossfns._padding import check_prefix
from lossfns.classification.cross_entropy import sigmoid_cross_entropy, softmax_cross_entropy


@loss()
def replaced_token_detection(
    logits: jax.Array, tokens: jax.Array, original: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    r"""Replaced token detection: is each token original or from a generator?

    $$-[t_i \neq t^*_i] \log \sigma(x_i) - [t_i = t^*_i] \log(1 - \sigma(x_i))$$

    Args:
        logits: $x$, [..., T], log-odds in nats that the token was replaced.
        tokens: $t$, [..., T], integers: the discriminator's input.
        original: $t^*$, [..., T], integers. A token that the generator got right counts as original.
        where: [..., T], boolean: the present positions. Unlike in masked language modelling, all of them count.

    Returns:
        [..., T], nats per token.

    Example:
        Odds of 3 to 1 for "replaced": log(4/3) if it was, log 4 if not.

        >>> print(replaced_token_detection(jnp.log(jnp.full(2, 3.0)), jnp.array([7, 5]), jnp.array([6, 5])).round(4))
        [0.2877 1.3863]

    Conventions:
        The paper writes D for the probability of "original"; the authors' code and Hugging Face have logits of
        "replaced", as here. ELECTRA's whole loss is the generator's `masked_lm` plus 50 times this one.

    References:
        Clark et al. 2020, arXiv:2003.10555.
    """
    check_array("logits", logits)
    check_shape("tokens", check_array("tokens", tokens, "integer"), logits.shape, "of logits")
    check_shape("original", check_array("original", original, "integer"), logits.shape, "of logits")
    return sigmoid_cross_entropy(logits, tokens != original, where=where)


@loss(z_loss=non_negative_or_off)
def span_corruption(
    logits: jax.Array, targets: jax.Array, *, z_loss: float | jax.Array = 0.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Span corruption: cross-entropy of the removed spans of a text, $-\log p(y_i \mid y_{<i}, \tilde t)$.

    Args:
        logits: [..., S, V], the decoder's, teacher-forced: position i predicts `targets[i]` from the targets before it.
        targets: [..., S], integers in 0 .. V-1, from `corrupt_spans`: sentinels, each followed by the tokens it
            replaces.
        z_loss: Coefficient of the squared log-normaliser.
        where: [..., S], boolean: the present targets, `targets_where`.

    Returns:
        [..., S], nats per target; 0 where absent. Sentinels count like tokens.

    Example:
        >>> print(span_corruption(jnp.zeros((2, 4)), jnp.array([3, 0]), where=jnp.array([True, False])).round(4))
        [1.3863 0.    ]

    References:
        Raffel et al. 2020, arXiv:1910.10683.
    """
    return softmax_cross_entropy(logits, targets, z_loss=0.0 if z_loss is None else z_loss, where=where)


class CorruptedSpans(NamedTuple):
    """Result of `corrupt_spans`; padding is 0.

    Attributes:
        inputs: [..., I], the encoder's: the text with each removed span replaced by its sentinel.
        inputs_where: [..., I], boolean.
        targets: [..., S], the decoder's: each sentinel and the tokens of its span. Shift them right for the decoder's
            input.
        targets_where: [..., S], boolean: `where` of `span_corruption`.
    """

    inputs: jax.Array
    inputs_where: jax.Array
    targets: jax.Array
    targets_where: jax.Array


@uncompiled(
    first_sentinel=non_negative_int,
    rate=static_number(probability),
    mean_length=static_number(Number("at least 1 and finite", lambda v: (v >= 1) & (v < math.inf))),
    eos_id=non_negative_int,
)
def corrupt_spans(
    key: jax.Array,
    tokens: jax.Array,
    tokens_where: jax.Array | None = None,
    *,
    first_sentinel: int,
    rate: float = 0.15,
    mean_length: float = 3.0,
    eos_id: int | None = None,
) -> CorruptedSpans:
    r"""Replaces random spans of a text by sentinels (T5).

    Of n tokens $m = \mathrm{round}(r n)$ are removed, at least one and not all, in $\max(1, \mathrm{round}(m / l))$
    spans, uniformly over all segmentations that begin with a kept and end with a removed token. A text of fewer than
    two tokens is unchanged. The sizes of the results are static.

    Args:
        key: PRNG key; the same key corrupts the same batch in the same way.
        tokens: [..., T], integers.
        tokens_where: The present tokens: integer lengths [...], or boolean [..., T] without holes; None for all.
        first_sentinel: The token that replaces the first span; later ones count down from it.
        rate: Fraction $r$ of tokens to remove, a Python number.
        mean_length: Mean length $l$ of a span, a Python number of at least 1.
        eos_id: A token appended to inputs and targets; None for none.

    Returns:
        Inputs and targets with their masks, of the largest sizes that up to T tokens need. A length out
        of range or a mask with a hole gives targets of -1, for which the loss is NaN.

    Raises:
        ValueError: If there are not enough sentinels.

    Example:
        Half of four tokens in one span: the last half, since a text begins with a kept token.

        >>> out = corrupt_spans(jax.random.key(0), jnp.array([5, 6, 7, 8]), first_sentinel=99, rate=0.5)
        >>> print(out.inputs, out.targets)
        [ 5  6 99] [99  7  8]

    Conventions:
        As in the authors' code, a text begins with a kept and ends with a removed span; the paper's figure ends the
        targets with one more sentinel. Sentinels are the last tokens of the vocabulary, counted down, as there and in
        Hugging Face (`first_sentinel` is `<extra_id_0>`).

    References:
        Raffel et al. 2020, arXiv:1910.10683, and the authors' `random_spans_noise_mask`.
    """
    tokens = check_array("tokens", jnp.asarray(tokens) if isinstance(tokens, np.ndarray) else tokens, "integer")
    if tokens.ndim == 0:
        raise ValueError("tokens must have a last axis of positions, got a scalar")
    cut, spans = _sizes(tokens.shape[-1], rate, mean_length)
    if spans.max() > first_sentinel + 1:
        raise ValueError(
            f"first_sentinel must be at least {spans.max() - 1} for {spans.max()} spans, got {first_sentinel}"
        )
    sizes = (int((np.arange(len(cut)) - cut + spans).max()), int((cut + spans).max()))
    static = tuple(map(int, cut)), tuple(map(int, spans))
    out: CorruptedSpans = _corrupt_spans(key, tokens, tokens_where, *static, first_sentinel, sizes, eos_id)
    return out


def _sizes(longest: int, rate: float, mean_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of tokens and spans to remove for each length up to the longest, rounded as in Python."""
    cut = [min(max(round(rate * n), 1), n - 1) if n > 1 else 0 for n in range(longest + 1)]
    spans = [min(max(round(m / mean_length), 1), n - m) if m else 0 for n, m in enumerate(cut)]
    return np.array(cut, np.int32), np.array(spans, np.int32)


@functools.partial(jax.jit, static_argnums=(3, 4, 6, 7))
def _corrupt_spans(key, tokens, tokens_where, cut, spans, first_sentinel, sizes, eos):  # type: ignore[no-untyped-def]
    present, valid = check_prefix("tokens_where", tokens_where, tokens.shape, None)
    length = jnp.where(valid, jnp.sum(present, axis=-1), 0)
    scores = jax.random.uniform(key, (2, *tokens.shape))
    most = max(spans)
    extra = 0 if eos is None else 1

    def one(tokens, length, keep_scores, cut_scores):  # type: ignore[no-untyped-def]
        count, number = jnp.asarray(cut)[length], jnp.asarray(spans)[length]
        kept = _random_parts(keep_scores, length - count, number, most)
        gone = _random_parts(cut_scores, count, number, most)
        start = jnp.cumsum(kept) + jnp.cumsum(gone) - gone
        place, span = jnp.arange(tokens.shape[0]), jnp.arange(most)
        start = jnp.where(span < number, start, tokens.shape[0])
        span_of = jnp.sum(place[:, None] >= start[None], axis=1) - 1
        in_span = jnp.any((place[:, None] >= start[None]) & (place[:, None] < (start + gone)[None]), axis=1)
        is_first = jnp.any(place[:, None] == start[None], axis=1)
        sentinel = (first_sentinel - span_of).astype(tokens.dtype)

        stays = (place < length) & (~in_span | is_first)
        at = jnp.where(stays, jnp.cumsum(stays) - 1, -1)
        inputs = _placed(sizes[0] + extra, at, jnp.where(in_span, sentinel, tokens))
        before = jnp.cumsum(in_span) + span_of
        targets = _placed(sizes[1] + extra, jnp.where(in_span, before, -1), tokens)
        targets += _placed(sizes[1] + extra, jnp.where(in_span & is_first, before - 1, -1), sentinel)
        ends = jnp.stack([length - count + number, count + number])
        if eos is not None:
            inputs, targets = inputs.at[ends[0]].set(eos), targets.at[ends[1]].set(eos)
        return inputs, targets, ends + extra

    signature = "(t),(),(t),(t)->(i),(s),(e)"
    inputs, targets, ends = jnp.vectorize(one, signature=signature)(tokens, length, scores[0], scores[1])
    wrong = ~valid[..., None]
    inputs_where = _up_to(ends[..., :1], inputs.shape)
    targets_where = _up_to(ends[..., 1:], targets.shape) | wrong
    return CorruptedSpans(inputs, inputs_where, jnp.where(wrong, -1, targets), targets_where)


def _random_parts(scores: jax.Array, items: jax.Array, parts: jax.Array, most: int) -> jax.Array:
    """Lengths [most] of `parts` random parts of 1 or more that sum to `items`, uniform over all ways; 0 beyond."""
    place = jnp.arange(scores.shape[0])
    order = jnp.argsort(jnp.where((place > 0) & (place < items), scores, 2))
    begins = (jnp.argsort(order) < parts - 1) | (place == 0)
    part = jnp.cumsum(begins) - 1
    return jnp.zeros(most, jnp.int32).at[part].add((place < items).astype(jnp.int32), mode="drop")


def _placed(size: int, places: jax.Array, values: jax.Array) -> jax.Array:
    """A row of zeros with `values` at positions `places`; positions of -1 are left out."""
    return jnp.zeros(size, values.dtype).at[jnp.where(places < 0, size, places)].set(values, mode="drop")


def _up_to(ends: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.arange(shape[-1]).reshape((1,) * (len(shape) - 1) + (-1,)) < ends
