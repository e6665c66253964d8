"""Oracles of `lossfns.distillation.relations`."""

import math

import numpy as np

from tests.oracles._shared import cosine, softplus
from tests.oracles.regression.errors import huber


def relational_distance(student, teacher):
    """Park 2019, eqs. 5 to 7."""
    n = len(student)

    def potentials(x):
        d = np.array([[math.dist(a, b) for b in x] for a in x])
        mean = d.sum() / max(n * (n - 1), 1)
        return d / mean if mean else d

    gaps = huber(potentials(student), potentials(teacher))
    return np.array([math.fsum(gaps[i, j] for j in range(n) if j != i) / max(n - 1, 1) for i in range(n)])


def relational_angle(student, teacher):
    """Park 2019, eqs. 8 and 9: the angle at the example j."""
    n = len(student)
    values = np.zeros(n)
    for j in range(n):
        triples = [(i, k) for i in range(n) for k in range(n) if len({i, j, k}) == 3]
        for i, k in triples:
            s = cosine(student[i] - student[j], student[k] - student[j])
            t = cosine(teacher[i] - teacher[j], teacher[k] - teacher[j])
            values[j] += float(huber(np.array([s]), np.array([t]))[0]) / len(triples)
    return values


def similarity_preserving(student, teacher):
    """Tung 2019, eqs. 1 to 4."""

    def rows(x):
        g = np.array([[float(a.ravel() @ b.ravel()) for b in x] for a in x])
        return np.array([r / np.sqrt(r @ r) if (r != 0).any() else r for r in g])

    gaps = (rows(student) - rows(teacher)) ** 2 if len(student) else np.zeros((0, 1))
    return np.array([math.fsum(row) / len(student) for row in gaps])


def crd(student, teacher, negatives, *, dataset_size, temperature=0.07):
    """Tian 2019, eqs. 17 to 19: a critic h decides between a pair and K that are none."""
    offset = math.log(len(negatives) / dataset_size)
    values = []
    for s, t in zip(student, teacher, strict=True):
        value = softplus(offset - cosine(s, t) / temperature)
        values.append(value + math.fsum(softplus(cosine(s, n) / temperature - offset) for n in negatives))
    return np.array(values)
