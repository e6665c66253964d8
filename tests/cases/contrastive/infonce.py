"""Cases of `lossfns.contrastive.infonce`."""

import numpy as np

import lossfns
from lossfns.testing import BadCall
from tests.cases._shared import two_views, zeros
from tests.cases.contrastive._shared import bad_pairs, inverse_temperature, naive_info_nce, of_pairs
from tests.oracles.contrastive import infonce as oracles


def hot(inputs):
    """At an infinite temperature all keys are equal."""
    return lossfns.info_nce(*inputs, temperature=1e9), np.full(len(inputs[0]), np.log(len(inputs[0])))


INFO_NCE = of_pairs(
    lossfns.info_nce,
    oracles.info_nce,
    naive_info_nce,
    variants=({}, {"temperature": 0.1, "similarity": "cosine", "block_size": 4}),
    sweep={"temperature": (0.1, 0.2, 0.5)},
    nan_stays={0: "a query meets all keys and no other query"},
    # A score is a product of vectors of length three, of which one entry's rounding is a share.
    condition=lambda kwargs: 4 * inverse_temperature(1.0)(kwargs),
    scale_invariant=(),
    limits={"infinite temperature: log N": hot},
    hostile=lambda rng: {
        "cosines of entries of 1e25": (
            tuple(1e25 * x for x in two_views(rng, 6)),
            {"temperature": 0.1, "similarity": "cosine"},
        ),
        "scores of 1e4": (tuple(50 * x for x in two_views(rng, 6)), {"temperature": 0.5}),
    },
    bad_calls=(
        *bad_pairs("queries", temperature=-1, similarity="euclid"),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("keys", "floating", "int32")),
    ),
)


CASES = {
    "info_nce": INFO_NCE,
}
