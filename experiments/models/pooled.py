"""Networks on the examples of a pool (`experiments.data.pools`): vectors, images or text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import lossfns
from experiments.models.mlp import MLP

Examples = Mapping[str, Any]


def inputs_of(model: Any, examples: Examples) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a model for {"x" [N, ...]}, flat for an MLP, or of a language model for {"tokens" [N, T]}."""
    if "tokens" in examples:
        return (examples["tokens"],), {"valid": jnp.ones(examples["tokens"].shape, bool)}
    x = examples["x"]
    return (x.reshape(len(x), -1) if isinstance(model, MLP) else x,), {}


def init_of(model: Any, examples: Examples) -> Callable[[jax.Array], Any]:
    """A function from a key to initial parameters."""
    args, options = inputs_of(model, {name: jnp.asarray(leaf[:1]) for name, leaf in examples.items()})
    return jax.jit(lambda key: model.init(key, *args, **options)["params"])


def answers(model: Any, params: Any, examples: Examples) -> tuple[jax.Array, jax.Array]:
    """Logits [..., K] and their labels [...]: "y", or the next tokens."""
    args, options = inputs_of(model, examples)
    logits: Any = model.apply({"params": params}, *args, **options)
    return (logits[:, :-1], examples["tokens"][:, 1:]) if "tokens" in examples else (logits, examples["y"])


def judge(model: Any, params: Any, examples: Examples) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy (nats) of each answer, and whether it is wrong."""
    logits, labels = answers(model, params, examples)
    return lossfns.softmax_cross_entropy(logits, labels), logits.argmax(-1) != labels


@functools.partial(jax.jit, static_argnums=0)
def scores(model: Any, params: Any, examples: Examples) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and error rate, both [R], of networks with parameters [R, ...]."""

    def of_one(params: Any) -> tuple[jax.Array, jax.Array]:
        values, wrong = judge(model, params, examples)
        return jnp.mean(values), jnp.mean(wrong)

    found: tuple[jax.Array, jax.Array] = jax.lax.map(of_one, params)
    return found
