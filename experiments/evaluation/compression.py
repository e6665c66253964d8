"""Language models as compressors: bits per byte of a text, also over learning rates."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import lossfns
from experiments.data.causal import CausalText, whole_batches
from experiments.evaluation.pictures import line_panels
from train.records.report import Image

RAW = 8.0
"""Bits of an uncompressed byte."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def nats(model: Any, soft_cap: float | None, params: Any, batches: Any) -> jax.Array:
    """Negative log-likelihood (nats) of all next tokens of batches [n, B, T]."""

    def of_one(batch: Any) -> jax.Array:
        tokens, places = batch["tokens"], {"valid": batch["valid"], "segment_ids": batch["segment_ids"]}
        logits = model.apply({"params": params}, tokens, **places)[:, :-1]
        scored = lossfns.next_token_where(tokens, where=batch["valid"], segment_ids=batch["segment_ids"])[:, 1:]
        return jnp.sum(lossfns.softmax_cross_entropy(logits, tokens[:, 1:], where=scored, soft_cap=soft_cap))

    return jnp.sum(jax.lax.map(of_one, batches))


def bits_per_byte(
    model: Any, params: Any, text: CausalText, split: str, *, shape: tuple[int, int], soft_cap: float | None = None
) -> list[float]:
    """Returns the bits per byte of a held-out text, at most `RAW`, even for a network that has diverged.

    Args:
        model: Maps tokens [B, T], `valid` and `segment_ids` to logits [B, T, V].
        params: Parameters of R networks, [R, ...].
        text: The text; every byte is counted.
        split: "validation" or "test".
        shape: B and T of the batches.
        soft_cap: Bound of the logits.
    """
    batches = whole_batches(text.streams[split], batch_size=shape[0], seq_len=shape[1])
    found = []
    for number in range(len(jax.tree.leaves(params)[0])):
        one = jax.tree.map(lambda leaf, n=number: leaf[n], params)
        total = float(nats(model, soft_cap, one, batches)) / math.log(2) + RAW * text.lost_bytes[split]
        bits = total / len(text.texts[split])
        found.append(bits if bits < RAW else RAW)  # RAW for NaN too
    return found


def draw_rates(folder: Path, tried: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[str]]) -> Image:
    """Draws the bits per byte of the validation text over the learning rate.

    Args:
        folder: The study's folder.
        tried: The rates tried: "tuned" names the arm, "rate", and as "loss" the bits per byte.
        panels: Names of arms by heading.
    """
    lines: dict[str, Any] = {}
    for heading, names in panels.items():
        of = {name: sorted((row["rate"], row["loss"]) for row in tried if row["tuned"] == name) for name in names}
        lines[heading] = {name: tuple(zip(*points, strict=True)) for name, points in of.items() if points}
    path = folder / "plots" / "rates.png"
    line_panels(path, lines, xlabel="learning rate", ylabel="bits per byte, validation text", log="x")
    return Image("plots/rates.png", "Bits per byte by learning rate, means over the tuning seeds")
