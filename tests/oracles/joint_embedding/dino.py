"""Oracles of `lossfns.joint_embedding.dino`."""

import math

import numpy as np

from tests.oracles.joint_embedding._shared import log_softmax, rows_of


def cross_entropy_with(student, teacher):
    """-sum q log p of two rows of logits, 0 log 0 = 0."""
    p, q = log_softmax(student), [math.exp(x) for x in log_softmax(teacher)]
    return -math.fsum(w * x for w, x in zip(q, p, strict=True) if w)


def dino(
    student_logits, teacher_logits, *, center=None, student_temperature=0.1, teacher_temperature=0.04, block_size=None
):
    """Caron 2021, algorithm 1: centre, sharpen, cross-entropy."""
    center = np.zeros(student_logits.shape[-1]) if center is None else np.asarray(center, np.float64)

    def value(i):
        student = [x / student_temperature for x in student_logits[i]]
        teacher = [(x - c) / teacher_temperature for x, c in zip(teacher_logits[i], center, strict=True)]
        return cross_entropy_with(student, teacher)

    return rows_of(value, student_logits)


def dino_center(center, teacher_logits, *, momentum=0.9):
    rows = teacher_logits.reshape(-1, teacher_logits.shape[-1])
    if len(rows) == 0:
        return center
    return [momentum * c + (1 - momentum) * math.fsum(x) / len(rows) for c, x in zip(center, rows.T, strict=True)]


def ibot(student_logits, teacher_logits, masked, *, teacher_temperature=0.07, **kwargs):
    """Zhou 2022, equation 3: a mean over the masked patches of each image."""
    values = []
    for student, teacher, mask in zip(student_logits, teacher_logits, masked, strict=True):
        costs = dino(student[mask], teacher[mask], teacher_temperature=teacher_temperature, **kwargs)
        values.append(costs.mean() if len(costs) else 0.0)
    return np.array(values)
