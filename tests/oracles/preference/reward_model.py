"""Oracles of `lossfns.preference.reward_model`."""

import numpy as np

from tests.oracles._shared import softplus
from tests.oracles.preference._shared import each


def bradley_terry(chosen, rejected, margins=None, *, margin=0.0, centring=0.0):
    """Bradley and Terry 1952; Llama 2, equation 2; Eisenstein 2023, equation 4."""
    margins = np.full_like(chosen, margin) if margins is None else margins
    return each(lambda x, y, m: softplus(m - x + y) + (centring and centring * (x + y) ** 2), chosen, rejected, margins)
