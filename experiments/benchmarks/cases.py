"""Benchmark cases: losses that sum over a large axis, and their plain JAX versions on the full matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lossfns

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        sizes: Name -> size; `--shape-scale` divides the ones in `scaled`.
        scaled: Names of the sizes that make the problem large.
        make: `make(key, dtype, peaked, **sizes)` returns the arrays; the loss is differentiated with respect to the
            floating-point ones. `peaked` requests probabilities near 0 and 1, where precision is lost.
        ours: The mean loss of the arrays.
        plain: The same in plain JAX.
        dtype: Dtype of the floating-point arrays.
        target: Upper bound on the ratio of times on CPU.
    """

    sizes: dict[str, int]
    scaled: tuple[str, ...]
    make: Callable[..., Arrays]
    ours: Callable[..., jax.Array]
    plain: Callable[..., jax.Array]
    dtype: Any = jnp.float32
    target: float | None = None


def _states(key: jax.Array, dtype: Any, peaked: bool, *, tokens: int, features: int, classes: int) -> Arrays:
    keys = jax.random.split(key, 4)
    hidden = jax.random.normal(keys[0], (tokens, features))
    head = jax.random.normal(keys[1], (classes, features)) * ((30 if peaked else 1) / features**0.5)
    labels = jax.random.randint(keys[2], (tokens,), 0, classes)
    if peaked:  # most tokens have the label that the model predicts with confidence
        labels = jnp.where(jax.random.bernoulli(keys[3], 0.8, (tokens,)), jnp.argmax(hidden @ head.T, axis=-1), labels)
    return {"hidden": hidden.astype(dtype), "head": head.astype(dtype), "labels": labels}


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _head(hidden: jax.Array, head: jax.Array, labels: jax.Array) -> jax.Array:
    values: Any = lossfns.linear_cross_entropy(hidden, head, labels)
    return values.mean()


def _head_in_blocks(hidden: jax.Array, head: jax.Array, labels: jax.Array) -> jax.Array:
    values: Any = lossfns.linear_cross_entropy(hidden, head, labels, block_size=1024)
    return values.mean()


def _plain_head(hidden: jax.Array, head: jax.Array, labels: jax.Array) -> jax.Array:
    return _cross_entropy(hidden @ head.T, labels).mean()


def _masked_states(key: jax.Array, dtype: Any, peaked: bool, **sizes: int) -> Arrays:
    arrays = _states(key, dtype, peaked, **sizes)
    return arrays | {"masked": jax.random.uniform(jax.random.fold_in(key, 4), arrays["labels"].shape) < 0.15}


def _mlm_head(hidden: jax.Array, head: jax.Array, labels: jax.Array, masked: jax.Array) -> jax.Array:
    capacity = round(0.15 * labels.size * 1.05) + 32
    out = lossfns.gather_labelled(hidden, labels, where=masked, capacity=capacity)
    values: Any = lossfns.linear_cross_entropy(out.hidden, head, out.labels, where=out.where)
    return lossfns.weighted_mean(values, out.where)


def _plain_mlm_head(hidden: jax.Array, head: jax.Array, labels: jax.Array, masked: jax.Array) -> jax.Array:
    return jnp.sum(_cross_entropy(hidden @ head.T, labels) * masked) / jnp.sum(masked)


def _answers(
    key: jax.Array, dtype: Any, peaked: bool, *, pairs: int, tokens: int, features: int, classes: int
) -> Arrays:
    arrays = _states(key, dtype, peaked, tokens=2 * pairs * tokens, features=features, classes=classes)
    shape = (2, pairs, tokens)
    return {
        "hidden": arrays["hidden"].reshape(*shape, features),
        "head": arrays["head"],
        "tokens": arrays["labels"].reshape(shape),
    }


def _dpo(log_probs: jax.Array) -> jax.Array:
    return lossfns.dpo(log_probs[0], log_probs[1], jnp.zeros_like(log_probs[0]), jnp.zeros_like(log_probs[1])).mean()


def _dpo_from_states(hidden: jax.Array, head: jax.Array, tokens: jax.Array) -> jax.Array:
    return _dpo(lossfns.linear_sequence_log_probs(hidden, head, tokens))


def _plain_dpo(hidden: jax.Array, head: jax.Array, tokens: jax.Array) -> jax.Array:
    logits = jnp.einsum("...d,vd->...v", hidden[..., :-1, :], head)
    return _dpo(-_cross_entropy(logits, tokens[..., 1:]).sum(-1))


def _views(key: jax.Array, dtype: Any, peaked: bool, *, pairs: int, features: int) -> Arrays:
    keys = jax.random.split(key)
    a = jax.random.normal(keys[0], (pairs, features))
    b = a + (0.1 if peaked else 1) * jax.random.normal(keys[1], (pairs, features))
    return {"a": a.astype(dtype), "b": b.astype(dtype)}


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _plain_nt_xent(a: jax.Array, b: jax.Array) -> jax.Array:
    z = _unit(jnp.concatenate([a, b]))
    scores = z @ z.T / 0.5
    scores = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, scores)
    return _cross_entropy(scores, jnp.roll(jnp.arange(len(z)), len(a))).mean()


