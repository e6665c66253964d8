"""Cases of `lossfns.distillation.relations`."""

import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import two_views, zeros
from tests.cases.distillation._shared import CONSTANT_TEACHER
from tests.oracles.distillation import relations as oracles


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


CASES = {
    "crd": CRD,
    "relational_angle": ANGLE,
    "relational_distance": DISTANCE,
    "similarity_preserving": SIMILARITY,
}
