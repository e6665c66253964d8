"""Slow float64 oracles, written from the papers in plain loops, with limits in place of infinities.

They know nothing of masks, devices or dtypes; each value is worked out alone.
"""

import math

import numpy as np


def log_sum_exp(row):
    """log sum_k exp(x_k); -inf for nothing."""
    top = max(row, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(x - top) for x in row))


def negative_log_probability(row, k):
    """-log softmax(row)_k, in the limit as one logit grows to +inf: all of the probability is there."""
    if math.inf in row:
        return 0.0 if row[k] == math.inf else math.inf
    return log_sum_exp(row) - row[k] if row[k] > -math.inf else math.inf


def cross_entropy_of_row(row, label, label_smoothing=0.0, smoothing_over="all", z_loss=0.0, soft_cap=None):
    """Szegedy 2016: 1 - e at the label and e over the classes that exist; PaLM's z-loss; Gemma 2's soft cap."""
    if soft_cap is not None:
        row = [x if x == -math.inf else soft_cap * math.tanh(x / soft_cap) for x in row]
    value = negative_log_probability(row, label)
    if label_smoothing:
        reached = [k for k, x in enumerate(row) if x > -math.inf and (smoothing_over == "all" or k != label)]
        spread = [negative_log_probability(row, k) for k in reached] or [value]
        value = (1 - label_smoothing) * value + label_smoothing * math.fsum(spread) / len(spread)
    if z_loss:
        value += z_loss * log_sum_exp(row) ** 2
    return value


def softmax_cross_entropy(logits, labels, **kwargs):
    values = np.zeros(labels.shape)
    for index in np.ndindex(labels.shape):
        values[index] = cross_entropy_of_row(logits[index].tolist(), int(labels[index]), **kwargs)
    return values


def soft_cross_entropy(logits, targets):
    """-sum_k t_k log p_k with 0 log 0 = 0."""
    values = np.zeros(logits.shape[:-1])
    for index in np.ndindex(values.shape):
        row, target = logits[index].tolist(), targets[index]
        values[index] = sum(t * negative_log_probability(row, k) for k, t in enumerate(target) if t)
    return values


def softplus(x):
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid_cross_entropy(logits, targets, *, label_smoothing=0.0, positive_weight=1.0):
    """-w t log s(x) - (1 - t) log s(-x), the target drawn towards 1/2 by the smoothing."""
    values = np.zeros(logits.shape)
    for index in np.ndindex(values.shape):
        x, t = logits[index], targets[index] * (1 - label_smoothing) + label_smoothing / 2
        positive = positive_weight * t * softplus(-x) if t else 0.0
        negative = (1 - t) * softplus(x) if t != 1 else 0.0
        values[index] = positive + negative
    return values


def squared_error(predictions, targets):
    errors = [p - t for p, t in zip(predictions.ravel(), targets.ravel(), strict=True)]
    return np.array([e * e for e in errors]).reshape(targets.shape)


def absolute_error(predictions, targets):
    errors = [p - t for p, t in zip(predictions.ravel(), targets.ravel(), strict=True)]
    return np.array([abs(e) for e in errors]).reshape(targets.shape)


def huber(predictions, targets, *, delta=1.0):
    """Huber 1964: e^2 / 2 up to delta, delta (|e| - delta / 2) beyond."""
    values = np.zeros(targets.shape)
    for index in np.ndindex(values.shape):
        e = abs(predictions[index] - targets[index])
        values[index] = e * e / 2 if e <= delta else delta * (e - delta / 2)
    return values


def cosine(a, b):
    """0 with the zero vector."""
    a, b = np.asarray(a), np.asarray(b)
    norms = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(a @ b) / norms if norms else 0.0


def nt_xent(view_a, view_b, *, temperature=0.5, block_size=None):
    """SimCLR, algorithm 1: both views are anchors, only the anchor itself is left out; a pair has the mean of two."""
    pairs = len(view_a)
    z = [view for pair in zip(view_a, view_b, strict=True) for view in pair]
    values = np.zeros(pairs)
    for i in range(2 * pairs):
        positive = i + 1 if i % 2 == 0 else i - 1
        scores = [cosine(z[i], z[k]) / temperature for k in range(2 * pairs) if k != i]
        values[i // 2] += (log_sum_exp(scores) - cosine(z[i], z[positive]) / temperature) / 2
    return values


def first_of_two(logits, answers):
    """BERT's and ALBERT's heads: a true answer is class 0."""
    return softmax_cross_entropy(logits, np.where(answers, 0, 1))


def next_token_where(tokens, segment_ids=None):
    """A token is scored if its row and segment have one before it."""
    scored = np.zeros(tokens.shape)
    for row, position in np.ndindex(tokens.shape):
        joined = segment_ids is None or segment_ids[row, position] == segment_ids[row, position - 1]
        scored[row, position] = position > 0 and joined
    return scored


def next_token(logits, tokens, segment_ids=None):
    """-log p(t_i | t_<i) at i, by the logits of i - 1."""
    scored = next_token_where(tokens, segment_ids)
    values = np.zeros(tokens.shape)
    for row, i in np.argwhere(scored):
        values[row, i] = negative_log_probability(logits[row, i - 1].tolist(), int(tokens[row, i]))
    return values


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


def weighted_sum(values, weights):
    return math.fsum(float(v) * float(w) for v, w in zip(values.ravel(), weights.ravel(), strict=True) if w)


def weighted_mean(values, weights):
    total = math.fsum(map(float, weights.ravel()))
    return weighted_sum(values, weights) / total if total else 0.0