def _plain_clip(a: jax.Array, b: jax.Array) -> jax.Array:
    # At a scale of 100 the positive has probability 1 and the gradient vanishes, even in float64.
    scores, own = 20.0 * _unit(a) @ _unit(b).T, jnp.arange(len(a))
    return (_cross_entropy(scores, own).mean() + _cross_entropy(scores.T, own).mean()) / 2


def _plain_siglip(a: jax.Array, b: jax.Array) -> jax.Array:
    scores = 10.0 * _unit(a) @ _unit(b).T - 10.0
    return -jax.nn.log_sigmoid(scores * (2 * jnp.eye(len(a)) - 1)).sum() / len(a)


def _tagged(key: jax.Array, dtype: Any, peaked: bool, *, batch: int, steps: int, states: int) -> Arrays:
    keys, spread = jax.random.split(key, 3), 10 if peaked else 1
    return {
        "emissions": (spread * jax.random.normal(keys[0], (batch, steps, states))).astype(dtype),
        "transitions": (spread * jax.random.normal(keys[1], (states, states))).astype(dtype),
        "tags": jax.random.randint(keys[2], (batch, steps), 0, states),
    }


def _plain_crf(emissions: jax.Array, transitions: jax.Array, tags: jax.Array) -> jax.Array:
    def step(alpha: jax.Array, emission: jax.Array) -> tuple[jax.Array, None]:
        return jax.nn.logsumexp(alpha[:, :, None] + transitions[None], axis=1) + emission, None

    alpha, _ = jax.lax.scan(step, emissions[:, 0], jnp.swapaxes(emissions[:, 1:], 0, 1))
    path = jnp.take_along_axis(emissions, tags[..., None], axis=-1)[..., 0].sum(-1)
    return (jax.nn.logsumexp(alpha, axis=-1) - path - transitions[tags[:, :-1], tags[:, 1:]].sum(-1)).mean()


def _boxes(key: jax.Array, dtype: Any, peaked: bool, *, anchors: int, classes: int) -> Arrays:
    keys = jax.random.split(key)
    logits = (20 if peaked else 2) * jax.random.normal(keys[0], (anchors, classes))
    return {"logits": logits.astype(dtype), "targets": jax.random.bernoulli(keys[1], 0.1, (anchors, classes))}


def _plain_focal(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.sigmoid_focal_loss(logits, targets.astype(logits.dtype), alpha=0.25, gamma=2.0).mean()


_HEAD = {"tokens": 2048, "features": 512, "classes": 32768}
_PAIRS = {"pairs": 8192, "features": 128}
CASES: dict[str, Case] = {
    "linear_cross_entropy": Case(_HEAD, ("tokens", "classes"), _states, _head, _plain_head, target=0.95),
    "linear_cross_entropy, blocks": Case(_HEAD, ("tokens", "classes"), _states, _head_in_blocks, _plain_head),
    "linear_cross_entropy, bfloat16": Case(
        _HEAD, ("tokens", "classes"), _states, _head, _plain_head, dtype=jnp.bfloat16, target=0.5
    ),
    "MLM head": Case(
        _HEAD | {"tokens": 8192}, ("tokens", "classes"), _masked_states, _mlm_head, _plain_mlm_head, target=0.18
    ),
    "dpo from hidden states": Case(
        {"pairs": 4, "tokens": 256, "features": 256, "classes": 32000},
        ("tokens", "classes"),
        _answers,
        _dpo_from_states,
        _plain_dpo,
    ),
    "nt_xent": Case(_PAIRS, ("pairs",), _views, lambda a, b: lossfns.nt_xent(a, b).mean(), _plain_nt_xent, target=0.45),
    "clip": Case(
        _PAIRS, ("pairs",), _views, lambda a, b: lossfns.clip(a, b, scale=20.0).mean(), _plain_clip, target=0.30
    ),
    "siglip": Case(_PAIRS, ("pairs",), _views, lambda a, b: lossfns.siglip(a, b).mean(), _plain_siglip, target=0.60),
    "linear_chain_crf": Case(
        {"batch": 32, "steps": 128, "states": 64},
        ("batch", "steps"),
        _tagged,
        lambda *x: lossfns.linear_chain_crf(*x).mean(),
        _plain_crf,
        target=0.12,
    ),
    "sigmoid_focal": Case(
        {"anchors": 2**17, "classes": 128},
        ("anchors",),
        _boxes,
        lambda x, t: lossfns.sigmoid_focal(x, t, alpha=0.25, gamma=2.0).mean(),
        _plain_focal,
        target=0.25,
    ),
}
"""Name -> case. To add a loss, add an entry: sizes, a function that makes the arrays, our mean loss, the plain one."""
