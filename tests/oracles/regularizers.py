"""Oracles of the functions of parameters."""

import math

import numpy as np

from tests.oracles.common import log_sum_exp


def entries(tree):
    """All numbers of a dict of arrays."""
    return [float(x) for name in sorted(tree) for x in np.ravel(tree[name])]


def l1(params, *, weight=1.0):
    return weight * math.fsum(abs(x) for x in entries(params))


def l2(params, *, weight=1.0, half=False):
    return weight * math.fsum(x * x for x in entries(params)) / (2 if half else 1)


def proximal(params, anchor, *, weight=1.0, half=False):
    squares = [(x - y) ** 2 for x, y in zip(entries(params), entries(anchor), strict=True)]
    return weight * math.fsum(squares) / (2 if half else 1)


def elastic_net(params, *, l1_weight=1.0, l2_weight=1.0):
    return l1(params, weight=l1_weight) + l2(params, weight=l2_weight)


def l2_sp(params, start, new, *, start_weight=0.1, new_weight=0.01):
    return proximal(params, start, weight=start_weight, half=True) + l2(new, weight=new_weight, half=True)


def ewc(params, anchor, fisher, *, weight=1.0):
    triples = list(zip(entries(params), entries(anchor), entries(fisher), strict=True))
    if any(not f >= 0 for _, _, f in triples):
        return math.nan
    return weight / 2 * math.fsum(f * (x - y) ** 2 for x, y, f in triples)


def orthogonality(params, *, weight=1.0, side="columns"):
    """Inner products of all pairs of columns, or rows, less 1 on the diagonal, squared."""
    total = 0.0
    for name in params:
        matrix = np.reshape(params[name], (-1, params[name].shape[-1]))
        for vectors in [matrix.T] * (side != "rows") + [matrix] * (side != "columns"):
            for i, a in enumerate(vectors):
                for j, b in enumerate(vectors):
                    total += (math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True)) - (i == j)) ** 2
    return weight * total


def probabilities(row):
    """The softmax; None without any class. Logits of +inf share it all."""
    row = [float(x) for x in row]
    if math.inf in row:
        return [(x == math.inf) / row.count(math.inf) for x in row]
    z = log_sum_exp(row)
    return None if z == -math.inf else [math.exp(x - z) for x in row]


def by_row(formula):
    def oracle(logits, *others, **kwargs):
        rows = [x.reshape(-1, x.shape[-1]) for x in (logits, *others)]
        values = [formula(*given, **kwargs) for given in zip(*rows, strict=True)]
        return np.array(values).reshape(logits.shape[:-1])

    return oracle


@by_row
def entropy_minimization(row):
    p = probabilities(row)
    return math.nan if p is None else -math.fsum(x * math.log(x) for x in p if x)


@by_row
def confidence_penalty(row, *, threshold=None):
    p = probabilities(row)
    if p is None:
        return math.nan
    entropy = -math.fsum(x * math.log(x) for x in p if x)
    return -entropy if threshold is None else max(0.0, threshold - entropy)


@by_row
def r_drop(row_a, row_b):
    """Both divergences by the logits, which do not underflow: log p_k - log q_k."""
    p, q = probabilities(row_a), probabilities(row_b)
    za, zb = log_sum_exp([float(x) for x in row_a]), log_sum_exp([float(x) for x in row_b])
    total = 0.0
    for a, b, pa, pb in zip(row_a, row_b, p, q, strict=True):
        if a == b == -math.inf:
            continue
        total += (pa - pb) * ((float(a) - za) - (float(b) - zb)) / 2
    return total


@by_row
def router_z(row):
    return log_sum_exp([float(x) for x in row]) ** 2


def moe_load_balance(logits, *, top_k=1):
    """Fedus 2021, equations 4 to 6, with the shares of all choices."""
    tokens, experts = logits.shape
    load, mass = [0.0] * experts, [0.0] * experts
    for row in logits:
        for e in sorted(range(experts), key=lambda e, row=row: (-row[e], e))[:top_k]:
            load[e] += 1 / (tokens * top_k)
        for e, p in enumerate(probabilities(row)):
            mass[e] += p / tokens
    return np.full(tokens, experts * math.fsum(f * p for f, p in zip(load, mass, strict=True)))


WIDE = np.array([[1, -2, 3], [2, 1, -1], [-1, 2, 2], [3, -1, 1]]) / 8
OUT = np.array([[2, -1, 1], [-2, 3, 1], [1, 1, -3]]) / 4
"""Weights of a small network that are exact in any dtype."""


def network(x):
    return np.tanh(x @ WIDE) @ OUT


def network_slope(x):
    """d logits / d x of one input, [features, classes]."""
    return WIDE @ np.diag(1 - np.tanh(x @ WIDE) ** 2) @ OUT


def vat(inputs, directions, *, epsilon=1.0, steps=1):
    """Miyato 2017, section 3.3, with the Hessian of the divergence written out."""
    values = []
    for x, d in zip(inputs, directions, strict=True):
        p, slope = np.array(probabilities(network(x))), network_slope(x)
        hessian = slope @ (np.diag(p) - np.outer(p, p)) @ slope.T
        d = d / math.sqrt(d @ d) if d.any() else d
        for _ in range(steps):
            d = hessian @ d
            d = d / np.abs(d).max() if d.any() else d
            d = d / math.sqrt(d @ d) if d.any() else d
        q = np.array(probabilities(network(x + epsilon * d)))
        values.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a))
    return np.array(values)


def gradient_penalty(inputs, *, target=1.0, one_sided=False):
    """Of the network's first score."""
    lengths = [math.sqrt(math.fsum(g * g for g in network_slope(x)[:, 0])) for x in inputs]
    excess = [length - target for length in lengths]
    return np.array([max(e, 0.0) ** 2 if one_sided else e**2 for e in excess])


def fisher_diagonal(params, x, y):
    """Of a linear model with noise of variance 1: the mean of ((y - x w - b) x)^2, bias first."""
    errors = [float(b) - float(a @ params["weight"]) - float(params["bias"]) for a, b in zip(x, y, strict=True)]
    slopes = np.array([[e, *(e * np.asarray(a))] for e, a in zip(errors, x, strict=True)]).reshape(-1, x.shape[1] + 1)
    return np.mean(slopes**2, axis=0) if len(slopes) else np.zeros(x.shape[1] + 1)
