"""Cases of `lossfns.distillation.logits`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import CLASSES, hostile_pairs, naive_kl, nearly_alike, two_rows, zeros
from tests.oracles.distillation import logits as oracles

WRONG_PAIRS = (
    BadCall((zeros(3, 4), zeros(3, 5)), ("teacher_logits", "(3, 4)", "(3, 5)")),
    BadCall((zeros(), zeros()), ("student_logits", "at least one class", "()")),
    BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("student_logits", "floating", "int32")),
)
COMMON = {"differentiable": (0,), "shift_invariant": (0, 1), "non_negative": True}


def gap_of_two_hundred(rng):
    """Where the softmax of one side underflows."""
    return {"a gap of 400 T": ((np.array([[400.0, 0.0, 1.0]]), np.array([[0.0, 400.0, 2.0]])), {})}


KNOWLEDGE_DISTILLATION = LossCase(
    lossfns.knowledge_distillation,
    two_rows,
    oracles.knowledge_distillation,
    naive_kl,
    variants=({}, {"temperature": 4.0}),
    sweep={"temperature": (1.0, 2.0, 4.0)},
    hostile=lambda rng: hostile_pairs(rng) | gap_of_two_hundred(rng),
    limits={
        "a student like the teacher": lambda inputs: (
            lossfns.knowledge_distillation(inputs[0], inputs[0], temperature=3.0),
            zeros(6),
        ),
        "near logits at a high temperature": lambda inputs: nearly_alike(
            lambda *pair: lossfns.knowledge_distillation(*pair, temperature=20.0),
            lambda *pair: oracles.knowledge_distillation(*pair, temperature=20.0),
            inputs,
        ),
        "at temperature 1 the divergence": lambda inputs: (
            lossfns.knowledge_distillation(*inputs),
            lossfns.kl_divergence(*inputs),
        ),
    },
    bad_calls=(
        *WRONG_PAIRS,
        BadCall((zeros(3, 4), zeros(3, 4)), ("temperature", "positive", "0"), {"temperature": 0}),
    ),
    **COMMON,
)


def labelled_pairs(rng, rows):
    return *two_rows(rng, rows), rng.integers(0, CLASSES, rows).astype(np.int32)


def split_distillation(inputs):
    """Zhao 2022, eq. 7: plain distillation is TCKD plus 1 - p of the teacher times NCKD."""
    student, teacher, labels = inputs
    target = lossfns.dkd(*inputs, temperature=1.0, others_weight=0.0)
    others = lossfns.dkd(*inputs, temperature=1.0, target_weight=0.0, others_weight=1.0)
    doubt = 1 - jnp.take_along_axis(jax.nn.softmax(teacher), labels[:, None], 1)[:, 0]
    return lossfns.knowledge_distillation(student, teacher), target + doubt * others


def hostile_labelled_pairs(rng):
    inf = np.inf
    student, teacher, labels = labelled_pairs(rng, 6)
    far = np.zeros((6, CLASSES))
    far[:, 0], far[:, 1] = 400, -400
    return {
        "logits + 1e4": ((student + 1e4, teacher - 1e4, labels), {}),
        "the label 400 T below": ((4 * far, -4 * far, labels), {}),
        "equal": ((student, student, labels), {}),
        "classes at -inf": ((np.array([[0.0, -inf, 1]]), np.array([[0.5, -inf, 2]]), np.array([0])), {}),
        "two classes": ((student[:, :2], teacher[:, :2], labels % 2), {}),
        "only the label exists": ((np.array([[0.0, 1.0]]), np.array([[0.0, -inf]]), np.array([0])), {}),
    }


DKD = LossCase(
    lossfns.dkd,
    labelled_pairs,
    oracles.dkd,
    variants=({}, {"temperature": 1.0, "target_weight": 2.0, "others_weight": 0.5}),
    sweep={"temperature": (1.0, 2.0, 4.0), "target_weight": (0.0, 1.0, 2.0), "others_weight": (0.0, 1.0, 8.0)},
    labels=2,
    hostile=hostile_labelled_pairs,
    limits={
        "plain distillation is its two parts": split_distillation,
        "near logits": lambda inputs: nearly_alike(lossfns.dkd, oracles.dkd, inputs, 1e4),
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5), zeros(3, dtype=np.int32)), ("teacher_logits", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3, 1), zeros(3, 1), zeros(3, dtype=np.int32)), ("student_logits", "at least two", "(3, 1)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(4, dtype=np.int32)), ("labels", "(3,)", "(4,)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, dtype=np.int32)), ("others_weight", "-1"), {"others_weight": -1}),
    ),
    **COMMON,
)
REVERSE_KL = LossCase(
    lossfns.reverse_kl,
    two_rows,
    oracles.reverse_kl,
    lambda student, teacher: naive_kl(teacher, student),
    hostile=lambda rng: hostile_pairs(rng) | gap_of_two_hundred(rng),
    limits={
        "KL(p || p) = 0": lambda inputs: (lossfns.reverse_kl(inputs[0], inputs[0]), zeros(6)),
        "near logits": lambda inputs: nearly_alike(lossfns.reverse_kl, oracles.reverse_kl, inputs),
    },
    bad_calls=WRONG_PAIRS,
    **COMMON,
)
JSD = LossCase(
    lossfns.generalized_jsd,
    two_rows,
    oracles.generalized_jsd,
    variants=({}, {"beta": 0.1}, {"beta": 0.9, "normalize": True}),
    sweep={"beta": (0.1, 0.5, 0.9)},
    hostile=lambda rng: (
        hostile_pairs(rng)
        | {
            "beta 0": (two_rows(rng, 6), {"beta": 0.0}),
            "beta 0, normalised": (two_rows(rng, 6), {"beta": 0.0, "normalize": True}),
            "beta 1, normalised": (two_rows(rng, 6), {"beta": 1.0, "normalize": True}),
        }
    ),
    limits={
        "near logits": lambda inputs: nearly_alike(lossfns.generalized_jsd, oracles.generalized_jsd, inputs),
        "half and half is Jensen and Shannon's": lambda inputs: (
            lossfns.generalized_jsd(*inputs),
            lossfns.jensen_shannon(*inputs),
        ),
        "beta 0 is KL(teacher || student)": lambda inputs: (
            lossfns.generalized_jsd(*inputs, beta=0.0, normalize=True),
            lossfns.kl_divergence(*inputs),
        ),
        "beta 1 is KL(student || teacher)": lambda inputs: (
            lossfns.generalized_jsd(*inputs, beta=1.0, normalize=True),
            lossfns.reverse_kl(*inputs),
        ),
    },
    bad_calls=(
        *WRONG_PAIRS,
        BadCall((zeros(3, 4), zeros(3, 4)), ("beta", "between 0 and 1", "1.5"), {"beta": 1.5}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("normalize", "True or False", "2"), {"normalize": 2}),
    ),
    **COMMON,
)
TOTAL_VARIATION = LossCase(
    lossfns.total_variation,
    two_rows,
    oracles.total_variation,
    smooth=False,
    hostile=lambda rng: {k: v for k, v in hostile_pairs(rng).items() if "+inf" not in k},
    bad_calls=WRONG_PAIRS,
    **COMMON,
)


CASES = {
    "dkd": DKD,
    "generalized_jsd": JSD,
    "knowledge_distillation": KNOWLEDGE_DISTILLATION,
    "reverse_kl": REVERSE_KL,
    "total_variation": TOTAL_VARIATION,
}
