"""Bytes that losses need on accelerators, by the accelerators' own compilers; nothing is run."""

import jax
import jax.numpy as jnp
import pytest

import lossfns
from experiments.benchmarks.ahead import LOSSES, compile_loss
from experiments.benchmarks.cases import CASES
from experiments.benchmarks.targets import TARGETS, mib
from lossfns._blockwise.sizes import LAUNCHED
from tests.aot.conftest import skip_without
from tests.lossfns.test_memory_coupled import COUPLED, OTHERS, ROWS

pytestmark = pytest.mark.aot
BLOCKS = 2 * LAUNCHED
"""Entries of what is held besides the tables, which are here no larger than a block."""


@pytest.mark.parametrize("target", ["H100", "v5e"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_needs_an_eighth_of_the_plain_form(name, target):
    skip_without(target)
    ours, plain = (mib(compile_loss(CASES[name], target, plain=plain)) for plain in (False, True))
    assert ours <= plain / 8


def whole(function, target, *arrays):
    """The program of a function of whole arrays on one device."""
    skip_without(target)
    place = jax.sharding.SingleDeviceSharding(TARGETS[target].devices[0])
    return function.lower(*(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in arrays)).compile()


@pytest.mark.parametrize("target", ["H100", "v5e"])
def test_a_large_vocabulary_fits(target):
    """16,384 tokens and 248,320 classes: the logits alone would take 15.5 GB."""

    def loss(hidden, head, labels):
        return lossfns.linear_cross_entropy(hidden, head, labels).mean()

    shapes = ((16384, 2048), jnp.bfloat16), ((248320, 2048), jnp.bfloat16), ((16384,), jnp.int32)
    arrays = [jax.ShapeDtypeStruct(*x) for x in shapes]
    memory = whole(jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), target, *arrays).memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    assert sum(sizes) <= 3.5e9


def needed(name, target, arrays, options):
    moved = tuple(i for i, x in enumerate(arrays) if x.dtype == jnp.float32)
    loss = getattr(lossfns, name.split(",")[0])
    total = jax.jit(jax.value_and_grad(lambda *given: jnp.sum(loss(*given, **options)), argnums=moved))
    return mib(whole(total, target, *arrays)) * 2**20 / 4


@pytest.mark.parametrize("target", ["H100", "v5e"])
@pytest.mark.parametrize("name", COUPLED)
def test_a_coupled_loss_holds_at_most_four_tables(name, target):
    arrays, options, _ = COUPLED[name]
    assert needed(name, target, arrays, options) <= 4 * ROWS * ROWS + BLOCKS


@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_of_another_table_holds_a_few_of_it(name):
    arrays, options, entries, limit = OTHERS[name]
    assert needed(name, "H100", arrays, options) <= max(limit, 4) * entries + BLOCKS
