"""What the objectives of the experiments count; that a batch may be split is seen in tests/train/test_exactness.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import causal_lm, simclr
from experiments.models.transformer import TransformerConfig
from experiments.models.vision import AugmentConfig, EncoderConfig
from train.errors import UsageError
from train.objective import Context
from train.state import create_state
from train.step import build_train_step


def one_step(objective, params, batch, loss, **settings):
    """Parameters after one step of plain gradient descent, and the metrics."""
    optimizer = optax.sgd(1.0)
    step = build_train_step(objective, optimizer, loss_weights={loss: 1.0}, **settings)
    state, metrics = jax.jit(step)(create_state(params, optimizer, key=0), batch)
    return state.params, metrics


def assert_same(whole, parts):
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def causal_case():
    rng = np.random.default_rng(0)
    config = causal_lm.Config(model=TransformerConfig(width=8, depth=1, heads=1))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=6))
    model = causal_lm.make_model(config, 11)
    valid = np.arange(6)[None, :] < np.array([[6], [2], [5], [0]])
    segments = np.where(valid, np.array([[1, 1, 1, 2, 2, 2]]), 0).astype(np.int32)
    batch = {
        "tokens": rng.integers(5, 11, (4, 6)).astype(np.int32),
        "valid": valid,
        "segment_ids": segments,
        "bytes": np.array([9, 3, 7, 0], np.int32),
    }
    params = causal_lm.initial_parameters(model, config, 0)
    return causal_lm.make_objective(model), params, batch, "next_token"


SIMCLR = simclr.Config(
    model=EncoderConfig(channels=(4,), features=8, projection=4), augment=AugmentConfig(0.0, 0.0, 0.0, 0.0)
)


def simclr_case(method, config=SIMCLR):
    rng = np.random.default_rng(0)
    views = rng.integers(0, 255, (2, 8, 6, 6, 1)).astype(np.uint8)
    batch = {"view_a": views[0], "view_b": views[1], "label": np.arange(8, dtype=np.int32) % 3}
    model = simclr.make_model(config, method, 3)
    params = model.init(jax.random.key(2), jnp.zeros((1, 6, 6, 1)))["params"]
    loss = "nt_xent" if method == "SimCLR" else "cross_entropy"
    return simclr.make_objective(model, method, config, 255.0), params, batch, loss


def test_chunks_of_the_encoder_change_nothing():
    strong = dataclasses.replace(SIMCLR, augment=AugmentConfig())
    whole = one_step(*simclr_case("SimCLR", strong))
    parts = one_step(*simclr_case("SimCLR", dataclasses.replace(strong, encoder_chunks=4)))
    assert_same(whole, parts)


def test_chunks_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="16 rows do not divide evenly into 3 micro-batches"):
        one_step(*simclr_case("SimCLR", dataclasses.replace(SIMCLR, encoder_chunks=3)))


def test_causal_terms_count_what_is_predicted():
    objective, params, batch, _ = causal_case()
    terms = objective(params, batch, Context(jax.random.key(0), jnp.zeros((), jnp.int32), train=False))
    # Row 0 has two documents of 3 tokens, so 2 + 2 predictions; row 1 one of 2; row 2 has 3 and 2 tokens; row 3 none.
    assert float(terms["next_token"].sums()[1]) == 4 + 1 + 3
    assert float(terms["accuracy"].sums()[1]) == 4 + 1 + 3
    assert float(terms["bytes"].sums()[0]) == 19
