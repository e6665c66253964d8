"""Cases of `lossfns.joint_embedding.dino`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.joint_embedding._shared import FEATURES, PROTOTYPES, wrong_pairs
from tests.oracles.joint_embedding import dino as oracles

CENTER = np.array([0.5, -0.25, 0.0, 1.0, -1.0], np.float32)


def heads(rng, rows):
    return rng.normal(size=(rows, PROTOTYPES)) / 4, rng.normal(size=(rows, PROTOTYPES)) / 4


def centered_dino(student_logits, teacher_logits, **kwargs):
    return lossfns.dino(student_logits, teacher_logits, center=CENTER, **kwargs)


def naive_dino(student, teacher, temperature=0.04, center=CENTER):
    center = jnp.expand_dims(center.astype(teacher.dtype), range(teacher.ndim - 1))
    q = jax.nn.softmax((teacher - center) / temperature, -1)
    return -(q * jnp.log(jax.nn.softmax(student / 0.1, -1))).sum(-1)


def sharpness(kwargs):
    """Rounding of a logit is divided by the temperatures."""
    return 1 / min(kwargs.get("student_temperature", 0.1), kwargs.get("teacher_temperature", 0.04))


def hostile_heads(rng):
    student, teacher = heads(rng, 6)
    far = student.copy()
    far[:, 0] = -1e4
    gone = np.where(np.arange(PROTOTYPES) == 2, -np.inf, student)
    return {
        "one prototype at -1e4": ((far, teacher), {}),
        "a prototype at -inf for both": ((gone, np.where(np.isinf(gone), gone, teacher)), {}),
        "a prototype at -inf for the student": ((gone, teacher), {}),
        "a teacher at +-1e4": ((student, 1e4 * np.sign(teacher)), {}),
    }


WRONG_HEADS = (
    *wrong_pairs("student_logits", "teacher_logits"),
    BadCall((zeros(3, 0), zeros(3, 0)), ("K of at least 1", "(3, 0)")),
    BadCall((zeros(3, 5), zeros(3, 5)), ("student_temperature", "positive", "0"), {"student_temperature": 0}),
    BadCall((zeros(3, 5), zeros(3, 5)), ("teacher_temperature", "positive", "-1"), {"teacher_temperature": -1}),
    BadCall((zeros(3, 5), zeros(3, 5)), ("block_size", "at least 1", "0"), {"block_size": 0}),
)
DINO = LossCase(
    centered_dino,
    heads,
    lambda student, teacher, **kwargs: oracles.dino(student, teacher, center=CENTER, **kwargs),
    naive_dino,
    variants=({}, {"student_temperature": 0.5, "teacher_temperature": 0.2, "block_size": 4}),
    sweep={"student_temperature": (0.1, 0.2, 0.3), "teacher_temperature": (0.04, 0.05, 0.07)},
    differentiable=(0,),
    condition=sharpness,
    hostile=hostile_heads,
    shift_invariant=(0, 1),
    non_negative=True,
    limits={
        "no centre is a centre of 0": lambda x: (lossfns.dino(*x), lossfns.dino(*x, center=np.zeros(5, np.float32))),
        "soft cross-entropy at temperature 1": lambda x: (
            lossfns.dino(*x, student_temperature=1.0, teacher_temperature=1.0),
            lossfns.soft_cross_entropy(x[0], jax.nn.softmax(x[1], -1)),
        ),
        "a hard label at temperature 0 of the teacher": lambda x: (
            lossfns.dino(*x, student_temperature=1.0, teacher_temperature=1e-6),
            lossfns.softmax_cross_entropy(x[0], x[1].argmax(-1)),
        ),
    },
    bad_calls=WRONG_HEADS,
)
DINO_CALLS = LossCase(
    lossfns.dino,
    heads,
    oracles.dino,
    condition=sharpness,
    differentiable=(0,),
    bad_calls=(
        BadCall((zeros(3, 5), zeros(3, 5)), ("center", "(5,)", "(4,)"), {"center": zeros(4)}),
        BadCall((zeros(3, 5), zeros(3, 5)), ("center", "floating", "int32"), {"center": zeros(5, dtype=np.int32)}),
    ),
    skip=dict.fromkeys(
        ("hostile inputs", "low precision", "devices = one device", "gradients", "vmap = loop", "permutation"),
        "as the row with a centre",
    ),
)
NOT_ROWS = {"devices = one device": "every device returns the global centre; tests/lossfns/test_joint_embedding.py"}
DINO_CENTER = LossCase(
    lossfns.dino_center,
    lambda rng, rows: (rng.normal(size=PROTOTYPES), rng.normal(size=(rows, PROTOTYPES))),
    oracles.dino_center,
    batched=False,
    variants=({}, {"momentum": 0.5}),
    sweep={"momentum": (0.5, 0.9, 0.99)},
    differentiable=(),
    hostile=lambda rng: {
        "no row": ((zeros(5) + 2, zeros(0, 5)), {}),
        "views and patches": ((zeros(5), rng.normal(size=(2, 3, 5))), {}),
    },
    limits={
        "momentum 1 keeps it": lambda x: (lossfns.dino_center(*x, momentum=1.0), x[0]),
        "momentum 0 is the mean": lambda x: (lossfns.dino_center(*x, momentum=0.0), x[1].mean(0)),
    },
    bad_calls=(
        BadCall((zeros(5), zeros(3, 4)), ("center", "(4,)", "(5,)")),
        BadCall((zeros(), zeros()), ("teacher_logits", "scalar")),
        BadCall((zeros(4), zeros(3, 4, dtype=np.int32)), ("teacher_logits", "floating", "int32")),
        BadCall((zeros(4), zeros(3, 4)), ("momentum", "between 0 and 1", "1.5"), {"momentum": 1.5}),
        BadCall((zeros(4), zeros(3, 4)), ("where", "(3,)", "(2,)"), {"where": np.ones(2, bool)}),
        BadCall((zeros(4), zeros(3, 4)), ("where", "boolean", "float32"), {"where": zeros(3)}),
    ),
    skip=NOT_ROWS,
)


def patches(rng, rows):
    shape = (rows, 3, PROTOTYPES)
    masked = rng.uniform(size=shape[:2]) < 0.6
    masked[:2] = [[True, True, True], [False, False, False]]
    return rng.normal(size=shape) / 4, rng.normal(size=shape) / 4, masked[:rows]


def centered_ibot(student_logits, teacher_logits, masked, **kwargs):
    return lossfns.ibot(student_logits, teacher_logits, masked, center=CENTER, **kwargs)


def naive_ibot(student, teacher, masked):
    costs = jnp.where(masked, naive_dino(student, teacher, 0.07), 0)
    return costs.sum(-1) / jnp.maximum(masked.sum(-1), 1).astype(costs.dtype)


def hostile_patches(rng):
    student, teacher, masked = patches(rng, 6)
    unseen = np.where(masked[..., None], student, np.nan), np.where(masked[..., None], teacher, np.inf)
    return {"NaN where nothing is masked": ((*unseen, masked), {})}


NO_MASK = np.ones((2, 3), bool)
IBOT = LossCase(
    centered_ibot,
    patches,
    lambda student, teacher, masked, **kwargs: oracles.ibot(student, teacher, masked, center=CENTER, **kwargs),
    naive_ibot,
    variants=({}, {"student_temperature": 0.5, "teacher_temperature": 0.2, "block_size": 5}),
    sweep={"student_temperature": (0.1, 0.2, 0.3), "teacher_temperature": (0.04, 0.05, 0.07)},
    differentiable=(0,),
    condition=lambda kwargs: sharpness({"teacher_temperature": 0.07} | dict(kwargs)),
    hostile=hostile_patches,
    shift_invariant=(0, 1),
    non_negative=True,
    bad_calls=(
        BadCall((zeros(2, 3, 5), zeros(2, 3, 4), NO_MASK), ("teacher_logits", "(2, 3, 5)", "(2, 3, 4)")),
        BadCall((zeros(5), zeros(5), NO_MASK), ("student_logits", "[..., P, K]", "(5,)")),
        BadCall((zeros(2, 3, 5), zeros(2, 3, 5), NO_MASK[:, :2]), ("masked", "(2, 3)", "(2, 2)")),
        BadCall((zeros(2, 3, 5), zeros(2, 3, 5), zeros(2, 3)), ("masked", "boolean", "float32")),
        BadCall(
            (zeros(2, 3, 5), zeros(2, 3, 5), NO_MASK), ("teacher_temperature", "positive"), {"teacher_temperature": 0}
        ),
    ),
)

# In sixteenths, which all dtypes hold.
STUDENT_HEAD, TEACHER_HEAD = np.float32(np.random.default_rng(1).integers(-8, 9, size=(2, PROTOTYPES, FEATURES)) / 16)


def featured_dino(student, teacher, **kwargs):
    heads = [x.astype(student.dtype) for x in (STUDENT_HEAD, TEACHER_HEAD)]
    return lossfns.linear_dino(student, heads[0], teacher, heads[1], center=CENTER, **kwargs)


def featured_oracle(student, teacher, *, block_size=None, **kwargs):
    logits = student @ np.float64(STUDENT_HEAD).T, teacher @ np.float64(TEACHER_HEAD).T
    return oracles.dino(*logits, center=CENTER, **kwargs)


def head_slopes(block_size):
    """Gradients of features and prototypes, by the logits or without them."""

    def slopes(inputs):
        student, teacher = map(jnp.asarray, inputs)

        def whole(x, head):
            return lossfns.dino(x @ head.T, teacher @ TEACHER_HEAD.T, center=CENTER).sum()

        def blocks(x, head):
            return lossfns.linear_dino(x, head, teacher, TEACHER_HEAD, center=CENTER, block_size=block_size).sum()

        return tuple(jax.grad(f, (0, 1))(student, jnp.asarray(STUDENT_HEAD)) for f in (blocks, whole))

    return slopes


def wrong_heads(position, value, *words, **options):
    args = [zeros(3, 4), zeros(5, 4), zeros(3, 2), zeros(5, 2)]
    args[position] = value
    return BadCall(tuple(args), words, options)


LINEAR_DINO = LossCase(
    featured_dino,
    lambda rng, rows: tuple(rng.normal(size=(rows, FEATURES)) / 2 for _ in range(2)),
    featured_oracle,
    variants=({}, {"student_temperature": 0.5, "teacher_temperature": 0.2, "block_size": 2}),
    sweep={"student_temperature": (0.1, 0.2, 0.3), "teacher_temperature": (0.04, 0.05, 0.07)},
    differentiable=(0,),
    modes=("rev",),
    condition=sharpness,
    non_negative=True,
    limits={
        "gradients of the logits' form": head_slopes(None),
        "the same by blocks of two": head_slopes(2),
    },
)
LINEAR_DINO_CALLS = (
    wrong_heads(0, zeros(4), "student", "rank 2", "(4,)"),
    wrong_heads(1, zeros(0, 4), "at least one prototype", "(0, 4)"),
    wrong_heads(1, zeros(5, 3), "student_head", "(5, 4)", "(5, 3)"),
    wrong_heads(2, zeros(2, 2), "teacher", "(3, 2)", "(2, 2)"),
    wrong_heads(3, zeros(4, 2), "teacher_head", "(5, 2)", "(4, 2)"),
    wrong_heads(0, zeros(3, 4, dtype=np.int32), "student", "floating", "int32"),
    wrong_heads(0, zeros(3, 4), "center", "(5,)", "(4,)", center=zeros(4)),
    wrong_heads(0, zeros(3, 4), "block_size", "at least 1", "0", block_size=0),
)
LINEAR_DINO_ERRORS = LossCase(
    lossfns.linear_dino,
    lambda rng, rows: (zeros(3, 4), zeros(5, 4), zeros(3, 2), zeros(5, 2)),
    batched=False,
    bad_calls=LINEAR_DINO_CALLS,
    skip=dict.fromkeys(
        (
            "oracle",
            "gradients",
            "hostile inputs",
            "low precision",
            "a NaN shows",
            "eager = jit",
            "vmap = loop",
            "devices = one device",
            "result dtype",
        ),
        "the calls of the row of fixed prototypes",
    ),
)


CASES = {
    "dino": DINO,
    "dino without a centre": DINO_CALLS,
    "dino_center": DINO_CENTER,
    "ibot": IBOT,
    "linear_dino": LINEAR_DINO,
    "linear_dino of any heads": LINEAR_DINO_ERRORS,
}
