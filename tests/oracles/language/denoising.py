"""Oracles of `lossfns.language.denoising`."""

import numpy as np

from tests.oracles._shared import softplus


def replaced_token_detection(logits, tokens, original):
    values = np.zeros(logits.shape)
    for i in np.ndindex(logits.shape):
        values[i] = softplus(-logits[i]) if tokens[i] != original[i] else softplus(logits[i])
    return values
