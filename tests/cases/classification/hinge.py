"""Cases of `lossfns.classification.hinge`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import WRONG_LABELS, label_call, labelled_rows, zeros
from tests.cases.classification._shared import finite_logits
from tests.oracles.classification import hinge as oracles


def signed_rows(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, 2.0 * rng.integers(0, 2, (rows, 3)) - 1


def hostile_signs(rng):
    inf, signs = np.inf, np.array([[1, -1, 1]])
    return {
        "scores of +-1e4": ((np.array([[1e4, 1e4, -1e4]]), signs), {}),
        "at infinity": ((np.array([[inf, inf, -inf]]), signs), {}),
        "targets that are not signs": ((zeros(1, 3), np.array([[0, 2, -1]])), {}),
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


CASES = {
    "hinge": signed_case(lossfns.hinge, oracles.hinge, 1),
    "multiclass_hinge": MULTICLASS_HINGE,
    "squared_hinge": signed_case(lossfns.squared_hinge, oracles.squared_hinge, 2),
}
