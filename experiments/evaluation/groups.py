"""A linear probe for the group of a book, tested on passages of books without labels in training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.baselines.linear import fit_linear
from experiments.baselines.tfidf import predict_by_tfidf
from experiments.data.passages import Passages, few_shot
from experiments.evaluation.few_shot import chunks, sample
from experiments.evaluation.linear_probe import draw_shots
from experiments.models.paired import LocalEncoder
from experiments.models.transformer import TransformerConfig, mean_over

Features = Callable[[Passages], np.ndarray]
"""The input of the probe, [N, D] of N passages."""


MOST_TEST = 1_000
"""Passages that the probe is tested on."""


@functools.partial(jax.jit, static_argnums=0)
def _means(encoder: LocalEncoder, params: Any, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    hidden: Any = encoder.apply({"params": params}, tokens, valid=valid, segments=jnp.zeros_like(tokens))
    return mean_over(hidden, valid)


def mean_representations(config: TransformerConfig, vocab_size: int, params: Any, passages: Passages) -> np.ndarray:
    """The mean over the tokens of each passage, [N, width], by an encoder with these parameters."""
    encoder = LocalEncoder(config, vocab_size)
    rows = [np.asarray(_means(encoder, params, *block)) for block in chunks(passages, 64)]
    return np.concatenate(rows)[: len(passages)]


def probe_groups(
    passages: tuple[Passages, Passages] | None,
    penalties: Mapping[int, float],
    seed: int,
    features: Features | None,
) -> dict[str, float]:
    """Accuracy on the test passages with few labels.

    Args:
        passages: Training and test passages; None if the text has no labels.
        penalties: scikit-learn's C by the number of labels a class.
        seed: Seed of the draw; a larger draw contains the smaller ones.
        features: The encoder's features; None for TF-IDF of words with logistic regression.

    Returns:
        "books_8" and so on, for each number of labels; nothing without labels.
    """
    if passages is None:
        return {}
    (train, test), found = passages, {}
    test = sample(test, MOST_TEST)
    labelled = few_shot(train, max(penalties), seed)
    x, test_x = (features(part) for part in (labelled, test)) if features is not None else (None, None)
    for labels, penalty in penalties.items():
        chosen = draw_shots(labelled.label, labels, seed)
        if x is None:
            said = predict_by_tfidf([labelled.text[i] for i in chosen], labelled.label[chosen], [test.text])[0]
        else:
            said = fit_linear(x[chosen], labelled.label[chosen], penalty).predict(test_x)
        found[f"books_{labels}"] = float(np.mean(said == test.label))
    return found
