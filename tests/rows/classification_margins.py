"""Rows of hinges, sparsemax and Brier's score."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import classification_margins as oracles
from tests.rows import zeros
from tests.rows.classification import hostile_logits, labelled_rows
from tests.rows.classification_focal import WRONG_LABELS, label_call


def signed_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, 2.0 * rng.integers(0, 2, (rows, 3)) - 1


def hostile_signs(rng):
    inf, signs = np.inf, np.array([[1, -1, 1]])
    return {
        "scores of +-1e4": ((np.array([[1e4, 1e4, -1e4]]), signs), {}),
        "at infinity": ((np.array([[inf, inf, -inf]]), signs), {}),
        "targets that are no signs": ((zeros(1, 3), np.array([[0, 2, -1]])), {}),
        "half a sign": ((zeros(1, 3), np.array([[1.0, -1.0, 0.5]])), {}),
    }


def signed_case(loss, oracle, power):
    return LossCase(
        loss,
        signed_rows,
        oracle,
        lambda predictions, targets: jnp.maximum(1 - targets * predictions, 0) ** power,
        differentiable=(0,),
        variants=({}, {"margin": 0.5}),
        sweep={"margin": (0.5, 1.0, 2.0)},
        element_masks=True,
        smooth=False,  # a corner, or one in the slope, at the margin
        non_negative=True,
        outside={1: (0.5, 2.0)},
        hostile=hostile_signs,
        bad_calls=(
            BadCall((zeros(3, 1), zeros(3)), ("(3, 1)", "(3,)")),
            BadCall((zeros(2, 3), zeros(2, 4)), ("targets", "(2, 3)", "(2, 4)")),
            BadCall((zeros(3, dtype=np.int32), zeros(3)), ("predictions", "floating", "int32")),
            BadCall((zeros(3), zeros(3)), ("margin", "positive", "0"), {"margin": 0}),
        ),
    )


def finite_logits(rng):
    """Without +inf, where a difference of scores has no limit."""
    return {name: given for name, given in hostile_logits(rng).items() if "+inf" not in name}


def naive_multiclass_hinge(logits, labels):
    label = jnp.take_along_axis(logits, labels[..., None], -1)
    return (logits + 1 - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - label).max(-1)


MULTICLASS_HINGE = LossCase(
    lossfns.multiclass_hinge,
    labelled_rows,
    oracles.multiclass_hinge,
    naive_multiclass_hinge,
    variants=({}, {"form": "weston_watkins", "margin": 0.5}),
    sweep={"margin": (0.5, 1.0, 2.0)},
    labels=1,
    smooth=False,  # corners at the margin and where two classes tie
    shift_invariant=(0,),
    non_negative=True,
    hostile=finite_logits,
    bad_calls=(
        *WRONG_LABELS,
        label_call("margin", "-1", margin=-1),
        label_call("form", "crammer_singer", "weston_watkins", "sum", form="sum"),
    ),
)


SPARSEMAX = LossCase(
    lossfns.sparsemax,
    lambda rng, rows: (0.5 * labelled_rows(rng, rows)[0], labelled_rows(rng, rows)[1]),
    oracles.sparsemax,
    None,  # rounding moves classes across the edge of the support in the textbook form and not in ours, or the reverse
    labels=1,
    smooth=False,  # the slope has corners where a class enters the support
    shift_invariant=(0,),
    non_negative=True,
    enumerated=True,
    hostile=lambda rng: (
        finite_logits(rng) | {"a lead of one": ((np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]), np.array([0, 1])), {})}
    ),
    bad_calls=WRONG_LABELS,
    magnitudes=(1e-30, 1e12),  # the oracle subtracts squares of logits
)


def naive_brier(logits, labels):
    return ((jax.nn.softmax(logits, -1) - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)) ** 2).sum(-1)


BRIER = LossCase(
    lossfns.brier,
    labelled_rows,
    oracles.brier,
    naive_brier,
    labels=1,
    shift_invariant=(0,),
    non_negative=True,
    hostile=hostile_logits,
    bad_calls=WRONG_LABELS,
)


ROWS = {
    "brier": BRIER,
    "hinge": signed_case(lossfns.hinge, oracles.hinge, 1),
    "multiclass_hinge": MULTICLASS_HINGE,
    "sparsemax": SPARSEMAX,
    "squared_hinge": signed_case(lossfns.squared_hinge, oracles.squared_hinge, 2),
}
