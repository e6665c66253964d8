"""Short texts as bags of hashed character n-grams (Bojanowski et al. 2017, arXiv:1607.04606).

The embedding of a text is the weighted sum of the vectors of its n-grams. Initial vectors are random, with the inverse
document frequency as their length, so cosines equal those of TF-IDF up to noise: training starts from that baseline.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Bags(NamedTuple):
    """The n-grams of N texts, at most L of each."""

    grams: np.ndarray
    """int32 [N, L], bucket of each n-gram; 0 at padding."""
    weights: np.ndarray
    """float32 [N, L], 1 + log(count), 0 at padding."""


def bag_texts(texts: Sequence[str], buckets: int, most: int = 64, sizes: Sequence[int] = (3, 2, 1)) -> Bags:
    """Hashes the n-grams of words, with a space before and after each; case is ignored.

    Args:
        texts: The texts.
        buckets: Number of buckets for hashed n-grams.
        most: Maximum number of distinct n-grams to keep per text, in the order of `sizes`.
        sizes: Lengths of n-grams.

    >>> bags = bag_texts(["a a", ""], 1_000)  # " a ", " a", "a ", "a" and " ": the space is there four times
    >>> print(bags.weights[:, :6].round(2))
    [[1.69 1.69 1.69 2.39 1.69 0. ]
     [0.   0.   0.   0.   0.   0.  ]]
    """
    grams, weights = np.zeros((len(texts), most), np.int32), np.zeros((len(texts), most), np.float32)
    for row, text in enumerate(texts):
        words = [f" {word} " for word in text.lower().split()]
        found = [word[i : i + n] for n in sizes for word in words for i in range(len(word) - n + 1)]
        counts = list(Counter(zlib.crc32(gram.encode()) % buckets for gram in found).items())[:most]
        grams[row, : len(counts)] = [bucket for bucket, _ in counts]
        weights[row, : len(counts)] = [1 + np.log(count) for _, count in counts]
    return Bags(grams, weights)


def inverse_frequency(bags: Bags, buckets: int) -> np.ndarray:
    """log((1 + N) / (1 + document frequency)) + 1 for each bucket, as in scikit-learn; float32 [buckets].

    >>> print(inverse_frequency(Bags(np.array([[2, 1], [2, 0]]), np.array([[1.0, 1.0], [1.0, 0.0]])), 4).round(3))
    [2.099 1.405 1.    2.099]
    """
    having = np.bincount(bags.grams[bags.weights > 0], minlength=buckets)
    return (np.log((1 + len(bags.grams)) / (1 + having)) + 1).astype(np.float32)


class BagEncoder(nn.Module):
    """Weighted sum of the vectors of n-grams."""

    buckets: int
    features: int

    @nn.compact
    def __call__(self, grams: jax.Array, weights: jax.Array) -> jax.Array:
        """Maps n-grams and weights, both [..., L], to [..., features]."""
        table: Any = self.param("table", nn.initializers.normal(self.features**-0.5), (self.buckets, self.features))
        return jnp.einsum("...ld,...l->...d", table[grams], weights)


def init_of(model: BagEncoder, frequency: np.ndarray) -> Callable[[jax.Array], Any]:
    """A function from a key to initial parameters: random vectors with the inverse frequencies [buckets] as lengths."""

    def init(key: jax.Array) -> Any:
        params: Any = model.init(key, jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1)))["params"]
        return {"table": params["table"] * frequency[:, None]}

    return jax.jit(init)


def halved(bags: Bags, seed: int) -> list[Bags]:
    """Two views of each text: every n-gram is assigned to one of them at random."""
    first = np.random.default_rng([seed, 8]).random(bags.weights.shape) < 0.5
    return [bags._replace(weights=np.where(part, bags.weights, np.float32(0))) for part in (first, ~first)]
