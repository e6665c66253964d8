"""What the cases of several losses share."""

import lossfns
from lossfns.testing import LossCase
from tests.cases._shared import hostile_logits, labelled_rows


def cross_entropy_at(loss, **options):
    """A limit: what the loss is with these options."""
    return lambda inputs: (loss(*inputs, **options), lossfns.softmax_cross_entropy(*inputs))


def labelled_case(loss, oracle, naive, **options):
    options = {"labels": 1, "shift_invariant": (0,), "non_negative": True, "hostile": hostile_logits} | options
    return LossCase(loss, labelled_rows, oracle, naive, **options)
