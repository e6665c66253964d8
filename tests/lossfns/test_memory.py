"""Temporary memory of losses and their gradients, without inputs and outputs: compiled for CPU, nothing is run."""

import jax
import jax.numpy as jnp
import pytest

import lossfns

FLOAT, INTEGER, BOOLEAN = jnp.float32, jnp.int32, jnp.bool_


def head(*, tokens, features, classes, **options):
    """The mean of `linear_cross_entropy` over the tokens that count."""

    def loss(arrays, labels, where):
        values = lossfns.linear_cross_entropy(*arrays, labels, where=where, **options)
        return lossfns.weighted_mean(values, where)

    arrays = ((tokens, features), FLOAT), ((classes, features), FLOAT)
    return loss, arrays, (((tokens,), INTEGER), ((tokens,), BOOLEAN))


def mlm_head(*, positions, capacity, features, classes):
    """A head on the labelled positions only."""

    def loss(arrays, labels, where):
        out = lossfns.gather_labelled(arrays[0], labels, where=where, capacity=capacity)
        values = lossfns.linear_cross_entropy(out.hidden, arrays[1], out.labels, where=out.where)
        return lossfns.weighted_mean(values, out.where)

    arrays = ((positions, features), FLOAT), ((classes, features), FLOAT)
    return loss, arrays, (((positions,), INTEGER), ((positions,), BOOLEAN))


def dpo(*, pairs, tokens, features, classes):
    """Preferences from hidden states; the reference's log-probabilities are known."""

    def loss(arrays, sequences, answer, reference):
        log_probs = lossfns.linear_sequence_log_probs(*arrays, sequences, where=answer)
        return lossfns.dpo(log_probs[0], log_probs[1], reference[0], reference[1]).mean()

    arrays = ((2, pairs, tokens, features), FLOAT), ((classes, features), FLOAT)
    return loss, arrays, (((2, pairs, tokens), INTEGER), ((2, pairs, tokens), BOOLEAN), ((2, pairs), FLOAT))


def distillation(*, tokens, features, classes):
    def loss(arrays, teacher, teacher_head):
        return lossfns.linear_distillation(*arrays, teacher, teacher_head, temperature=2.0).mean()

    arrays = ((tokens, features), FLOAT), ((classes, features), FLOAT)
    return loss, arrays, arrays


# Name -> loss, arrays to differentiate, other arrays, MiB. What full logits need is said behind.
LIMITS = {
    "linear_cross_entropy": (*head(tokens=2048, features=512, classes=32768), 64),  # 512
    "linear_cross_entropy in small blocks": (*head(tokens=2048, features=512, classes=32768, block_size=512), 40),
    "linear_cross_entropy, GPT-2's head": (*head(tokens=4096, features=768, classes=50257), 120),  # 1571
    "MLM head": (*mlm_head(positions=8192, capacity=1280, features=512, classes=32768), 60),  # 2048
    "dpo from hidden states": (*dpo(pairs=4, tokens=256, features=256, classes=32000), 45),  # 750
    "linear_distillation": (*distillation(tokens=2048, features=256, classes=32000), 45),  # 1000
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="bytes of the CPU's compiler")
@pytest.mark.parametrize("name", LIMITS)
def test_a_loss_needs_no_more_memory_than_promised(name):
    loss, arrays, others, limit = LIMITS[name]
    moved, given = (jax.tree.map(lambda x: jax.ShapeDtypeStruct(*x), x, is_leaf=is_shape) for x in (arrays, others))
    compiled = jax.jit(jax.value_and_grad(loss)).lower(moved, *given).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes / 2**20
    assert needed <= limit, f"{name} needs {needed:.1f} MiB, at most {limit} are promised"


def is_shape(x):
    return len(x) == 2 and not isinstance(x[1], tuple)
