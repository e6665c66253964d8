"""Decoding of dependency trees from scores and from distances, and their accuracy.

Sentences are padded: present words [S, N] come first. Heads are numbers of words, 0 is the root, as in CoNLL-U.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

Sentences = Mapping[str, np.ndarray]
"""Arrays of `experiments.data.treebank.arrays_of`: "heads", "words" and "scored", [S, N] each."""
FARTHEST = 8
"""Largest tree distance; greater ones count as this."""
SHOWN, LENGTHS = 2, (6, 11)
"""Number of sentences drawn from a text, and their minimum and maximum length in words."""


def best_heads(scores: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The head with the highest score for each word, [S, N], from scores [S, N, N + 1]; arbitrary at absent words."""
    return _allowed(scores, words).argmax(-1)


def best_trees(scores: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The heads [S, N] of the single-root tree with the highest sum of scores [S, N, N + 1]; 0 at absent words."""
    allowed = _allowed(scores, words)
    heads = np.where(words, allowed.argmax(-1), 0)
    for i in np.flatnonzero(~are_trees(heads, words)):  # others are the best already
        count = int(words[i].sum())
        heads[i, :count] = spanning_tree(allowed[i, :count, : count + 1])
    return heads


def _allowed(scores: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Scores in float64, -inf for the word itself and for absent heads."""
    length = words.shape[-1]
    present = np.pad(words, ((0, 0), (1, 0)), constant_values=True)[:, None, :]
    return np.where(present & ~np.eye(length, length + 1, k=1, dtype=bool), np.asarray(scores, np.float64), -np.inf)


def are_trees(heads: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Whether the heads [S, N] of the present words form a single-root tree, [S].

    >>> are_trees(np.array([[2, 0, 2], [2, 1, 0], [0, 0, 1]]), np.ones((3, 3), bool))
    array([ True, False, False])
    """
    up = np.pad(np.where(words, heads, 0), ((0, 0), (1, 0)))
    for _ in range(words.shape[-1].bit_length()):
        up = np.take_along_axis(up, up, -1)
    return (up == 0).all(-1) & (((heads == 0) & words).sum(-1) == 1)


def spanning_tree(scores: np.ndarray) -> np.ndarray:
    """The heads [N] of the single-root tree with the highest sum of scores [N, N + 1] (Chu, Liu and Edmonds).

    The root's scores are lowered by so much that a second root never pays.

    >>> spanning_tree(np.array([[1.0, 0.0, 5.0], [2.0, 4.0, 0.0]]))  # 5 and 4 would make a cycle
    array([2, 0])
    """
    count = len(scores)
    weights = np.full((count + 1, count + 1), -np.inf)
    weights[:, 1:] = np.asarray(scores, np.float64).T
    np.fill_diagonal(weights, -np.inf)
    seen = weights[np.isfinite(weights)]
    weights[0] -= (count + 1) * (seen.max() - seen.min() + 1)
    return _arborescence(weights)[1:]


def _arborescence(weights: np.ndarray) -> np.ndarray:
    """The head of each node but node 0, by weights [head, node]."""
    heads = weights.argmax(0)
    heads[0] = 0
    cycle = _cycle(heads)
    if not cycle:
        return heads
    inside = np.array(cycle)
    rest = np.setdiff1d(np.arange(len(weights)), inside)
    # The cycle becomes one node; an arc into it replaces one of its arcs.
    into = weights[np.ix_(rest, inside)] - weights[heads[inside], inside]
    out = weights[np.ix_(inside, rest)]
    smaller = np.full((len(rest) + 1,) * 2, -np.inf)
    smaller[:-1, :-1] = weights[np.ix_(rest, rest)]
    smaller[:-1, -1], smaller[-1, :-1] = into.max(1), out.max(0)
    found = _arborescence(smaller)
    is_from_cycle = found[:-1] == len(rest)
    outer = np.where(is_from_cycle, inside[out.argmax(0)], rest[np.minimum(found[:-1], len(rest) - 1)])
    heads[rest[1:]] = outer[1:]
    entered = inside[into[found[-1]].argmax()]
    heads[entered] = rest[found[-1]]
    return heads


def _cycle(heads: np.ndarray) -> list[int]:
    """The nodes of a cycle, or none."""
    visited_by = np.zeros(len(heads), int)
    for start in range(1, len(heads)):
        node = start
        while node and not visited_by[node]:
            visited_by[node] = start
            node = int(heads[node])
        if node and visited_by[node] == start:
            cycle = [node]
            while (node := int(heads[node])) != cycle[0]:
                cycle.append(node)
            return cycle
    return []


def right_heads(heads: np.ndarray, gold: Sentences) -> np.ndarray:
    """Numbers of scored words with the right head, and of scored words, of each sentence, [S, 2]."""
    right = (heads == gold["heads"]) & gold["scored"]
    return np.stack([right.sum(-1), gold["scored"].sum(-1)], -1)


def shown(gold: Sentences) -> np.ndarray:
    """Rows of the sentences to draw: the first ones of a suitable length."""
    count = gold["words"].sum(-1)
    return np.flatnonzero((count >= LENGTHS[0]) & (count <= LENGTHS[1]))[:SHOWN]


def measure_arcs(scores: np.ndarray, gold: Sentences) -> dict[str, Any]:
    """The share of scored words with the right head, from scores [S, N, N + 1].

    Returns:
        "attachment" in the best tree, "word_by_word" by the best head of each word, the "gain" of the first, and of the
        trees the "attachment examples" (see `right_heads`) and the "heads examples" of sentences that are `shown`.
    """
    found = best_trees(scores, gold["words"])
    right, alone = (right_heads(heads, gold) for heads in (found, best_heads(scores, gold["words"])))
    return {
        "attachment": share(right),
        "word_by_word": share(alone),
        "gain": share(right) - share(alone),
        "attachment examples": right.tolist(),
        "heads examples": found[shown(gold)].tolist(),
    }


def share(examples: np.ndarray) -> float:
    """The ratio of the sums of [S, 2]."""
    right, total = examples.sum(0)
    return float(right / total)


def neighbours(gold: Sentences, which: str = "scored") -> np.ndarray:
    """Symmetric adjacency of words, bool [S, N, N], by the arcs of scored words ("scored") or of all ("words")."""
    length = gold["heads"].shape[-1]
    arcs = (gold["heads"][..., None] == np.arange(1, length + 1)) & gold[which][..., None]
    return arcs | np.swapaxes(arcs, -1, -2)


def closest_trees(distances: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The minimum spanning tree of distances as a symmetric adjacency, bool [S, N, N] (Prim)."""
    count, length = words.shape
    pairs = words[:, :, None] & words[:, None, :] & ~np.eye(length, dtype=bool)
    far = np.where(pairs, distances, np.inf)
    inside = np.zeros_like(words)
    inside[:, 0] = True
    chosen, rows = np.zeros_like(pairs), np.arange(count)
    for _ in range(length - 1):
        open_arcs = np.where(inside[:, :, None] & ~inside[:, None, :], far, np.inf).reshape(count, -1)
        best = open_arcs.argmin(-1)
        one, other = np.divmod(best, length)
        there = np.isfinite(open_arcs[rows, best])
        chosen[rows[there], one[there], other[there]] = True
        inside[rows[there], other[there]] = True
    return chosen | np.swapaxes(chosen, -1, -2)


def right_edges(distances: np.ndarray, gold: Sentences) -> np.ndarray:
    """Numbers of scored arcs found by the minimum spanning tree, and of all, for each sentence, [S, 2] (UUAS)."""
    arcs = np.triu(neighbours(gold))
    found = closest_trees(distances, gold["words"]) & arcs
    return np.stack([found.sum((-1, -2)), arcs.sum((-1, -2))], -1)


def in_a_row(gold: Sentences) -> np.ndarray:
    """Distances [S, N, N] in the sentence; their minimum spanning tree is the chain of words."""
    place = np.arange(gold["words"].shape[-1])
    return np.broadcast_to(np.abs(place[:, None] - place[None, :]), (*gold["words"].shape, len(place)))


def rank_agreement(distances: np.ndarray, true: np.ndarray, words: np.ndarray) -> float:
    """Spearman's correlation of distances from a word with tree distances, both [S, N, N], mean over words.

    Sentences have at least three words.
    """
    found = []
    for i in np.flatnonzero(words.sum(-1) >= 3):
        count = int(words[i].sum())
        others = ~np.eye(count, dtype=bool)
        x, y = (d[i, :count, :count][others].reshape(count, -1) for d in (distances, true))
        x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (rankdata(x, axis=-1), rankdata(y, axis=-1)))
        scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
        found.append(np.mean((x * y).sum(-1)[scale > 0] / scale[scale > 0]) if (scale > 0).any() else np.nan)
    return float(np.nanmean(found))


def closeness(distances: np.ndarray, gold: Sentences) -> float:
    """Mean distance of tree neighbours over the mean distance of other words equally far apart in the sentence.

    Only scored words count. Tree neighbours are mostly neighbours in the sentence, so without this pairing any encoder
    of a word and its surroundings would seem to know the tree.
    """
    scored = gold["scored"]
    pairs = np.triu(scored[:, :, None] & scored[:, None, :], 1)
    joined, apart = neighbours(gold) & pairs, in_a_row(gold)
    total, weight = 0.0, 0
    for gap in range(1, scored.shape[-1]):
        near, far = (distances[part & (apart == gap)] for part in (joined, pairs & ~joined))
        if len(near) and len(far):
            total, weight = total + len(near) * float(near.mean() / far.mean()), weight + len(near)
    return total / weight if weight else float("nan")


def by_tree_distance(distances: np.ndarray, true: np.ndarray, gold: Sentences) -> list[float]:
    """Mean distance of scored words 1, 2, ... `FARTHEST` arcs apart, relative to the mean of all; NaN for none."""
    scored = gold["scored"]
    pairs = np.triu(scored[:, :, None] & scored[:, None, :], 1)
    arcs = np.minimum(true, FARTHEST)
    parts: list[Any] = [distances[pairs & (arcs == k)] for k in range(1, FARTHEST + 1)]
    return [float(part.mean() / distances[pairs].mean()) if len(part) else float("nan") for part in parts]
