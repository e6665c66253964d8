"""Oracles of `lossfns.overlap.counts`."""

from tests.oracles.overlap._shared import by_region, counts, f1, mean_over_classes, score, sizes_of


def v_net(places, classes, *, squared=True, smooth=0.0, absent="skip"):
    """Milletari 2016, section 3; a soft membership's own square counts."""
    power, costs = 2 if squared else 1, []
    for c in range(classes):
        both = 2 * sum(p[c] * t[c] for p, t in places)
        costs.append(1 - score(both + smooth, sum(p[c] ** power + t[c] ** power for p, t in places) + smooth))
    return mean_over_classes(costs, sizes_of(places, classes), absent)


def sudre(places, classes, *, class_weights="square", smooth=0.0, absent="skip"):
    sizes = sizes_of(places, classes)
    power = {"square": 2, "simple": 1, "uniform": 0}[class_weights]
    weights = [size**-power if size else None for size in sizes]
    if not any(size != 0 for size in sizes):
        return 0.0
    largest = max(w for w in weights if w is not None)
    weights = [w if w is not None else (largest if absent == "largest" else 0.0) for w in weights]
    both = sum(w * p[c] * t[c] for p, t in places for c, w in enumerate(weights))
    all_ = sum(w * (p[c] + t[c]) for p, t in places for c, w in enumerate(weights))
    return 1 - score(2 * both + smooth, all_ + smooth)


def salehi(places, classes, *, alpha=0.3, beta=0.7, smooth=0.0, absent="skip", gamma=1.0):
    costs = []
    for c in range(classes):
        tp, fp, fn = counts(places, c)
        wrong = alpha * fp + beta * fn
        costs.append((wrong / (tp + wrong + smooth) if wrong else 0.0) ** (1 / gamma))
    return mean_over_classes(costs, sizes_of(places, classes), absent)


def abraham(places, classes, *, gamma=4 / 3, **kwargs):
    return salehi(places, classes, gamma=gamma, **kwargs)


soft_f1 = by_region(f1)
dice = by_region(v_net)
generalized_dice = by_region(sudre)
tversky = by_region(salehi)
focal_tversky = by_region(abraham)
