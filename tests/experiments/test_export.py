"""A model and an evaluation step, kept as bytes for platforms that the host need not have, and loaded again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import lossfns
from experiments.models.transformer import CausalLM, TransformerConfig
from train import build_eval_step, create_state, means, term

PLATFORMS = ("cpu", "cuda", "tpu")
MODEL = CausalLM(TransformerConfig(width=16, depth=1, heads=1), vocab_size=11)
TOKENS = jnp.arange(12).reshape(2, 6) % 11
PARAMS = MODEL.init(jax.random.key(0), TOKENS, valid=TOKENS >= 0)["params"]


def logits(params, tokens):
    return MODEL.apply({"params": params}, tokens, valid=tokens >= 0)


def losses(params, batch):
    """An evaluation step, of the parameters alone: the rest of the state is not used."""

    def objective(params, batch, ctx):
        loss = term(lossfns.next_token, logits(params, batch["tokens"]), batch["tokens"])
        return {"next_token": loss}

    return build_eval_step(objective)(create_state(params, optax.identity(), key=0), batch)


@pytest.mark.parametrize("name", ["model", "evaluation step"])
def test_it_is_exported_for_all_platforms_and_loaded_from_bytes(name):
    function, given = (logits, TOKENS) if name == "model" else (losses, {"tokens": TOKENS})
    program = export.export(jax.jit(function), platforms=PLATFORMS)(PARAMS, given)
    assert program.platforms == PLATFORMS
    loaded = export.deserialize(program.serialize())
    actual, expected = loaded.call(PARAMS, given), function(PARAMS, given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)
    if name == "evaluation step":
        nats = lossfns.next_token(logits(PARAMS, TOKENS), TOKENS)
        assert means(actual)["next_token"] == pytest.approx(float(nats[:, 1:].mean()), rel=1e-5)
