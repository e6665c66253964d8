"""Cases of `lossfns.language.sentences`."""

import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import naive_cross_entropy, zeros
from tests.oracles.language import sentences as oracles


def answered_pairs(rng, rows):
    return rng.normal(size=(rows, 2)) * 2, rng.integers(0, 2, rows).astype(np.int32)


def hostile_pairs(rng):
    logits, answers = answered_pairs(rng, 4)
    return {
        "logits + 1e4": ((logits + 1e4, answers), {}),
        "logits of +-1e4": ((np.array([[1e4, -1e4], [1e4, 1e4]]), np.array([0, 1])), {}),
        "booleans": ((logits, np.array([True, False, False, True])), {}),
    }


def pair_case(loss, name):
    return LossCase(
        loss,
        answered_pairs,
        oracles.first_of_two,
        lambda logits, answers: naive_cross_entropy(logits, 1 - answers),
        labels=1,
        hostile=hostile_pairs,
        bad_calls=(
            BadCall((zeros(3, 2), zeros(4, dtype=np.int32)), (name, "(3,)", "(4,)")),
            BadCall((zeros(3, 3), zeros(3, dtype=np.int32)), ("2 classes", "(3, 3)")),
            BadCall((zeros(3, 2, dtype=np.int32), zeros(3, dtype=np.int32)), ("logits", "floating", "int32")),
        ),
    )


CASES = {
    "next_sentence": pair_case(lossfns.next_sentence, "is_next"),
    "sentence_order": pair_case(lossfns.sentence_order, "in_order"),
}
