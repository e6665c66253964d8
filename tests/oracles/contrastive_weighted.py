"""Oracles of the contrastive losses with weighed negatives, of neighbours, on the sphere, and of images and texts."""

import math

import numpy as np

from tests.oracles.common import cosine, log_sum_exp, negative_log_probability, softplus
from tests.oracles.contrastive import clip


def anchors(view_a, view_b):
    """For each of the 2N anchors: its pair, the cosine of its positive, those of its negatives."""
    for views, others in ((view_a, view_b), (view_b, view_a)):
        for i, x in enumerate(views):
            apart = [j for j in range(len(views)) if j != i]
            yield i, cosine(x, others[i]), [cosine(x, y[j]) for j in apart for y in (view_a, view_b)]


def decoupled_contrastive(view_a, view_b, *, temperature=0.1, sigma=None, block_size=None):
    """DCL, equations 6 and 7."""
    values = np.zeros(len(view_a))
    powers = [math.exp(cosine(x, y) / (sigma or 1)) for x, y in zip(view_a, view_b, strict=True)]
    for i, positive, negatives in anchors(view_a, view_b):
        weight = 1 if sigma is None else 2 - powers[i] / (math.fsum(powers) / len(powers))
        if negatives:
            values[i] += (log_sum_exp([s / temperature for s in negatives]) - weight * positive / temperature) / 2
    return values


def hard_negative_contrastive(view_a, view_b, *, beta=1.0, temperature=0.5, class_prior=0.1, block_size=None):
    """Robinson et al., equation 4 and the authors' estimate of it; for beta = 0 Chuang et al., equations 7 and 8."""
    values = np.zeros(len(view_a))
    for i, positive, negatives in anchors(view_a, view_b):
        if not negatives:
            continue
        p, scores = positive / temperature, [s / temperature for s in negatives]
        total = log_sum_exp([beta * s for s in scores])
        mean = log_sum_exp([beta * s - total + s for s in scores])
        # exp(mean) - prior exp(p), over exp(mean)
        rest = 1 - class_prior * math.exp(p - mean) if p - mean < 700 else -math.inf
        log_g = mean + math.log(rest / (1 - class_prior)) if rest > 0 else -math.inf
        values[i] += softplus(math.log(len(scores)) + max(log_g, -1 / temperature) - p) / 2
    return values


def debiased_contrastive(view_a, view_b, *, temperature=0.5, class_prior=0.1, block_size=None):
    return hard_negative_contrastive(view_a, view_b, beta=0.0, temperature=temperature, class_prior=class_prior)


def unit(x):
    norm = math.sqrt(x @ x)
    return x / norm if norm else x


def alignment(view_a, view_b, *, alpha=2.0):
    """Wang and Isola, section 4.1.1."""
    pairs = zip(view_a, view_b, strict=True)
    return np.array([math.sqrt(np.square(unit(a) - unit(b)).sum()) ** alpha for a, b in pairs])


def uniformity(embeddings, *, t=2.0, block_size=None):
    """Wang and Isola, section 4.1.2, over the pairs i < j."""
    u = [unit(x) for x in embeddings]
    pairs = [-t * np.square(u[i] - u[j]).sum() for i in range(len(u)) for j in range(i)]
    return np.full(len(u), log_sum_exp(pairs) - math.log(len(pairs)) if pairs else 0.0)


def nnclr(embeddings_a, embeddings_b, predictions_a, predictions_b, queue, *, temperature=0.1, block_size=None):
    """NNCLR, equation 3 both ways."""
    values = np.zeros(len(embeddings_a))
    for embeddings, predictions in ((embeddings_a, predictions_b), (embeddings_b, predictions_a)):
        for i, z in enumerate(embeddings):
            neighbour = queue[max(range(len(queue)), key=lambda k, z=z: cosine(z, queue[k]))]
            scores = [cosine(neighbour, p) / temperature for p in predictions]
            values[i] += (log_sum_exp(scores) - scores[i]) / 2
    return values


def coca(a, b, logits, tokens, *, contrastive_weight=1.0, caption_weight=2.0, length_average=False, scale=1 / 0.07):
    """CoCa, equations 2 to 4; tokens of 0 are padding."""
    values = contrastive_weight * clip(a, b, scale=scale)
    for i, row in enumerate(tokens):
        scored = [t for t in range(1, len(row)) if row[t] != 0]
        known = all(0 <= row[t] < logits.shape[-1] for t in scored)
        caption = [negative_log_probability(list(logits[i, t - 1]), row[t]) for t in scored] if known else [math.nan]
        values[i] += caption_weight * math.fsum(caption) / (max(len(scored), 1) if length_average else 1)
    return values


def image_text_matching(logits, matched):
    """ALBEF, equation 4."""
    pairs = zip(logits, matched, strict=True)
    return np.array([negative_log_probability(list(x), int(y)) if y in (0, 1) else np.nan for x, y in pairs])


def hardest_cosines(a, b):
    """The largest cosine of each with the other kind's rows but its partner, both ways summed."""
    count = len(a)
    values = np.zeros(count)
    for i in range(count):
        for x, others in ((a[i], b), (b[i], a)):
            values[i] += max((cosine(x, others[j]) for j in range(count) if j != i), default=0.0)
    return values
