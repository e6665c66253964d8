"""Cases of `lossfns.language.masked_positions`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import labelled_rows, naive_cross_entropy, zeros
from tests.cases.language._shared import LABELS
from tests.oracles.classification import cross_entropy as cross_entropy_oracles


def gathered(logits, labels, *, where=None, **options):
    """The loss of gathered rows, put back where they were."""
    marked = jnp.ones(labels.shape, bool) if where is None else where
    out = lossfns.gather_labelled(logits, labels, **({"where": marked, "capacity": max(labels.size, 1)} | options))
    values = lossfns.softmax_cross_entropy(out.hidden, out.labels, where=out.where)
    return jnp.zeros(labels.size + 1).astype(values.dtype).at[out.positions].add(values)[:-1].reshape(labels.shape)


GATHER = LossCase(
    gathered,
    labelled_rows,
    cross_entropy_oracles.softmax_cross_entropy,
    naive_cross_entropy,
    name="gather_labelled",
    labels=1,
    bad_calls=(
        BadCall((zeros(3, 4), zeros(4, dtype=np.int32)), ("labels", "(3,)", "(4,)")),
        BadCall((zeros(3, 4), LABELS), ("capacity", "at least 1", "0"), {"capacity": 0}),
        BadCall((zeros(3, 4), LABELS), ("on_overflow", "drop", "wrap"), {"on_overflow": "wrap"}),
    ),
)


CASES = {
    "gather_labelled": GATHER,
}
