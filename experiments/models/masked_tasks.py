"""Losses of small masked encoders: on the masked tokens, on pairs of segments, on replaced tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

import lossfns
from experiments.data.orders import Task
from experiments.models.paired import PairedEncoder, ReplacedTokens
from experiments.models.transformer import masked_places
from train.objective import Context, Objective, Term, term


class Arm(NamedTuple):
    """A way to pretrain: what is done to pairs and asked of them, the loss of masked tokens, and what is masked."""

    task: Task = "none"
    loss: Literal["plain", "weighted", "unlikely", "replaced"] = "plain"
    whole_words: bool = False
    strength: float = 0.5
    """Power of the weights by frequency, alpha of the unlikelihood, or weight of the loss on replaced tokens."""
    times: float = 1.0
    """Steps, as a multiple of those of the other arms."""

    @property
    def weights(self) -> dict[str, float]:
        """The weights of its losses."""
        pair = {} if self.task == "none" else {"pair": 1.0}
        return {"mlm": 1.0} | pair | ({"replaced": self.strength} if self.loss == "replaced" else {})


WEIGHTED, UNLIKELY = "frequency-weighted", "unlikelihood"


def remedies(power: float, alpha: float) -> dict[str, Arm]:
    """The arms that prefer rare tokens, at other strengths than usual."""
    weighted, unlikely = Arm(loss="weighted", strength=power), Arm(loss="unlikely", strength=alpha)
    return {f"{WEIGHTED}, {power:g}": weighted, f"{UNLIKELY}, {alpha:g}": unlikely}


class Frequencies(NamedTuple):
    """What the losses for rare tokens know."""

    counts: np.ndarray
    """Occurrences of each token in the training text [V]."""
    frequent: int
    """Number of occurrences from which a token counts as frequent."""


def masked_term(arm: Arm, known: Frequencies, logits: Any, labels: Any, where: Any) -> Term:
    """The term of logits [B, P, V] of masked tokens [B, P]."""
    if arm.loss == "weighted":
        counts = jnp.asarray(known.counts)
        return term(lossfns.frequency_weighted, logits, labels, counts, power=arm.strength, where=where)
    if arm.loss == "unlikely":
        avoid = jnp.broadcast_to(jnp.asarray(known.counts >= known.frequent), logits.shape)
        return term(lossfns.unlikelihood, logits, labels, avoid, alpha=arm.strength, where=where)
    return term(lossfns.masked_lm, logits, labels, where=where)


def pair_terms(task: Task, logits: Any, answer: Any) -> dict[str, Term]:
    """The loss and the accuracy on pairs, of logits [B, 2] and answers [B] that are 1 for pairs as in the text."""
    loss = lossfns.next_sentence if task == "next" else lossfns.sentence_order
    return {"pair": term(loss, logits, answer), "pair_accuracy": Term((logits.argmax(-1) == 0) == (answer == 1))}


def make_arm(model: PairedEncoder | ReplacedTokens, arm: Arm, capacity: int, known: Frequencies) -> Objective:
    """The objective of an arm, of {"net": parameters of the model} and at most `capacity` masked tokens of a text."""

    def objective(params: Any, batch: Mapping[str, Any], ctx: Context) -> dict[str, Term]:
        positions, labels, masked = places = masked_places(batch, capacity)
        net = {"params": params["net"]}
        if isinstance(model, ReplacedTokens):
            generated: Any = model.apply(net, batch, places, ctx.key)
            logits, tokens, replaced = generated
            among = {"where": batch["valid"]}
            judged = term(lossfns.replaced_token_detection, replaced, tokens, batch["labels"], **among)
            return {"mlm": masked_term(arm, known, logits, labels, masked), "replaced": judged}
        given = {"valid": batch["valid"], "segments": batch["segments"], "positions": positions}
        out: Any = model.apply(net, batch["tokens"], **given)
        logits, pair = out
        right = Term(logits.argmax(-1) == labels, masked)
        terms = {"mlm": masked_term(arm, known, logits, labels, masked), "masked_accuracy": right}
        return terms if arm.task == "none" else terms | pair_terms(arm.task, pair, batch["answer"])

    return objective
