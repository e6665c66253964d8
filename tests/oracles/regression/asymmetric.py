"""Oracles of `lossfns.regression.asymmetric`."""

from tests.oracles.regression._shared import entrywise


@entrywise
def quantile(prediction, target, *, quantile=0.5):
    return quantile * (target - prediction) if target > prediction else (1 - quantile) * (prediction - target)


@entrywise
def expectile(prediction, target, *, expectile=0.5):
    return (expectile if target > prediction else 1 - expectile) * (target - prediction) ** 2
