"""The names of concepts as bags of n-grams, split for training, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.data.names import Names, split_by_family
from experiments.models.bag import Bags, bag_texts, halved, inverse_frequency


@dataclass(frozen=True)
class NameBags:
    """N concepts with a name in each of L languages.

    Name i of language l is row l N + i of the pool. Two further blocks of N L rows each hold one half of every name's
    n-grams.
    """

    names: Names
    split: tuple[np.ndarray, ...]
    """Training, validation and test concepts."""
    pool: dict[str, np.ndarray]
    """"grams" and "weights" [3 N L, most], and "concept" [3 N L]."""
    frequency: np.ndarray
    """Inverse document frequency of the n-grams of each bucket, in the training names."""

    @property
    def languages(self) -> list[str]:
        """The L languages, the asking one first."""
        return [*self.names.texts]

    def at(self, temperature: float) -> dict[str, np.ndarray]:
        """The pool with the loss's temperature in every row, so that one program serves all temperatures."""
        return self.pool | {"temperature": np.full(len(self.pool["concept"]), temperature, np.float32)}

    def rows(self, part: int) -> np.ndarray:
        """Rows of the names of a part of the split, by language: [L n]."""
        return np.ravel(np.arange(len(self.names.texts))[:, None] * len(self.names) + self.split[part])

    def part(self, number: int) -> dict[str, list[str]]:
        """Names of a part of the split by language, [n] each."""
        return {language: [texts[i] for i in self.split[number]] for language, texts in self.names.texts.items()}

    def inputs(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """N-grams and weights of the names of a part of the split, [L n, most] each."""
        return self.pool["grams"][self.rows(part)], self.pool["weights"][self.rows(part)]


def bag_names(names: Names, buckets: int, seed: int) -> NameBags:
    """Splits the concepts by family and hashes the n-grams of their names."""
    split = tuple(split_by_family(names.family, seed))
    whole = bag_texts([name for texts in names.texts.values() for name in texts], buckets)
    grams, weights = map(np.concatenate, zip(whole, *halved(whole, seed), strict=True))
    concept = np.tile(np.arange(len(names), dtype=np.int32), len(grams) // len(names))
    found = NameBags(names, split, {"grams": grams, "weights": weights, "concept": concept}, np.zeros(buckets))
    frequency = inverse_frequency(Bags(*found.inputs(0)), buckets)
    return NameBags(names, split, found.pool, frequency)


def draw_names(
    concepts: np.ndarray, count: int, languages: Sequence[int], rng: np.random.Generator, each: int = 2
) -> np.ndarray:
    """Draws names of concepts: in language 0, and in `each - 1` other languages.

    Args:
        concepts: int [..., B], concepts below `count`.
        count: Number of concepts: name i of language l is row l count + i.
        languages: Indices of the other languages.
        rng: Generator of the draw.
        each: Number of names of each concept.

    Returns:
        Rows, int [..., each B]: first the B names in language 0, then others in the same order.
    """
    drawn = rng.permuted(np.broadcast_to(np.asarray(languages), (*concepts.shape, len(languages))), axis=-1)
    others = [concepts + count * drawn[..., i] for i in range(each - 1)]
    return np.concatenate([concepts, *others], -1).astype(np.int32)


def draw_halves(concepts: np.ndarray, bags: NameBags, rng: np.random.Generator) -> np.ndarray:
    """Rows of both halves of a name, in a language drawn at random: int [..., 2 B] of concepts [..., B]."""
    count, languages = len(bags.names), len(bags.names.texts)
    names = concepts + count * rng.integers(languages, size=concepts.shape)
    return np.concatenate([names + count * languages, names + 2 * count * languages], -1).astype(np.int32)
