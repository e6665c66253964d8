"""Pretraining of an encoder on unlabelled texts: masked words, and matching the two halves of a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments.data.halves import MASK_RATE, half_batches
from experiments.models.transformer import Bert, masked_places
from experiments.study.config import TrainingConfig
from experiments.study.training import Fitted, Recipe, Start, fit_model
from experiments.study.workdir import Folder
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class HalvesConfig:
    """Pretraining; a batch consists of texts, each in two halves."""

    masks: float = 1.0
    """Weight of masked language modelling."""
    halves: float = 1.0
    """Weight of the contrastive loss between halves."""
    temperature: float = 0.1
    """Temperature of the contrastive loss."""
    training: TrainingConfig = TrainingConfig(
        OptimizerConfig(name="muon", learning_rate=4e-3, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0),
        steps=1_000,
        batch_size=32,
        devices=1,
        checkpoint_every=250,
    )
    """The optimizer and its steps."""


def halves_objective(model: Bert, capacity: int, temperature: float) -> Objective:
    """Masked language modelling, and a contrastive loss that matches halves by their mean representations.

    Args:
        model: The encoder with the head of the masked words.
        capacity: Maximum number of masked positions in a row.
        temperature: Temperature of the contrastive loss.
    """

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        positions, labels, masked = masked_places(batch, capacity)
        places = {"valid": batch["valid"], "segments": jnp.zeros_like(batch["tokens"]), "positions": positions}
        found: Any = model.apply({"params": params}, batch["tokens"], **places, method="masked")
        first, second = jnp.split(found[1], 2)
        return {
            "masked_words": term(lossfns.masked_lm, found[0], labels, where=masked),
            "halves": Term(lossfns.nt_xent(first, second, temperature=temperature), weights=1),
        }

    return objective


def pretrain(
    config: HalvesConfig, model: Bert, texts: Sequence[np.ndarray], seq_len: int, seed: int, folder: Folder
) -> Fitted:
    """Trains or loads an encoder with its head.

    Args:
        config: Settings of pretraining.
        model: The encoder with its heads.
        texts: The token ids of each text.
        seq_len: Maximum number of tokens in a half.
        seed: Seed of weights and batches.
        folder: Folder of the run.
    """
    row = jnp.zeros((1, seq_len), jnp.int32)
    places: Any = {"valid": row == 0, "segments": row, "positions": row[:, :1], "method": "masked"}
    init = jax.jit(lambda key: model.init(key, row, **places)["params"])
    capacity = max(1, round(MASK_RATE * (seq_len - 2)))
    batch_size = config.training.batch_size
    return fit_model(
        Recipe(
            halves_objective(model, capacity, config.temperature),
            {"masked_words": config.masks, "halves": config.halves},
        ),
        Start(lambda: init(jax.random.key(seed)), seed),
        half_batches(texts, model.vocab_size, batch_size=batch_size, seq_len=seq_len, seed=seed),
        training=config.training,
        folder=folder,
    )
