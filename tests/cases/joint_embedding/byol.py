"""Cases of `lossfns.joint_embedding.byol`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.joint_embedding._shared import FEATURES, unit, wrong_pairs
from tests.oracles.joint_embedding import byol as oracles


def predicted_rows(rng, rows):
    targets = rng.normal(size=(rows, FEATURES))
    return targets + rng.normal(size=(rows, FEATURES)), targets


WRONG_PREDICTIONS = (
    *wrong_pairs("predictions", "targets"),
    BadCall((zeros(), zeros()), ("predictions", "()")),
    BadCall((zeros(3, 0), zeros(3, 0)), ("at least one feature", "(3, 0)")),
)


def hostile_directions(rng):
    predictions, targets = predicted_rows(rng, 6)
    return {
        "equal": ((targets, targets), {}),
        "opposite": ((-targets, targets), {}),
        "entries of 1e25 and 1e-25": ((1e25 * predictions, 1e-25 * targets), {}),
        "both zero": ((0 * predictions, 0 * targets), {}),
    }


def cosine_case(loss, oracle, naive, **more):
    return LossCase(
        loss,
        predicted_rows,
        oracle,
        naive,
        differentiable=(0,),
        hostile=hostile_directions,
        scale_invariant=(0, 1),
        symmetric=((0, 1),),
        bad_calls=WRONG_PREDICTIONS,
        **more,
    )


BYOL = cosine_case(
    lossfns.byol,
    oracles.byol,
    lambda p, t: 2 - 2 * (unit(p) * unit(t)).sum(-1),
    non_negative=True,
    limits={
        "equal vectors cost nothing": lambda x: (lossfns.byol(x[1], x[1]), np.zeros(6)),
        "twice SimSiam, and 2": lambda x: (lossfns.byol(*x), 2 + 2 * lossfns.simsiam(*x)),
    },
)
SIMSIAM = cosine_case(lossfns.simsiam, oracles.simsiam, lambda p, t: -(unit(p) * unit(t)).sum(-1))


def naive_data2vec(predictions, targets):
    e = jnp.abs(predictions - targets)
    return jnp.where(e <= 2, e * e / 4, e - 1).mean(-1)


DATA2VEC = LossCase(
    lossfns.data2vec,
    predicted_rows,
    oracles.data2vec,
    naive_data2vec,
    variants=({}, {"beta": 0.5}),
    sweep={"beta": (0.5, 2.0, 4.0)},
    differentiable=(0,),
    smooth=False,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: {
        "equal": ((zeros(6, 4) + 1e4, zeros(6, 4) + 1e4), {}),
        "errors of 1e25": ((zeros(6, 4) + 1e25, zeros(6, 4)), {}),
    },
    limits={
        "Huber over beta": lambda x: (
            lossfns.data2vec(*x, beta=0.5),
            lossfns.huber(*map(jnp.asarray, x), delta=0.5).mean(-1) / 0.5,
        ),
        "the absolute error at beta 0": lambda x: (lossfns.data2vec(*x, beta=1e-9), np.abs(x[0] - x[1]).mean(-1)),
    },
    bad_calls=(*WRONG_PREDICTIONS, BadCall((zeros(3, 4), zeros(3, 4)), ("beta", "positive", "0"), {"beta": 0})),
)


CASES = {
    "byol": BYOL,
    "data2vec": DATA2VEC,
    "simsiam": SIMSIAM,
}
