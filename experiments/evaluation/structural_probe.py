"""Structural probe: a linear map of word states to tree distances (Hewitt and Manning 2019, NAACL), and its scores."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments.data.treebank import TreeData
from experiments.evaluation import trees
from experiments.models.parser import Parser, squared_distances
from experiments.study import many
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig

MIDDLE, BATCH = 0.03, 16
"""Middle of the grid of learning rates, and sentences of a batch."""


class Probes(NamedTuple):
    """Projections [R, D, K] of the states of R encoders."""

    projections: jax.Array
    errors: np.ndarray
    """Share of validation arcs missed by each, [R]."""


def make_probe(model: Parser) -> Objective:
    """Absolute error of squared distances after a projection, against distances in the tree; the encoder is frozen.

    Averaged over the pairs of words of a sentence, then over sentences.
    """

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        words = batch["words"]
        states: Any = model.apply({"params": jax.lax.stop_gradient(params["encoder"])}, batch["parts"], words)
        found = squared_distances(states[0] @ params["projection"])
        pairs = words[:, :, None] & words[:, None, :]
        values = lossfns.absolute_error(found, batch["apart"].astype(found.dtype), where=pairs)
        return {"probe": Term(values, pairs / jnp.square(words.sum(-1)[:, None, None]))}

    return objective


@functools.partial(jax.jit, static_argnums=0)
def _outputs(model: Parser, params: Any, parts: Any, words: Any) -> Any:
    return jax.lax.map(lambda net: model.apply({"params": net}, parts, words), params)


class Outputs(NamedTuple):
    """Outputs of R networks for sentences."""

    states: np.ndarray
    """[R, S, N, D]."""
    arcs: np.ndarray
    """Scores of arcs, [R, S, N, N + 1]."""
    tags: np.ndarray
    """Logits of tags, [R, S, N, T]."""


def outputs(model: Parser, params: Any, sentences: trees.Sentences) -> Outputs:
    """The outputs of networks with parameters [R, ...] for sentences."""
    return Outputs(*map(np.asarray, _outputs(model, params, sentences["parts"], sentences["words"])))


def tag_accuracy(logits: np.ndarray, gold: Mapping[str, np.ndarray]) -> float:
    """Tagging accuracy of logits [S, N, T]."""
    return float((logits.argmax(-1) == gold["tags"])[gold["words"]].mean())


def state_distances(states: np.ndarray) -> np.ndarray:
    """Euclidean distances [S, N, N] of states [S, N, D]."""
    x = np.asarray(states, np.float64)
    squares = np.sum(x**2, -1)
    return np.sqrt(np.maximum(squares[..., :, None] + squares[..., None, :] - 2 * x @ np.swapaxes(x, -1, -2), 0))


def probe_trainer(model: Parser, steps: int) -> many.Trainer:
    """A compiled training of probes."""
    optimizer = OptimizerConfig(name="adam", learning_rate=1.0, schedule="cosine")
    return many.make_trainer(make_probe(model), {"probe": 1.0}, optimizer, every=steps)


def fit_probes(
    trainer: many.Trainer, model: Parser, params: Any, data: TreeData, *, rank: int, steps: int, rates: Sequence[float]
) -> Probes:
    """Trains a probe of each encoder on the training trees; keeps the learning rate with the lowest mean error.

    Args:
        trainer: From `probe_trainer`.
        model: The encoder.
        params: Its parameters [R, ...].
        data: The trees.
        rank: K, the dimensions of the projection.
        steps: Number of updates.
        rates: Learning rates. If there are several, the grid is extended until the best is inside.
    """
    count, size = len(jax.tree.leaves(params)[0]), len(data.treebank.train)
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(jnp.arange(count))
    start = jax.vmap(lambda key: jax.random.normal(key, (model.width, rank)) / model.width)(keys)
    orders = np.stack([many.epochs(size, min(BATCH, size), steps, [7, i]) for i in range(count)])
    states = outputs(model, params, data.validation).states
    found: dict[float, Probes] = {}

    def errors(grid: Sequence[float]) -> np.ndarray:
        tiled = jax.tree.map(
            lambda leaf: jnp.tile(leaf, (len(grid), *[1] * (leaf.ndim - 1))),
            many.Runs(None, {"encoder": params, "projection": start}, jnp.asarray(orders)),
        )
        end = trainer(tiled._replace(rates=jnp.repeat(jnp.asarray(grid, jnp.float32), count)), data.pool)
        made = end.params["projection"].reshape(len(grid), count, model.width, rank)
        for rate, some in zip(grid, made, strict=True):
            missed = [1 - trees.share(_edges(x, b, data.validation)) for x, b in zip(states, some, strict=True)]
            found[rate] = Probes(some, np.array(missed))
        return np.array([found[rate].errors.mean() for rate in grid])

    tried = dict(zip(rates, errors(rates), strict=True)) if len(rates) == 1 else many.search_rates(errors, MIDDLE)
    return found[many.best_rate(tried)]


def _edges(states: np.ndarray, projection: Any, gold: trees.Sentences) -> np.ndarray:
    return trees.right_edges(state_distances(states @ np.asarray(projection)), gold)


def measure_states(states: np.ndarray, projection: Any, gold: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Measures how well the states [S, N, D] of an encoder and their probe represent trees.

    Returns:
        "closeness" of neighbours among the states themselves and their mean distances "by_tree_distance"; of the probe
        "uuas", the share of arcs found, and "spearman", the rank correlation with distances in the tree.
    """
    plain, probed = state_distances(states), state_distances(states @ np.asarray(projection))
    return {
        "closeness": trees.closeness(plain, gold),
        "by_tree_distance": trees.by_tree_distance(plain, gold["apart"], gold),
        "uuas": trees.share(trees.right_edges(probed, gold)),
        "spearman": trees.rank_agreement(probed, gold["apart"], gold["words"]),
    }
