"""Losses on pairs of sentences: next-sentence prediction, sentence order."""

import jax
import jax.numpy as jnp

from lossfns._contract import check_array, check_shape, loss
from lossfns.classification.cross_entropy import softmax_cross_entropy


@loss()
def next_sentence(logits: jax.Array, is_next: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Next-sentence prediction: does the second segment follow the first?

    Args:
        logits: [..., 2], the logits of "is next" and "is random", in the order of BERT's heads.
        is_next: [...], boolean, or integers 1 (it follows) and 0 (it is random).
        where: [...], boolean; False excludes the example.

    Returns:
        [...], nats per pair of segments. An integer other than 0 and 1 gives NaN.

    Example:
        Odds of 3 to 1 that the sentence follows: log(4/3) if it does, log 4 if not.

        >>> logits = jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]]))
        >>> print(next_sentence(logits, jnp.array([True, False])).round(4))
        [0.2877 1.3863]

    Conventions:
        BERT's `next_sentence_labels` and Hugging Face's `next_sentence_label` are class numbers, 0 for "is next": pass
        `is_next = label == 0`. The logits are in their order, so their heads fit unchanged.

    References:
        Devlin et al. 2018, arXiv:1810.04805.
    """
    return _first_of_two(logits, "is_next", is_next, where)


@loss()
def sentence_order(logits: jax.Array, in_order: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Sentence-order prediction: are two consecutive segments in order or swapped?

    Args:
        logits: [..., 2], the logits of "in order" and "swapped", in the order of ALBERT's heads.
        in_order: [...], boolean, or integers 1 (in order) and 0 (swapped).
        where: [...], boolean; False excludes the example.

    Returns:
        [...], nats per pair of segments. An integer other than 0 and 1 gives NaN.

    Example:
        >>> logits = jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]]))
        >>> print(sentence_order(logits, jnp.array([1, 0])).round(4))
        [0.2877 1.3863]

    Conventions:
        ALBERT's and Hugging Face's `sentence_order_label` is a class number, 0 for "in order": pass
        `in_order = label == 0`.

    References:
        Lan et al. 2019, arXiv:1909.11942.
    """
    return _first_of_two(logits, "in_order", in_order, where)


def _first_of_two(logits: jax.Array, name: str, answer: jax.Array, where: jax.Array | None) -> jax.Array:
    """Cross-entropy of two classes, True being class 0."""
    check_array("logits", logits)
    check_array(name, answer, "integer or boolean")
    if logits.ndim == 0 or logits.shape[-1] != 2:
        raise ValueError(f"logits must have a last axis of 2 classes, got shape {logits.shape}")
    check_shape(name, answer, logits.shape[:-1], f"of logits {logits.shape} without the class axis")
    return softmax_cross_entropy(logits, 1 - answer.astype(jnp.int32), where=where)
