"""Cases of `lossfns.distillation.linear`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import FEATURES, GONE, HEAD, NO_FORWARD_MODE, VOCABULARY, logits_of, zeros
from tests.oracles.distillation import linear as oracles

TEACHER_HEAD = np.random.default_rng(1).integers(-8, 9, (VOCABULARY, 3)).astype(np.float32) / 8


def linear_distillation(student, teacher, *, head=HEAD, teacher_head=TEACHER_HEAD, teacher_bias=None, **options):
    heads = jnp.asarray(head).astype(student.dtype), jnp.asarray(teacher_head).astype(teacher.dtype)
    bias = None if teacher_bias is None else jnp.asarray(teacher_bias).astype(teacher.dtype)
    return lossfns.linear_distillation(student, heads[0], teacher, heads[1], teacher_bias=bias, **options)


def two_models(rng, rows):
    return 2 * rng.normal(size=(rows, FEATURES)), 2 * rng.normal(size=(rows, 3))


def naive_distillation(student, teacher):
    p = jax.nn.softmax(teacher @ jnp.asarray(TEACHER_HEAD).astype(teacher.dtype).T, -1)
    return (p * (jnp.log(p) - jnp.log(jax.nn.softmax(logits_of(student), -1)))).sum(-1)


DISTILLATION = LossCase(
    linear_distillation,
    two_models,
    lambda *args, head=HEAD, teacher_head=TEACHER_HEAD, **options: oracles.linear_distillation(
        *args, student_head=head, teacher_head=teacher_head, **options
    ),
    naive_distillation,
    name="linear_distillation",
    variants=({}, {"temperature": 2.0, "block_size": 3}),
    sweep={"temperature": (1.0, 2.0, 4.0)},
    differentiable=(0,),
    modes=NO_FORWARD_MODE,
    hostile=lambda rng: {"a class the teacher lacks": (two_models(rng, 3), {"teacher_bias": GONE, "block_size": 2})},
    limits={
        "knowledge_distillation of the logits": lambda x: (
            linear_distillation(*map(jnp.asarray, x)),
            lossfns.knowledge_distillation(logits_of(jnp.asarray(x[0])), jnp.asarray(x[1]) @ TEACHER_HEAD.T),
        ),
        "KL(p || p) = 0": lambda x: (
            linear_distillation(*map(jnp.asarray, (x[0], x[0])), teacher_head=HEAD),
            zeros(len(x[0])),
        ),
    },
    bad_calls=(
        BadCall((zeros(3, 5), zeros(3, 3)), ("student_hidden", "4 features", "(3, 5)")),
        BadCall((zeros(3, 4), zeros(3, 3)), ("teacher_head", "7 classes", "(6, 3)"), {"teacher_head": zeros(6, 3)}),
        BadCall((zeros(3, 4), zeros(2, 3)), ("teacher_hidden", "(3,)", "(2, 3)")),
        BadCall((zeros(3, 4), zeros(3, 3)), ("temperature", "positive", "0"), {"temperature": 0}),
        BadCall((zeros(3, 4), zeros(3, 3)), ("precision", "'highest'", "3"), {"precision": 3}),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 3)), ("student_hidden", "floating", "int32")),
    ),
)


CASES = {
    "linear_distillation": DISTILLATION,
}
