"""Cases of `lossfns.detection.matching`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.detection._shared import INTEGERS, as_centres, some_boxes
from tests.oracles.detection import matching as oracles


def total(logits, boxes, labels, target_boxes, valid, *, where=None, **options):
    """The sum of an example's losses, with the paper's weights."""
    out = lossfns.set_prediction(logits, boxes, labels, target_boxes, valid=valid, where=where, **options)
    by_query = (out.classification * out.query_weights).sum(-1)
    return by_query + (5 * out.distance + 2 * out.giou).sum(-1)


def scenes(rng, rows):
    """Four queries and up to two objects of two classes; what is padding holds no label at all."""
    boxes, targets = as_centres(some_boxes(rng, rows * 4)), as_centres(some_boxes(rng, rows * 2))
    valid = np.stack([rng.random(rows) < 0.6, np.ones(rows, bool)], 1)
    labels = np.where(valid, rng.integers(0, 2, (rows, 2)), 77).astype(INTEGERS)
    return rng.normal(size=(rows, 4, 3)), boxes.reshape(rows, 4, 4), labels, targets.reshape(rows, 2, 4), valid


def hostile_scenes(rng):
    logits, boxes, labels, targets, valid = scenes(rng, 6)
    inside_out = targets * np.where(np.arange(6) % 2, -1, 1)[:, None, None]
    nothing = np.zeros_like(valid)
    return {
        "no object": ((logits, boxes, labels, targets, nothing), {}),
        "true boxes inside out": ((logits, boxes, labels, inside_out, valid), {}),
        "padding inside out": ((logits, boxes, labels, inside_out, nothing), {}),
        "predicted boxes inside out": ((logits, -boxes, labels, targets, valid), {}),
        "the class no object": ((logits, boxes, 0 * labels + 2, targets, valid), {}),
        "logits + 1e4": ((logits + 1e4, boxes, labels, targets, valid), {}),
        "boxes that are right": ((logits, np.concatenate([targets, targets], 1), labels, targets, valid), {}),
    }


def queries_turned(inputs):
    logits, boxes, *rest = inputs
    return total(logits[:, ::-1], boxes[:, ::-1], *rest), total(*map(jnp.asarray, inputs))


def more_padding(inputs):
    logits, boxes, labels, targets, valid = inputs
    wide = [np.concatenate([x, np.full_like(x[:, :1], fill)], 1) for x, fill in ((labels, -5), (targets, np.nan))]
    longer = np.concatenate([valid, np.zeros_like(valid[:, :1])], 1)
    return total(logits, boxes, *map(jnp.asarray, wide), jnp.asarray(longer)), total(*map(jnp.asarray, inputs))


SCENE = (zeros(2, 3, 4), zeros(2, 3, 4), zeros(2, 2, dtype=INTEGERS), zeros(2, 2, 4), np.ones((2, 2), bool))
SET_PREDICTION = LossCase(
    total,
    scenes,
    oracles.set_prediction,
    name="set_prediction",
    sweep={
        "no_object_weight": (0.1, 0.2, 0.3),
        "class_cost": (1.0, 2.0, 3.0),
        "distance_cost": (4.0, 5.0, 6.0),
        "giou_cost": (1.0, 2.0, 3.0),
    },
    labels=2,
    num_classes=lambda *arrays: arrays[0].shape[-1] - 1,
    shift_invariant=(0,),
    flat="the box of a query that is no object's",
    non_negative=True,
    enumerated=True,
    smooth=False,  # the errors of boxes are absolute
    limits={"the order of queries": queries_turned, "padding": more_padding},
    hostile=hostile_scenes,
    bad_calls=(
        BadCall((SCENE[0][0], *SCENE[1:]), ("logits", "rank 3", "(3, 4)")),
        BadCall((SCENE[0][..., :1], *SCENE[1:]), ("at least one class", "(2, 3, 1)")),
        BadCall((SCENE[0], SCENE[1][:, :2], *SCENE[2:]), ("boxes", "(2, 3, 4)", "(2, 2, 4)")),
        BadCall((SCENE[0], SCENE[1], SCENE[2].astype(float), *SCENE[3:]), ("labels", "integer", "float")),
        BadCall((*SCENE[:3], SCENE[3][..., :3], SCENE[4]), ("target_boxes", "4", "(2, 2, 3)")),
        BadCall(
            (*SCENE[:2], zeros(2, 4, dtype=INTEGERS), zeros(2, 4, 4), np.ones((2, 4), bool)), ("at most 3", "got 4")
        ),
        BadCall(SCENE, ("class_cost", "at least 0", "-1"), {"class_cost": -1}),
    ),
)


CASES = {
    "set_prediction": SET_PREDICTION,
}
