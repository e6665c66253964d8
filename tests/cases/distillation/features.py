"""Cases of `lossfns.distillation.features`."""

import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.distillation._shared import CONSTANT_TEACHER
from tests.oracles.distillation import features as oracles

HINT = LossCase(
    lossfns.fitnet_hint,
    lambda rng, rows: (rng.normal(size=(rows, 2, 3)), rng.normal(size=(rows, 2, 3))),
    oracles.fitnet_hint,
    lambda s, t: ((s - t) ** 2).sum((1, 2)) / 2,
    variants=({}, {"half": False, "average": True}),
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("teacher_features", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3), zeros(3)), ("student_features", "axis of examples", "(3,)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("student_features", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("half", "True or False", "2"), {"half": 2}),
    ),
    **CONSTANT_TEACHER,
)


def maps(rng, rows):
    return rng.normal(size=(rows, 2, 2, 3)), rng.normal(size=(rows, 2, 2, 2))


def naive_attention(student, teacher):
    def attention(x):
        q = (x**2).sum(-1).reshape(len(x), -1)
        return q / (q**2).sum(-1, keepdims=True) ** 0.5

    return ((attention(student) - attention(teacher)) ** 2).sum(-1) ** 0.5


ATTENTION = LossCase(
    lossfns.attention_transfer,
    maps,
    oracles.attention_transfer,
    naive_attention,
    variants=({}, {"form": "mean_square"}, {"power": 3.0}),
    sweep={"power": (1.0, 2.0, 3.0)},
    scale_invariant=(0, 1),
    hostile=lambda rng: {
        "entries of 1e25": (tuple(x * 1e25 for x in maps(rng, 6)), {}),
        "entries of 1e-25": (tuple(x * 1e-25 for x in maps(rng, 6)), {}),
        "equal maps": ((maps(rng, 6)[0],) * 2, {"form": "mean_square"}),
    },
    bad_calls=(
        BadCall((zeros(3, 4, 2), zeros(3, 5, 2)), ("differ in C only", "(3, 4, 2)", "(3, 5, 2)")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("[N, ..., C]", "(3, 4)")),
        BadCall((zeros(3, 4, 2, dtype=np.int32), zeros(3, 4, 2)), ("student_features", "floating", "int32")),
        BadCall((zeros(3, 4, 2), zeros(3, 4, 2)), ("power", "positive", "0"), {"power": 0}),
        BadCall((zeros(3, 4, 2), zeros(3, 4, 2)), ("form", "norm", "mean"), {"form": "mean"}),
    ),
    **CONSTANT_TEACHER,
)


def heads(rng, rows):
    student = [rng.normal(size=(rows, 3, 2, 2)) for _ in range(3)]
    return *student, *(rng.normal(size=(rows, 3, 2, 4)) for _ in range(3))


MINILM = LossCase(
    lossfns.minilm,
    heads,
    oracles.minilm,
    differentiable=(0, 1, 2),
    non_negative=True,
    limits={"a student like the teacher": lambda inputs: (lossfns.minilm(*inputs[:3], *inputs[:3]), zeros(6, 3))},
    bad_calls=(
        BadCall((*[zeros(2, 3, 2, 4)] * 3, *[zeros(2, 3, 1, 4)] * 3), ("teacher", "(2, 3, 2)", "(2, 3, 1, 4)")),
        BadCall((*[zeros(2, 3, 4)] * 6,), ("student_queries", "rank 4", "(2, 3, 4)")),
        BadCall((*[zeros(2, 3, 2, 4)] * 5, zeros(2, 3, 2, 4, dtype=np.int32)), ("teacher_values", "floating", "int32")),
    ),
)


CASES = {
    "attention_transfer": ATTENTION,
    "fitnet_hint": HINT,
    "minilm": MINILM,
}
