"""What the cases of several losses share."""

from tests.cases._shared import CLASSES, hostile_logits


def soft_rows(rng, rows):
    targets = rng.uniform(size=(rows, CLASSES))
    return rng.normal(size=(rows, CLASSES)) * 2, targets / targets.sum(-1, keepdims=True)


def finite_logits(rng):
    """Without +inf, where a difference of scores has no limit."""
    return {name: given for name, given in hostile_logits(rng).items() if "+inf" not in name}
