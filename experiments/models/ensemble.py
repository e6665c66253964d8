"""Several small networks trained as one: every parameter and every batch has a leading axis of members.

A step of a network with a few thousand weights is shorter than the call of its program. The members of an ensemble
share the compiled step, and differ in seed, data and learning rate. Adam and its relatives work by the entry, so that
no member knows of the others; an optimizer that works by the matrix or by the norm of all gradients is not for this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.study.config import TrainingConfig
from experiments.study.training import Fitted, Recipe, Start, fit_model
from experiments.study.workdir import Folder
from train.optimizers import OptimizerConfig, make_optimizer


def init_members(init: Callable[[jax.Array], Any], seeds: Sequence[int], rates: Sequence[float]) -> dict[str, Any]:
    """Parameters of all members.

    Args:
        init: Parameters of one member from a key.
        seeds: Of each member; members of one seed start alike.
        rates: Learning rate of each member.

    Returns:
        `net`, the parameters with a leading axis of members, and `rate` [members], which gets no gradient and stays.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    return {"net": jax.vmap(init)(keys), "rate": jnp.asarray(rates, jnp.float32)}


def by_member(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The config's optimizer, of which each member's update is multiplied by its entry of the parameter `rate`.

    The rate is a parameter so that one compiled step serves all rates.
    """
    chain = make_optimizer(config, steps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = chain.update(updates, state, params)
        return jax.tree.map(lambda u: u * params["rate"].reshape(-1, *[1] * (u.ndim - 1)), updates), state

    return optax.GradientTransformation(chain.init, update)


def member(params: Any, number: int) -> Any:
    """The network of one member.

    >>> member({"net": {"w": jnp.arange(3.0)}, "rate": jnp.ones(3)}, 1)["w"].item()
    1.0
    """
    return jax.tree.map(lambda leaf: leaf[number], params["net"])


def classify(model: nn.Module, params: Any, x: np.ndarray) -> np.ndarray:
    """The class with the largest logit of each input; int [N]."""
    logits: Any = model.apply({"params": params}, x)
    return np.asarray(logits).argmax(-1)


def index_batches(count: int, batch_size: int, seeds: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {"index": int32 [members, B]}: each member sees its `count` examples in an order of its own.

    The last, incomplete batch of an epoch is dropped; a batch is no larger than the data. Members of
    one seed have the same order.
    """
    size = min(batch_size, count)
    generators = {seed: np.random.default_rng([seed, 7]) for seed in seeds}
    while True:
        orders = {seed: generator.permutation(count).astype(np.int32) for seed, generator in generators.items()}
        whole = np.stack([orders[seed] for seed in seeds])
        for start in range(0, count - size + 1, size):
            yield {"index": whole[:, start : start + size]}


def fit_members(
    recipe: Recipe,
    init: Callable[[jax.Array], Any],
    members: Sequence[Mapping[str, Any]],
    own: Mapping[str, Any],
    *,
    training: TrainingConfig,
    folder: Folder,
    shared: Any = None,
    state: Any = None,
) -> Fitted:
    """Trains an ensemble, whose objective finds `(own, shared)` in `ctx.frozen` and `index` [members, B] in the batch.

    Args:
        recipe: Its optimizer is made by `by_member`.
        init: Parameters of one member from a key.
        members: `{"seed": ..., "rate": ...}` of each.
        own: Arrays [members, n, ...]; `rows` are the examples that a batch's index counts.
        training: How.
        folder: Where.
        shared: Arrays of all members.
        state: Mutable state of the members.
    """
    seeds, rates = [m["seed"] for m in members], [m["rate"] for m in members]
    start = Start(init_members(init, seeds, rates), seeds[0], frozen=(dict(own), shared), state=state)
    batches = index_batches(own["rows"].shape[1], training.batch_size, seeds)
    return fit_model(recipe, start, batches, training=training, folder=folder)
