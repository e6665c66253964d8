"""Oracles of `lossfns.contrastive.proxies`."""

import math

import numpy as np

from tests.oracles._shared import cosine, log_sum_exp, softplus


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
