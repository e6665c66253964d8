"""Oracles of the distillation losses."""

import math

import numpy as np

from tests.oracles.common import cosine, log_sum_exp, softplus
from tests.oracles.regression import huber


def log_softmax(row):
    z = log_sum_exp(row)
    return [x - z if x > -math.inf else -math.inf for x in row]


def divergence(p, q):
    """KL(p || q) of log-probabilities."""
    terms = [math.exp(a) * (a - b) if b > -math.inf else math.inf for a, b in zip(p, q, strict=True) if a > -math.inf]
    return math.fsum(terms) if p and not all(a == -math.inf for a in p) else math.nan


def each_row(function, student, teacher, *more):
    values = np.zeros(student.shape[:-1])
    for index in np.ndindex(values.shape):
        values[index] = function(student[index].tolist(), teacher[index].tolist(), *(x[index] for x in more))
    return values


def knowledge_distillation(student, teacher, *, temperature=1.0):
    """Hinton 2015: T^2 KL(teacher || student), both at temperature T."""

    def one(s, t):
        s, t = [x / temperature for x in s], [x / temperature for x in t]
        return temperature**2 * divergence(log_softmax(t), log_softmax(s))

    return each_row(one, student, teacher)


def dkd(student, teacher, labels, *, temperature=4.0, target_weight=1.0, others_weight=8.0):
    """Zhao 2022, eq. 7: TCKD on (p_y, 1 - p_y), NCKD on the other classes renormalised."""

    def one(s, t, label):
        s, t = [x / temperature for x in s], [x / temperature for x in t]
        others_s = [x for k, x in enumerate(s) if k != label]
        others_t = [x for k, x in enumerate(t) if k != label]
        target = divergence(
            log_softmax([t[label], log_sum_exp(others_t)]), log_softmax([s[label], log_sum_exp(others_s)])
        )
        rest = 0.0 if log_sum_exp(others_t) == -math.inf else divergence(log_softmax(others_t), log_softmax(others_s))
        return temperature**2 * (target_weight * target + others_weight * rest)

    return each_row(one, student, teacher, labels)


def reverse_kl(student, teacher):
    return each_row(lambda s, t: divergence(log_softmax(s), log_softmax(t)), student, teacher)


def generalized_jsd(student, teacher, *, beta=0.5, normalize=False):
    """Agarwal 2023, eq. 1; divided by beta (1 - beta) it goes over into the two divergences."""

    def one(s, t):
        s, t = log_softmax(s), log_softmax(t)
        if beta in (0, 1):
            return (divergence(t, s) if beta == 0 else divergence(s, t)) if normalize else 0.0
        m = [log_sum_exp([math.log(beta) + b, math.log(1 - beta) + a]) for a, b in zip(s, t, strict=True)]
        value = beta * divergence(t, m) + (1 - beta) * divergence(s, m)
        return value / (beta * (1 - beta)) if normalize else value

    return each_row(one, student, teacher)


def total_variation(student, teacher):
    def one(s, t):
        pairs = zip(log_softmax(s), log_softmax(t), strict=True)
        return math.fsum(abs(math.exp(a) - math.exp(b)) for a, b in pairs) / 2

    return each_row(one, student, teacher)


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
