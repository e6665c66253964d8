"""Rows of distillation on features and on relations between examples."""

import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import distillation as oracles
from tests.rows import zeros
from tests.rows.contrastive import two_views

CONSTANT_TEACHER = {"differentiable": (0,), "non_negative": True}
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
        BadCall((zeros(3, 4, 2), zeros(3, 5, 2)), ("same places", "(3, 4, 2)", "(3, 5, 2)")),
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


def spaces(rng, rows):
    return rng.normal(size=(rows, 3)), rng.normal(size=(rows, 4))


WRONG_SPACES = (
    BadCall((zeros(3, 4), zeros(4, 4)), ("teacher_embeddings", "(3, 4)", "(4, 4)")),
    BadCall((zeros(3), zeros(3)), ("student_embeddings", "rank 2", "(3,)")),
    BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("student_embeddings", "floating", "int32")),
)


def far_and_near(rng):
    student, teacher = spaces(rng, 6)
    return {
        "entries of 1e25": ((student * 1e25, teacher * 1e25), {}),
        "entries of 1e-25": ((student * 1e-25, teacher * 1e-25), {}),
        "two rows": ((student[:2], teacher[:2]), {}),
    }


COUPLED = {
    "batch_coupled": True,
    "scale_invariant": (0, 1),
    "hostile": far_and_near,
    **CONSTANT_TEACHER,
}
DISTANCE = LossCase(
    lossfns.relational_distance,
    spaces,
    oracles.relational_distance,
    smooth=False,  # the Huber loss and the distance have no second derivative everywhere
    limits={
        "turned and scaled": lambda inputs: (
            lossfns.relational_distance(inputs[0][:, ::-1] * 4, inputs[1]),
            lossfns.relational_distance(*inputs),
        )
    },
    bad_calls=WRONG_SPACES,
    **COUPLED,
)
ANGLE = LossCase(
    lossfns.relational_angle,
    spaces,
    oracles.relational_angle,
    smooth=False,
    condition=lambda kwargs: 8.0,  # differences of nearby points are divided by their length
    limits={
        "moved": lambda inputs: (
            lossfns.relational_angle(inputs[0] + 1, inputs[1]),
            lossfns.relational_angle(*inputs),
        )
    },
    bad_calls=WRONG_SPACES,
    **COUPLED,
)
SIMILARITY = LossCase(
    lossfns.similarity_preserving,
    spaces,
    oracles.similarity_preserving,
    bad_calls=(
        BadCall((zeros(3, 4), zeros(4, 4)), ("teacher_features", "(3, 4)", "(4, 4)")),
        BadCall((zeros(3), zeros(3)), ("student_features", "axis of examples", "(3,)")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("student_features", "floating", "int32")),
    ),
    **COUPLED,
)
BANK = np.random.default_rng(7).integers(-8, 9, (5, 4)).astype(np.float32) / 4  # exact in bfloat16


def crd_with_bank(student, teacher, **kwargs):
    return lossfns.crd(student, teacher, BANK.astype(student.dtype), **kwargs)


CRD = LossCase(
    crd_with_bank,
    two_views,
    lambda student, teacher, **kwargs: oracles.crd(student, teacher, np.float64(BANK), **kwargs),
    name="crd",
    variants=({"dataset_size": 50.0, "temperature": 0.5}, {"dataset_size": 50.0}),
    sweep={"temperature": (0.1, 0.2, 0.5), "dataset_size": (50.0, 60.0, 70.0)},
    scale_invariant=(0, 1),
    condition=lambda kwargs: 5 / kwargs.get("temperature", 0.07),  # five negatives, each divided by the temperature
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("teacher_embeddings", "(3, 4)", "(3, 5)"), {"dataset_size": 9}),
        BadCall((zeros(3, 3), zeros(3, 3)), ("negatives", "(5, 3)", "(5, 4)"), {"dataset_size": 9}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("dataset_size", "positive", "0"), {"dataset_size": 0}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("temperature", "positive", "-1"), {"dataset_size": 9, "temperature": -1}),
    ),
    **CONSTANT_TEACHER,
)


ROWS = {
    "attention_transfer": ATTENTION,
    "crd": CRD,
    "fitnet_hint": HINT,
    "minilm": MINILM,
    "relational_angle": ANGLE,
    "relational_distance": DISTANCE,
    "similarity_preserving": SIMILARITY,
}
