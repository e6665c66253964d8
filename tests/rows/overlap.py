"""Rows of the overlap losses."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import overlap as oracles
from tests.rows import zeros

INTEGERS = np.int32
SAME = "the row of the loss itself has it; here its labels have another form, nothing else"


def labelled(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.integers(0, 3, rows).astype(INTEGERS)


def segmented(rng, rows):
    """Four places an example; class 2 is absent from most."""
    return rng.normal(size=(rows, 4, 3)) * 2, np.minimum(rng.integers(0, 6, (rows, 4)), 2).astype(INTEGERS) % 3


def many_labels(rng, rows):
    return rng.normal(size=(rows, 3)) * 2, rng.uniform(0.05, 0.95, size=(rows, 3))


def one_hot(labels, classes):
    return (labels[..., None] == jnp.arange(classes).reshape((1,) * labels.ndim + (-1,))).astype(jnp.float32)


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


def hostile_regions(rng):
    logits, labels = segmented(rng, 6)
    right = 1e4 * (2 * np.asarray(one_hot(labels, 3)) - 1)
    nothing = zeros(6, 4, 3)
    return {
        "right": ((right, labels), {}),
        "wrong": ((-right, labels), {}),
        "one class only": ((logits, 0 * labels), {}),
        "absent classes kept": ((logits, 0 * labels), {"absent": "keep"}),
        "no positive": ((logits, nothing), {}),
        "no positive, nothing predicted": ((logits * 0 - 1e4, nothing), {"absent": "keep"}),
        "memberships that are none": ((logits, nothing + 1.5), {}),
    }


WRONG_REGIONS = (
    BadCall((zeros(3, 4, 2), zeros(3, 5, dtype=INTEGERS)), ("(3, 4)", "(3, 5)")),
    BadCall((zeros(3), zeros(3, dtype=INTEGERS)), ("logits", "classes", "(3,)")),
    BadCall((zeros(3, 0), zeros(3, dtype=INTEGERS)), ("at least one class", "(3, 0)")),
    BadCall((zeros(3, 4, 2, dtype=INTEGERS), zeros(3, 4, dtype=INTEGERS)), ("logits", "floating", "int32")),
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("absent", "skip", "'none'"), {"absent": "none"}),
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("valid", "(3, 4)", "(3,)"), {"valid": np.ones(3, bool)}),
)
WRONG_SMOOTH = (
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("smooth", "at least 0", "-1"), {"smooth": -1}),
    BadCall((zeros(3, 4, 2), zeros(3, 4, 3)), ("(3, 4, 2)", "(3, 4, 3)")),
)
WRONG_OVER = (
    BadCall((zeros(3, 4, 2), zeros(3, 4, dtype=INTEGERS)), ("over", "example", "'image'"), {"over": "image"}),
)


def padding(loss, **options):
    """Void places beside the true ones change nothing."""

    def both(inputs):
        logits, labels = inputs
        wide = np.concatenate([logits, np.full_like(logits, np.nan)], 1)
        marked = np.concatenate([labels, np.full_like(labels, 255)], 1)
        valid = np.arange(wide.shape[1])[None].repeat(len(wide), 0) < logits.shape[1]
        return loss(jnp.asarray(wide), jnp.asarray(marked), valid=jnp.asarray(valid), **options), loss(
            *map(jnp.asarray, inputs), **options
        )

    return both


def batch_as_example(loss):
    """Over the batch is over one example that has all the places."""

    def both(inputs):
        logits, labels = map(jnp.asarray, inputs)
        together = loss(logits.reshape(1, -1, logits.shape[-1]), labels.reshape(1, -1), over="example")
        return loss(logits, labels, over="batch"), np.full(len(logits), np.asarray(together)[0])

    return both


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


def hostile_lovasz(rng):
    return {name: given for name, given in hostile_regions(rng).items() if given[0][1].dtype == INTEGERS}


LOVASZ = LossCase(
    lossfns.lovasz_softmax,
    segmented,
    oracles.lovasz_softmax,
    labels=1,
    batch_coupled=True,
    shift_invariant=(0,),
    non_negative=True,
    smooth=False,  # linear between the orders of its errors
    limits={"padding": padding(lossfns.lovasz_softmax), "over the batch": batch_as_example(lossfns.lovasz_softmax)},
    hostile=hostile_lovasz,
    bad_calls=(*WRONG_REGIONS, *WRONG_OVER, BadCall((zeros(3, 2), zeros(3, 2)), ("labels", "integer", "float32"))),
)
LOVASZ_BY_EXAMPLE = LossCase(
    lossfns.lovasz_softmax,
    segmented,
    oracles.lovasz_softmax,
    variants=({"over": "example"}, {"over": "example", "absent": "keep"}),
    labels=1,
    smooth=False,
)


ROWS = {
    "dice": DICE,
    "dice over the batch": DICE_OVER_BATCH,
    "focal_tversky": FOCAL_TVERSKY,
    "generalized_dice": GENERALIZED,
    "lovasz_softmax": LOVASZ,
    "lovasz_softmax by example": LOVASZ_BY_EXAMPLE,
    "soft_f1": SOFT_F1,
    "soft_f1 of many labels": SOFT_F1_OF_MANY,
    "tversky": TVERSKY,
}
