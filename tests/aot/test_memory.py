"""Bytes that streaming losses need on accelerators, by the accelerators' own compilers; nothing is run."""

import jax
import jax.numpy as jnp
import pytest

import lossfns
from tests.aot.targets import TARGETS

pytestmark = pytest.mark.aot
MIB = 2**20


def head(hidden, classifier, labels):
    return lossfns.linear_cross_entropy(hidden, classifier, labels).mean()


def head_arrays(tokens, features, classes, dtype):
    shapes = ((tokens, features), dtype), ((classes, features), dtype), ((tokens,), jnp.int32)
    return [jax.ShapeDtypeStruct(*x) for x in shapes]


def of_pairs(loss):
    return lambda a, b: loss(a, b).mean()


PAIRS = [jax.ShapeDtypeStruct((8192, 128), jnp.float32)] * 2
# Loss, arrays, and the MiB of what the plain form holds at least: its logits and their gradient, or its scores twice.
CASES = {
    "linear_cross_entropy, bfloat16": (head, head_arrays(2048, 512, 32768, jnp.bfloat16), 512),
    "linear_cross_entropy": (head, head_arrays(2048, 512, 32768, jnp.float32), 512),
    "nt_xent": (of_pairs(lossfns.nt_xent), PAIRS, 2048),
    "clip": (of_pairs(lossfns.clip), PAIRS, 512),
    "siglip": (of_pairs(lossfns.siglip), PAIRS, 512),
}


def value_and_gradient(loss):
    return jax.value_and_grad(loss, argnums=(0, 1))


def cases():
    """TPU compilers take a minute for float32 products in six passes."""
    return [(name, target) for target in TARGETS for name in CASES if target == "H100" or "bfloat16" in name]


@pytest.mark.parametrize(("name", "target"), cases())
def test_a_loss_needs_an_eighth_of_the_plain_form(name, target):
    loss, arrays, plain = CASES[name]
    memory = TARGETS[target].compile(value_and_gradient(loss), *arrays).memory_analysis()
    assert memory.temp_size_in_bytes / MIB <= plain / 8


@pytest.mark.parametrize("target", TARGETS)
def test_a_large_vocabulary_fits(target):
    """16,384 tokens and 248,320 classes: the logits alone would take 15.5 GB."""
    arrays = head_arrays(16384, 2048, 248320, jnp.bfloat16)
    memory = TARGETS[target].compile(value_and_gradient(head), *arrays).memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    assert sum(sizes) <= 3.5e9
