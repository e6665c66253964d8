"""Cases of `lossfns.classification.scoring`."""

import jax
import numpy as np

import lossfns
from lossfns.testing import LossCase
from tests.cases._shared import WRONG_LABELS, hostile_logits, labelled_rows
from tests.cases.classification._shared import finite_logits
from tests.oracles.classification import scoring as oracles

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


CASES = {
    "brier": BRIER,
    "sparsemax": SPARSEMAX,
}
