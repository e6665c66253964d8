"""Oracles of the losses of triplets, weighed pairs, class vectors and proxies."""

import math

import numpy as np

from tests.oracles.common import cosine, log_sum_exp, softplus


def distance(norm, a, b):
    if norm == "l1":
        return math.fsum(abs(x - y) for x, y in zip(a, b, strict=True))
    squared = math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return squared if norm == "squared_l2" else math.sqrt(squared)


def triplet(anchor, positive, negative, *, margin=1.0, norm="l2", swap=False):
    """FaceNet, equation 3, for any distance; Balntas et al. for the swap."""
    values = []
    for a, p, n in zip(anchor, positive, negative, strict=True):
        far = distance(norm, a, n)
        if swap:
            far = min(far, distance(norm, p, n))
        values.append(max(0.0, margin + distance(norm, a, p) - far))
    return np.array(values)


def of_class(labels, i):
    """The positives and the negatives of anchor i."""
    others = [j for j in range(len(labels)) if j != i]
    return [j for j in others if labels[j] == labels[i]], [j for j in others if labels[j] != labels[i]]


def batch_hard_triplet(embeddings, labels, *, margin=None, norm="l2"):
    """Hermans et al., equation 5; the softplus in place of the hinge without a margin."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = of_class(labels, i)
        if positives and negatives:
            near = min(distance(norm, x, embeddings[n]) for n in negatives)
            gap = max(distance(norm, x, embeddings[p]) for p in positives) - near
            values[i] = softplus(gap) if margin is None else max(0.0, margin + gap)
    return values


def semi_hard_triplet(embeddings, labels, *, margin=0.2, norm="squared_l2"):
    """FaceNet, section 3.2: the nearest of the negatives that are farther than the positive."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = of_class(labels, i)
        if not positives or not negatives:
            continue
        for p in positives:
            near, away = distance(norm, x, embeddings[p]), [distance(norm, x, embeddings[n]) for n in negatives]
            farther = [d for d in away if d > near]
            values[i] += max(0.0, margin + near - (min(farther) if farther else max(away))) / len(positives)
    return values


def n_pairs(anchors, positives, *, length_weight=0.0, block_size=None):
    """Sohn, equation 6."""
    values = np.zeros(len(anchors))
    for i, a in enumerate(anchors):
        gaps = [a @ positives[j] - a @ positives[i] for j in range(len(anchors)) if j != i]
        values[i] = softplus(log_sum_exp(gaps)) if gaps else 0
        values[i] += length_weight * (a @ a + positives[i] @ positives[i])
    return values


def circle(embeddings, labels, *, scale=80.0, margin=0.4, weights_gradient=False, block_size=None):
    """Circle loss, equations 5 to 8."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = ([cosine(x, embeddings[j]) for j in part] for part in of_class(labels, i))
        if positives and negatives:
            pull = [-scale * max(1 + margin - s, 0) * (s - (1 - margin)) for s in positives]
            push = [scale * max(s + margin, 0) * (s - margin) for s in negatives]
            values[i] = softplus(log_sum_exp(pull) + log_sum_exp(push))
    return values


def multi_similarity(embeddings, labels, *, alpha=2.0, beta=50.0, threshold=1.0, mining_margin=0.1):
    """Multi-similarity, equations 10, 11 and 15."""
    values = np.zeros(len(labels))
    for i, x in enumerate(embeddings):
        positives, negatives = ([cosine(x, embeddings[j]) for j in part] for part in of_class(labels, i))
        if mining_margin is not None:
            least, most = min(positives, default=math.inf), max(negatives, default=-math.inf)
            positives = [s for s in positives if s < most + mining_margin]
            negatives = [s for s in negatives if s > least - mining_margin]
        if positives:
            values[i] += softplus(log_sum_exp([-alpha * (s - threshold) for s in positives])) / alpha
        if negatives:
            values[i] += softplus(log_sum_exp([beta * (s - threshold) for s in negatives])) / beta
    return values


def of_classes(embeddings, class_vectors, labels, scale, own):
    """Cross-entropies of scaled cosines of which that of the label is replaced by own(cosine, whether x is zero)."""
    values = np.full(len(labels), np.nan)
    for i, x in enumerate(embeddings):
        if 0 <= labels[i] < len(class_vectors):
            scores = [scale * cosine(x, w) for w in class_vectors]
            scores[labels[i]] = scale * own(cosine(x, class_vectors[labels[i]]), not np.any(x))
            values[i] = log_sum_exp(scores) - scores[labels[i]]
    return values


def arcface(embeddings, class_vectors, labels, *, scale=64.0, margin=0.5, beyond="cosine", block_size=None):
    """ArcFace, equation 3, by the arc cosine."""

    def own(c, zero):
        if zero:
            return 0.0
        angle = math.acos(max(-1.0, min(1.0, c)))
        if beyond == "linear" and angle >= math.pi - margin:
            return c - margin * math.sin(margin)
        return c if beyond == "easy" and c <= 0 else math.cos(angle + margin)

    return of_classes(embeddings, class_vectors, labels, scale, own)


def cosface(embeddings, class_vectors, labels, *, scale=64.0, margin=0.35, block_size=None):
    """CosFace, equation 4."""
    return of_classes(embeddings, class_vectors, labels, scale, lambda c, zero: c - margin)


def proxy_nca(embeddings, proxies, labels, *, temperature=1.0, include_positive=False, block_size=None):
    """Proxy-NCA, equation 4; ProxyNCA++ with the positive."""
    values = np.full(len(labels), np.nan)
    for i, x in enumerate(embeddings):
        if 0 <= labels[i] < len(proxies):
            scores = [(2 * cosine(x, p) - 2) / temperature for p in proxies]
            below = [s for k, s in enumerate(scores) if include_positive or k != labels[i]]
            values[i] = log_sum_exp(below) - scores[labels[i]]
    return values


def proxy_anchor(embeddings, proxies, labels, *, scale=32.0, margin=0.1):
    """Proxy-anchor, equation 4."""
    if not all(0 <= y < len(proxies) for y in labels):
        return np.full(len(labels), np.nan)
    pulls, pushes = [], []
    for k, p in enumerate(proxies):
        pull = [-scale * (cosine(x, p) - margin) for x, y in zip(embeddings, labels, strict=True) if y == k]
        push = [scale * (cosine(x, p) + margin) for x, y in zip(embeddings, labels, strict=True) if y != k]
        if pull:
            pulls.append(softplus(log_sum_exp(pull)))
        pushes.append(softplus(log_sum_exp(push)) if push else 0.0)
    value = math.fsum(pulls) / max(len(pulls), 1) + math.fsum(pushes) / len(pushes)
    return np.full(len(labels), value)
