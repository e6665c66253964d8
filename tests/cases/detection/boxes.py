"""Cases of `lossfns.detection.boxes`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.detection._shared import INTEGERS, as_centres, some_boxes
from tests.oracles.detection import boxes as oracles


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


CASES = {
    "ciou": CIOU,
    "diou": box_case(lossfns.diou, oracles.diou),
    "giou": box_case(lossfns.giou, oracles.giou),
    "iou": box_case(lossfns.iou, oracles.iou),
}
