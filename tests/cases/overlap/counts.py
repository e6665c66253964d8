"""Cases of `lossfns.overlap.counts`."""

import jax
import jax.numpy as jnp

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.overlap._shared import (
    INTEGERS,
    WRONG_OVER,
    WRONG_REGIONS,
    batch_as_example,
    hostile_regions,
    one_hot,
    padding,
    segmented,
)
from tests.oracles.overlap import counts as oracles

SAME = "the row of the loss itself has it; here its labels have another form, nothing else"


def labelled(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.integers(0, 3, rows).astype(INTEGERS)


def many_labels(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.uniform(0.05, 0.95, size=(rows, 3))


def naive_scores(logits, labels, axes):
    p, y = jax.nn.softmax(logits, -1), one_hot(labels, 3).astype(logits.dtype)
    return (p * y).sum(axes), (p * (1 - y)).sum(axes), ((1 - p) * y).sum(axes), y.sum(axes) > 0


def naive_macro(form, axes):
    """Textbook mean over the classes that are there of a cost of TP, FP, FN."""

    def naive(logits, labels):
        tp, fp, fn, there = naive_scores(logits, labels, axes)
        costs = jnp.where(there, form(tp, fp, fn), 0).sum(-1) / there.sum(-1)
        return jnp.broadcast_to(costs, logits.shape[:1])

    return naive


WRONG_SMOOTH = (
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("smooth", "at least 0", "-1"), {"smooth": -1}),
    BadCall((zeros(3, 4, 2), zeros(3, 4, 3)), ("(3, 4, 2)", "(3, 4, 3)")),
)


def one_hot_is_integer(loss):
    """With two classes and opposite logits a softmax is two sigmoids."""

    def both(inputs):
        x, labels = jnp.asarray(inputs[0][..., :1]), jnp.asarray(inputs[1] % 2)
        integers = loss(jnp.concatenate([x / 2, -x / 2], -1), labels)
        return integers, loss(jnp.concatenate([x, -x], -1), one_hot(labels, 2))

    return both


SOFT_F1 = LossCase(
    lossfns.soft_f1,
    labelled,
    oracles.soft_f1,
    naive_macro(lambda tp, fp, fn: 1 - 2 * tp / (2 * tp + fp + fn), 0),
    variants=({}, {"average": "micro", "smooth": 1.0}),
    sweep={"smooth": (0.5, 1.0, 2.0)},
    labels=1,
    batch_coupled=True,
    shift_invariant=(0,),
    non_negative=True,
    limits={
        "one-hot = integers": one_hot_is_integer(lossfns.soft_f1),
        "Dice without squares": lambda inputs: (
            lossfns.soft_f1(*inputs),
            lossfns.dice(*map(jnp.asarray, inputs), squared=False, over="batch"),
        ),
    },
    hostile=hostile_regions,
    bad_calls=(
        *WRONG_REGIONS,
        *WRONG_SMOOTH,
        BadCall((zeros(3, 2), zeros(3, dtype=INTEGERS)), ("average", "macro", "'mean'"), {"average": "mean"}),
    ),
)
SOFT_F1_OF_MANY = LossCase(
    lossfns.soft_f1,
    many_labels,
    oracles.soft_f1,
    batch_coupled=True,
    non_negative=True,
    skip={"devices = one device": SAME, "vmap = loop": SAME},
)


def region_case(loss, oracle, naive=None, **options):
    return LossCase(
        loss,
        segmented,
        oracle,
        naive,
        labels=1,
        shift_invariant=(0,),
        non_negative=True,
        limits={
            "padding": padding(loss),
            "over the batch": batch_as_example(loss),
            "one-hot = integers": one_hot_is_integer(loss),
        },
        hostile=hostile_regions,
        bad_calls=(*WRONG_REGIONS, *WRONG_SMOOTH, *WRONG_OVER),
        **options,
    )


DICE = region_case(
    lossfns.dice,
    oracles.dice,
    naive_macro(lambda tp, fp, fn: 1 - 2 * tp / (2 * tp + fp + fn), 1),
    variants=({"squared": False}, {"smooth": 1.0, "absent": "keep"}),
    sweep={"smooth": (0.5, 1.0, 2.0)},
)
DICE_OVER_BATCH = LossCase(
    lossfns.dice, segmented, oracles.dice, variants=({"over": "batch"},), batch_coupled=True, labels=1
)


def hostile_generalized(rng):
    return {
        name: (inputs, {"absent": "largest"} if options else {})
        for name, (inputs, options) in hostile_regions(rng).items()
    }


GENERALIZED = LossCase(
    lossfns.generalized_dice,
    segmented,
    oracles.generalized_dice,
    variants=({}, {"class_weights": "simple", "absent": "largest", "smooth": 1.0}),
    sweep={"smooth": (0.5, 1.0, 2.0)},
    labels=1,
    shift_invariant=(0,),
    non_negative=True,
    limits={
        "padding": padding(lossfns.generalized_dice),
        "over the batch": batch_as_example(lossfns.generalized_dice),
        "one-hot = integers": one_hot_is_integer(lossfns.generalized_dice),
    },
    hostile=hostile_generalized,
    bad_calls=(
        *WRONG_REGIONS,
        *WRONG_SMOOTH,
        *WRONG_OVER,
        BadCall(
            (zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)),
            ("class_weights", "square", "'cube'"),
            {"class_weights": "cube"},
        ),
    ),
)
TVERSKY = region_case(
    lossfns.tversky,
    oracles.tversky,
    naive_macro(lambda tp, fp, fn: 1 - tp / (tp + 0.3 * fp + 0.7 * fn), 1),
    variants=({}, {"alpha": 1.0, "beta": 1.0, "smooth": 1.0}),
    sweep={"alpha": (0.1, 0.2, 0.3), "beta": (0.1, 0.2, 0.3), "smooth": (0.5, 1.0, 2.0)},
)
FOCAL_TVERSKY = region_case(
    lossfns.focal_tversky,
    oracles.focal_tversky,
    naive_macro(lambda tp, fp, fn: (1 - tp / (tp + 0.3 * fp + 0.7 * fn)) ** 0.75, 1),
    variants=({}, {"gamma": 0.5, "absent": "keep"}),
    sweep={
        "alpha": (0.1, 0.2, 0.3),
        "beta": (0.1, 0.2, 0.3),
        "gamma": (0.5, 1.0, 2.0),
        "smooth": (0.5, 1.0, 2.0),
    },
)


CASES = {
    "dice": DICE,
    "dice over the batch": DICE_OVER_BATCH,
    "focal_tversky": FOCAL_TVERSKY,
    "generalized_dice": GENERALIZED,
    "soft_f1": SOFT_F1,
    "soft_f1 of many labels": SOFT_F1_OF_MANY,
    "tversky": TVERSKY,
}
