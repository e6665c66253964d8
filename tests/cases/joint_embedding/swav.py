"""Cases of `lossfns.joint_embedding.swav`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.joint_embedding._shared import PROTOTYPES
from tests.oracles.joint_embedding import swav as oracles


def scores(rng, rows):
    return rng.uniform(-0.3, 0.3, size=(rows, PROTOTYPES)), rng.uniform(-0.3, 0.3, size=(rows, PROTOTYPES))


PICK = np.array([1.0, -2.0, 3.0, 0.5, 0.25], np.float32)


def summed_codes(scores, **kwargs):
    """One number for each row: its code times fixed weights."""
    codes = lossfns.sinkhorn(scores, **kwargs)
    return (codes * PICK[None, : codes.shape[1]]).sum(-1, dtype=codes.dtype)


WRONG_SCORES = (
    BadCall((zeros(5), zeros(5)), ("rank 2", "(5,)")),
    BadCall((zeros(3, 0), zeros(3, 0)), ("at least one prototype", "(3, 0)")),
    BadCall((zeros(3, 5), zeros(3, 4)), ("(3, 5)", "(3, 4)")),
    BadCall((zeros(3, 5, dtype=np.int32), zeros(3, 5)), ("floating", "int32")),
)
SINKHORN = LossCase(
    summed_codes,
    lambda rng, rows: scores(rng, rows)[:1],
    lambda scores, **kwargs: oracles.sinkhorn(scores, **kwargs) @ np.float64(PICK),
    variants=({}, {"epsilon": 0.5, "iterations": 7}),
    sweep={"epsilon": (0.05, 0.1, 0.2)},
    differentiable=(),
    batch_coupled=True,
    condition=lambda kwargs: 1 / kwargs.get("epsilon", 0.05),
    limits={
        "rows sum to one": lambda x: (lossfns.sinkhorn(*x).sum(-1), np.ones(6)),
        "columns sum to N over K": lambda x: (
            lossfns.sinkhorn(*x, epsilon=0.2, iterations=100).sum(0),
            np.full(PROTOTYPES, 6 / PROTOTYPES),
        ),
        "no round is the softmax": lambda x: (
            lossfns.sinkhorn(*x, epsilon=0.2, iterations=0),
            jax.nn.softmax(x[0] / 0.2, -1),
        ),
    },
    bad_calls=(
        *(BadCall(call.args[:1], call.words) for call in (WRONG_SCORES[0], WRONG_SCORES[1], WRONG_SCORES[3])),
        BadCall((zeros(3, 5),), ("epsilon", "positive", "0"), {"epsilon": 0}),
        BadCall((zeros(3, 5),), ("iterations", "at least 0", "-1"), {"iterations": -1}),
        BadCall((zeros(3, 5),), ("iterations", "integer", "2.5"), {"iterations": 2.5}),
    ),
)


def naive_swav(a, b):
    def codes(x):
        q = jnp.exp(x / 0.05)
        for _ in range(3):
            q = q / q.sum(0)[None]
            q = q / q.sum(1, keepdims=True)
        return jax.lax.stop_gradient(q)

    p, r = (jnp.log(jax.nn.softmax(x / 0.1, -1)) for x in (a, b))
    return -((codes(b) * p).sum(-1) + (codes(a) * r).sum(-1)) / 2


def with_constant_codes(a, b):
    """SwAV by sinkhorn's codes and soft cross-entropies."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    costs = [lossfns.soft_cross_entropy(x / 0.1, lossfns.sinkhorn(y)) for x, y in ((a, b), (b, a))]
    return (costs[0] + costs[1]) / 2


SWAV = LossCase(
    lossfns.swav,
    scores,
    oracles.swav,
    naive_swav,
    unlike_differences={"epsilon": "the codes are constants"},
    variants=({}, {"temperature": 0.5, "epsilon": 0.2}),
    hostile=lambda rng: {"one round": (scores(rng, 6), {"iterations": 1})},
    sweep={"temperature": (0.1, 0.2, 0.3), "epsilon": (0.05, 0.1, 0.2)},
    batch_coupled=True,
    condition=lambda kwargs: 1 / min(kwargs.get("epsilon", 0.05), kwargs.get("temperature", 0.1)),
    symmetric=((0, 1),),
    non_negative=True,
    limits={
        "sinkhorn's codes and soft cross-entropies": lambda x: (lossfns.swav(*x), with_constant_codes(*x)),
    },
    bad_calls=(
        *WRONG_SCORES,
        BadCall((zeros(3, 5), zeros(3, 5)), ("temperature", "positive", "0"), {"temperature": 0}),
        BadCall((zeros(3, 5), zeros(3, 5)), ("iterations", "integer", "True"), {"iterations": True}),
    ),
    skip={"gradients": "its codes are constants, so the gradient is not the slope; test_joint_embedding.py has it"},
)


def naive_msn(a, b):
    p, q = jax.nn.softmax(a / 0.1, -1), jax.lax.stop_gradient(jax.nn.softmax(b / 0.025, -1))
    mean = p.mean(0)
    return -(q * jnp.log(p)).sum(-1) + jnp.log(float(p.shape[1])) + (mean * jnp.log(mean)).sum()


MSN = LossCase(
    lossfns.msn,
    scores,
    oracles.msn,
    naive_msn,
    nan_stays={1: "without rounds the target of a row is its own"},
    variants=({}, {"entropy_weight": 5.0, "sinkhorn_iterations": 2, "target_temperature": 0.1}),
    sweep={
        "temperature": (0.1, 0.2, 0.3),
        "target_temperature": (0.02, 0.03, 0.04),
        "entropy_weight": (1.0, 2.0, 5.0),
    },
    batch_coupled=True,
    differentiable=(0,),
    condition=lambda kwargs: 1 / min(kwargs.get("temperature", 0.1), kwargs.get("target_temperature", 0.025)),
    shift_invariant=(0, 1),
    non_negative=True,
    limits={
        "DINO without the entropy": lambda x: (
            lossfns.msn(*x, entropy_weight=0.0),
            lossfns.dino(*x, teacher_temperature=0.025),
        ),
    },
    bad_calls=(
        *WRONG_SCORES,
        BadCall((zeros(3, 5), zeros(3, 5)), ("target_temperature", "positive", "0"), {"target_temperature": 0}),
        BadCall((zeros(3, 5), zeros(3, 5)), ("entropy_weight", "at least 0", "-1"), {"entropy_weight": -1}),
    ),
)


CASES = {
    "msn": MSN,
    "sinkhorn": SINKHORN,
    "swav": SWAV,
}
