"""Boxes by hand, the constant in CIoU's gradient, and matching against two other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from lossfns import ciou, diou, giou, iou, set_prediction
from lossfns.detection.matching import _assign
from tests.oracles.detection._shared import measures
from tests.oracles.detection.boxes import shape_penalty

UNIT, LOW = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([0.5, 0.5, 2.5, 1.0])


def test_values_by_hand():
    # Intersection 1/4, union 1 + 1 - 1/4, hull 2.5 by 1, centres (0.5, 0.5) and (1.5, 0.75).
    np.testing.assert_allclose(iou(UNIT, LOW), 1 - 1 / 7, rtol=1e-6)
    np.testing.assert_allclose(giou(UNIT, LOW), 1 - 1 / 7 + 0.75 / 2.5, rtol=1e-6)
    np.testing.assert_allclose(diou(UNIT, LOW), 1 - 1 / 7 + 1.0625 / 7.25, rtol=1e-6)
    v = 4 / np.pi**2 * (np.pi / 4 - np.arctan(4)) ** 2
    np.testing.assert_allclose(ciou(UNIT, LOW), 1 - 1 / 7 + 1.0625 / 7.25 + v * v / (6 / 7 + v), rtol=1e-6)


def test_alpha_of_ciou_is_a_constant_for_the_gradient():
    a, b = np.float64(UNIT), np.float64(LOW)
    v = shape_penalty(a, b)
    alpha = v / (1 - measures(a, b)[0] + v)

    def held(box):
        angles = jnp.arctan2(box[2] - box[0], box[3] - box[1]) - np.arctan(4)
        return diou(box, LOW) + alpha * 4 / np.pi**2 * angles**2

    np.testing.assert_allclose(jax.grad(ciou)(UNIT, LOW), jax.grad(held)(UNIT), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [giou, diou, ciou])
def test_boxes_apart_are_drawn_together(loss):
    slope = jax.grad(loss)(UNIT, UNIT + 3.0)
    assert np.all(np.asarray(slope)[2:] < 0)
    assert not np.any(jax.grad(iou)(UNIT, UNIT + 3.0))


def test_the_least_assignment_is_that_of_scipy_and_optax():
    rng = np.random.default_rng(0)
    costs = rng.normal(size=(40, 4, 6)).astype(np.float32)
    costs[:10] = costs[:10].round()  # with ties
    costs[10] = 0
    chosen = np.asarray(jax.jit(jax.vmap(_assign))(costs))
    theirs = jax.vmap(optax.assignment.hungarian_algorithm)(costs)
    for cost, queries, i, j in zip(costs, chosen, *map(np.asarray, theirs), strict=True):
        assert len(set(queries)) == 4
        best = cost[linear_sum_assignment(cost)].sum()
        np.testing.assert_allclose([cost[np.arange(4), queries].sum(), cost[i, j].sum()], best, atol=1e-5)


def test_an_example_without_objects_has_background_only():
    out = set_prediction(jnp.zeros((1, 2, 3)), jnp.ones((1, 2, 4)), jnp.zeros((1, 0), int), jnp.zeros((1, 0, 4)))
    np.testing.assert_allclose(out.classification, np.full((1, 2), np.log(3)), rtol=1e-6)
    np.testing.assert_allclose(out.query_weights, np.full((1, 2), 0.1), rtol=1e-6)
    assert out.distance.shape == out.matched.shape == (1, 0)


def test_a_nan_prediction_ends_and_spoils_its_example_only():
    boxes = jnp.tile(jnp.array([0.5, 0.5, 0.2, 0.2]), (2, 3, 1)).at[0, 1, 0].set(jnp.nan)
    out = set_prediction(jnp.zeros((2, 3, 2)), boxes, jnp.zeros((2, 2), int), jnp.ones((2, 2, 4)))
    for part in (out.classification, out.distance, out.giou):
        assert np.isnan(part[0]).all()
        assert np.isfinite(part[1]).all()


def test_the_matching_has_no_gradient_and_the_costs_choose():
    logits = jnp.array([[[0.0, 0.0], [3.0, 0.0]]])
    boxes = jnp.array([[[0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2]]])
    options = {"labels": jnp.zeros((1, 1), int), "target_boxes": boxes[:, :1]}
    near = set_prediction(logits, boxes, options["labels"], options["target_boxes"])
    likely = set_prediction(logits, boxes, **_as_args(options), distance_cost=0.0, giou_cost=0.0)
    assert (int(near.matched[0, 0]), int(likely.matched[0, 0])) == (0, 1)


def _as_args(options):
    return {name: options[name] for name in ("labels", "target_boxes")}
