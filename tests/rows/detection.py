"""Rows of the detection losses."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import detection as oracles
from tests.rows import zeros

INTEGERS = np.int32


def some_boxes(rng, *shape):
    corner = rng.uniform(0, 1, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(0.3, 1.2, (*shape, 2))], -1)


def box_pairs(rng, rows):
    return some_boxes(rng, rows), some_boxes(rng, rows)


def hostile_boxes(rng):
    a, b = box_pairs(rng, 6)
    unit = np.tile([0.0, 0, 1, 1], (6, 1))
    line, point = np.tile([0.0, 0, 1, 0], (6, 1)), np.tile([0.5, 0.5, 0.5, 0.5], (6, 1))
    return {
        "equal": ((a, a), {}),
        "far apart": ((a, b + 1e4), {}),
        "touching": ((unit, unit + np.array([1, 0, 1, 0])), {}),
        "one in the other": ((unit, unit * 0.5 + 0.25), {}),
        "lines": ((line, line * 2), {}),
        "a line and a box": ((line, unit), {}),
        "points": ((point, point), {}),
        "different points": ((point, point + 1), {}),
        "sides of 1e-25": ((a * 1e-25, b * 1e-25), {}),
        "sides of 1e25": ((a * 1e25, b * 1e25), {}),
        "turned inside out": ((a[:, [2, 1, 0, 3]], b), {}),
        "true box inside out": ((a, b[:, [0, 3, 2, 1]]), {}),
    }


WRONG_BOXES = (
    BadCall((zeros(3, 4), zeros(2, 4)), ("targets", "(3, 4)", "(2, 4)")),
    BadCall((zeros(3, 5), zeros(3, 5)), ("predictions", "4", "(3, 5)")),
    BadCall((zeros(3, 4, dtype=INTEGERS), zeros(3, 4)), ("predictions", "floating", "int32")),
    BadCall((zeros(3, 4), zeros(3, 4)), ("layout", "corners", "'xywh'"), {"layout": "xywh"}),
)


def as_centres(boxes):
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], -1)


def box_case(loss, oracle, **options):
    def centre(inputs):
        boxes = [jnp.asarray(as_centres(x)) for x in inputs]
        return loss(*boxes, layout="centre"), loss(*map(jnp.asarray, inputs))

    return LossCase(
        loss,
        box_pairs,
        oracle,
        symmetric=((0, 1),),
        non_negative=True,
        smooth=False,  # which edges bound the intersection changes with the boxes
        limits={
            "centre and sides": centre,
            "the same box": lambda inputs: (loss(inputs[0], inputs[0]), np.zeros(len(inputs[0]))),
            "scale": lambda inputs: (loss(*(x * 64 for x in map(jnp.asarray, inputs))), loss(*inputs)),
            "integer targets": lambda inputs: (
                loss(jnp.asarray(inputs[0]), jnp.asarray(np.int32([[0, 0, 2, 2]] * 6))),
                oracle(inputs[0], np.array([[0, 0, 2, 2]] * 6)),
            ),
        },
        hostile=hostile_boxes,
        bad_calls=WRONG_BOXES,
        **options,
    )


CIOU = box_case(
    lossfns.ciou,
    oracles.ciou,
    skip={"gradients": "alpha is a constant for the gradient; tests/lossfns/test_detection.py holds it fixed"},
)


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


ROWS = {
    "ciou": CIOU,
    "diou": box_case(lossfns.diou, oracles.diou),
    "giou": box_case(lossfns.giou, oracles.giou),
    "iou": box_case(lossfns.iou, oracles.iou),
    "set_prediction": SET_PREDICTION,
}
