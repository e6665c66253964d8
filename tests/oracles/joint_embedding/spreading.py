"""Oracles of `lossfns.joint_embedding.spreading`."""

import itertools
import math

import numpy as np


def koleo(embeddings, *, eps=1e-8):
    """Sablayrolles 2019, equation 2: all pairs."""
    norms = [math.sqrt(x @ x) or 1.0 for x in embeddings]
    units = [x / n for x, n in zip(embeddings, norms, strict=True)]
    values = np.zeros(len(units))
    for n, u in enumerate(units):
        distances = [math.sqrt(math.fsum((u - v) ** 2)) for m, v in enumerate(units) if m != n]
        if distances:
            nearest = min(distances) + eps
            values[n] = -math.log(nearest) if nearest else math.inf
    return values


def sigreg(embeddings, directions, *, knots=17, largest_frequency=3.0):
    """Epps and Pulley's integral over the whole line by trapezoids, slice by slice."""
    count = len(embeddings)
    t = np.linspace(-largest_frequency, largest_frequency, 2 * knots - 1)
    values = []
    for direction in directions.T:
        projections = embeddings @ direction / math.sqrt(direction @ direction)
        heights = []
        for frequency in t:
            found = sum(complex(math.cos(frequency * x), math.sin(frequency * x)) for x in projections) / max(count, 1)
            window = math.exp(-frequency * frequency / 2)
            heights.append(abs(found - window) ** 2 * window)
        values.append(count * sum((a + b) / 2 for a, b in itertools.pairwise(heights)) * (t[1] - t[0]))
    return np.full(count, np.mean(values))
