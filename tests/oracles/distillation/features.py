"""Oracles of `lossfns.distillation.features`."""

import math

import numpy as np

from tests.oracles.distillation._shared import divergence, log_softmax


def fitnet_hint(student, teacher, *, half=True, average=False):
    squares = np.array([math.fsum(((s - t) ** 2).ravel()) for s, t in zip(student, teacher, strict=True)])
    return squares / (2 if half else 1) / (student[0].size if average else 1)


def attention_transfer(student, teacher, *, power=2.0, form="norm"):
    """Zagoruyko 2016, eq. 2 with p = 2."""

    def attention(x):
        q = np.array([math.fsum(abs(float(v)) ** power for v in place) for place in x.reshape(-1, x.shape[-1])])
        norm = math.sqrt(math.fsum(q * q))
        return q / norm if norm else q

    values = []
    for s, t in zip(student, teacher, strict=True):
        squares = (attention(s) - attention(t)) ** 2
        values.append(math.sqrt(math.fsum(squares)) if form == "norm" else math.fsum(squares) / len(squares))
    return np.array(values)


def minilm(q, k, v, q_t, k_t, v_t):
    """Wang 2020, eqs. 6 and 10: KL(teacher || student) of attention and of the values' relations, mean over heads."""
    batch, tokens, heads, _ = q.shape
    values = np.zeros((batch, tokens))

    def relations(x, y, b, i, h):
        scale = math.sqrt(x.shape[-1])
        return log_softmax([float(x[b, i, h] @ y[b, j, h]) / scale for j in range(tokens)])

    for b, i, h in np.ndindex(batch, tokens, heads):
        for s, t in (((q, k), (q_t, k_t)), ((v, v), (v_t, v_t))):
            values[b, i] += divergence(relations(*t, b, i, h), relations(*s, b, i, h)) / heads
    return values
