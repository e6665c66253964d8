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
from train.errors import UsageError
from train.objective import Context, Objective, Term, term


class Arm(NamedTuple):
    """A way to pretrain: the task on pairs, the loss of masked tokens, and the kind of masking."""

    task: Task = "none"
    loss: Literal["plain", "weighted", "unlikely", "replaced"] = "plain"
    whole_words: bool = False

    def weights(self, replaced: float) -> dict[str, float]:
        """The weights of its losses; `replaced` is the weight of the loss on replaced tokens.

        Raises:
            UsageError: It is negative.
        """
        if not replaced >= 0:
            raise UsageError(f"--replaced is the weight of a loss: expected a number of at least 0, got {replaced}")
        pair = {} if self.task == "none" else {"pair": 1.0}
        return {"mlm": 1.0} | pair | ({"replaced": replaced} if self.loss == "replaced" else {})


class Remedies(NamedTuple):
    """Settings of the losses for rare tokens."""

    counts: np.ndarray
    """Occurrences of each token in the training text [V]."""
    frequent: int
    """Number of occurrences from which a token counts as frequent."""
    power: float
    """Power of `frequency_weighted`."""
    alpha: float
    """Weight of the unlikelihood of frequent tokens."""


def masked_term(loss: str, remedies: Remedies, logits: Any, labels: Any, where: Any) -> Term:
    """The term of logits [B, P, V] of masked tokens [B, P]."""
    if loss == "weighted":
        counts, power = jnp.asarray(remedies.counts), remedies.power
        return term(lossfns.frequency_weighted, logits, labels, counts, power=power, where=where)
    if loss == "unlikely":
        avoid = jnp.broadcast_to(jnp.asarray(remedies.counts >= remedies.frequent), logits.shape)
        return term(lossfns.unlikelihood, logits, labels, avoid, alpha=remedies.alpha, where=where)
    return term(lossfns.masked_lm, logits, labels, where=where)


def pair_terms(task: Task, logits: Any, answer: Any) -> dict[str, Term]:
    """The loss and the accuracy on pairs, from logits [B, 2] and answers [B], 1 for unchanged pairs."""
    loss = lossfns.next_sentence if task == "next" else lossfns.sentence_order
    return {"pair": term(loss, logits, answer), "pair_accuracy": Term((logits.argmax(-1) == 0) == (answer == 1))}


def make_arm(model: PairedEncoder | ReplacedTokens, arm: Arm, capacity: int, remedies: Remedies) -> Objective:
    """The objective of an arm, of {"net": parameters of the model} and at most `capacity` masked tokens of a text.

    Raises:
        UsageError: The power or the weight of a remedy is negative.
    """
    for name in ("power", "alpha"):
        if not getattr(remedies, name) >= 0:
            raise UsageError(f"--{name} must be at least 0, where 0 is plain training, got {getattr(remedies, name)}")

    def objective(params: Any, batch: Mapping[str, Any], ctx: Context) -> dict[str, Term]:
        positions, labels, masked = places = masked_places(batch, capacity)
        net = {"params": params["net"]}
        if isinstance(model, ReplacedTokens):
            generated: Any = model.apply(net, batch, places, ctx.key)
            logits, tokens, replaced = generated
            among = {"where": batch["valid"]}
            judged = term(lossfns.replaced_token_detection, replaced, tokens, batch["labels"], **among)
            return {"mlm": masked_term("plain", remedies, logits, labels, masked), "replaced": judged}
        given = {"valid": batch["valid"], "segments": batch["segments"], "positions": positions}
        out: Any = model.apply(net, batch["tokens"], **given)
        logits, pair = out
        right = Term(logits.argmax(-1) == labels, masked)
        terms = {"mlm": masked_term(arm.loss, remedies, logits, labels, masked), "masked_accuracy": right}
        return terms if arm.task == "none" else terms | pair_terms(arm.task, pair, batch["answer"])

    return objective
