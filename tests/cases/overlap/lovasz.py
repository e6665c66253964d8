"""Cases of `lossfns.overlap.lovasz`."""

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.overlap._shared import (
    INTEGERS,
    WRONG_OVER,
    WRONG_REGIONS,
    batch_as_example,
    hostile_regions,
    padding,
    segmented,
)
from tests.oracles.overlap import lovasz as oracles


def hostile_lovasz(rng):
    return {name: given for name, given in hostile_regions(rng).items() if given[0][1].dtype == INTEGERS}


LOVASZ = LossCase(
    lossfns.lovasz_softmax,
    segmented,
    oracles.lovasz_softmax,
    labels=1,
    batch_coupled=True,
    shift_invariant=(0,),
    non_negative=True,
    smooth=False,  # linear between the orders of its errors
    limits={"padding": padding(lossfns.lovasz_softmax), "over the batch": batch_as_example(lossfns.lovasz_softmax)},
    hostile=hostile_lovasz,
    bad_calls=(*WRONG_REGIONS, *WRONG_OVER, BadCall((zeros(3, 2), zeros(3, 2)), ("labels", "integer", "float32"))),
)
LOVASZ_BY_EXAMPLE = LossCase(
    lossfns.lovasz_softmax,
    segmented,
    oracles.lovasz_softmax,
    variants=({"over": "example"}, {"over": "example", "absent": "keep"}),
    labels=1,
    smooth=False,
)


CASES = {
    "lovasz_softmax": LOVASZ,
    "lovasz_softmax by example": LOVASZ_BY_EXAMPLE,
}
