"""An encoder in micro-batches: the numbers of the whole batch, in less memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import nt_xent
from tests.train.support.exact_cases import CASES, SIZE, contrastive, deviation, reference, take_step
from train import UsageError, microbatched

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(3, 4)).astype(np.float32), "scale": np.float32(0.5), "steps": np.int32(2)}
ROWS = {"a": RNG.normal(size=(12, 3)).astype(np.float32), "b": (np.arange(12) % 3).astype(np.int32)}


def encode(params, rows):
    hidden = jnp.tanh(rows["a"] @ params["w"]) * params["scale"] * params["steps"]
    return {"z": hidden, "more": (hidden.sum(-1), rows["b"])}


def coupled(outputs):
    """A number in which every row meets every other."""
    z, (total, kind) = outputs["z"], outputs["more"]
    same = kind[:, None] == kind[None, :]
    return jnp.sum(jnp.where(same, z @ z.T, 0.1) * total[None, :])


def value_and_gradients(encoder):
    """Of the parameters that are real numbers, and of the rows."""

    def loss(w, scale, a):
        return coupled(encoder(PARAMS | {"w": w, "scale": scale}, ROWS | {"a": a}))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(PARAMS["w"], PARAMS["scale"], ROWS["a"])


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_equal_to_the_whole_batch(n):
    whole, parts = encode(PARAMS, ROWS), microbatched(encode, n)(PARAMS, ROWS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), parts, whole)
    assert deviation(value_and_gradients(microbatched(encode, n)), value_and_gradients(encode)) < 1e-6


def noisy(params, rows, key):
    kept = jax.random.bernoulli(key, 0.5, rows["a"].shape)
    return encode(params, rows | {"a": jnp.where(kept, rows["a"], 0.0)})


@pytest.mark.parametrize("n", [1, 4])
def test_each_micro_batch_has_a_key_of_its_own(n):
    """Equal to the micro-batches one by one, each with the key that the docstring names; the backward pass as well."""
    key = jax.random.key(5)

    def one_by_one(params, rows):
        parts = [jax.tree.map(lambda x, j=j: x[j::n], rows) for j in range(n)]
        parts = [noisy(params, part, jax.random.fold_in(key, j)) for j, part in enumerate(parts)]
        # Row i is the row i // n of micro-batch i % n.
        return jax.tree.map(lambda *x: jnp.stack([x[i % n][i // n] for i in range(12)]), *parts)

    encoder = microbatched(noisy, n)
    expected = value_and_gradients(one_by_one)
    assert deviation(value_and_gradients(lambda params, rows: encoder(params, rows, key)), expected) < 1e-6


def test_keys_of_the_rows_are_split_like_the_rows():
    def dropped(params, rows):
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (3,)))(rows["key"])
        return encode(params, rows | {"a": jnp.where(kept, rows["a"], 0.0)})

    keys = jax.random.split(jax.random.key(3), 12)
    found, expected = (
        value_and_gradients(lambda params, rows, e=e: e(params, rows | {"key": keys}))
        for e in (microbatched(dropped, 3), dropped)
    )
    assert deviation(found, expected) < 1e-6


@pytest.mark.parametrize(("backend", "devices"), [("jit", 8), ("pmap", 2), ("shard_map", 4)])
def test_contrastive_loss_over_devices(backend, devices):
    """Devices times micro-batches of the encoder: the one loss over all of the batch."""
    sums, grads, _ = reference("contrastive")
    parts = dataclasses.replace(CASES["contrastive"], objective=contrastive(SIZE // devices // 2).objective)
    state, metrics = take_step(parts, devices, 1, backend)
    total, weight = metrics["nt_xent"]
    np.testing.assert_allclose(total / weight, sums["nt_xent"][0] / sums["nt_xent"][1], rtol=1e-6)
    assert deviation(state.opt_state, grads) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_add_up_in_float32(dtype):
    """A large number and many ones: a sum of half precision stays at the large one."""
    large = 256.0 if dtype == jnp.bfloat16 else 2048.0
    weights = jnp.ones(257).at[0].set(large)[:, None]

    def gradient(n):
        encoder = microbatched(lambda p, rows: p * jnp.ones_like(rows, dtype), n)
        return jax.jit(jax.grad(lambda p: jnp.sum(encoder(p, weights) * weights)))(jnp.ones((), dtype))

    assert gradient(257).dtype == dtype
    assert float(gradient(257)) == large + 256


def test_memory_is_that_of_a_micro_batch():
    """Temporary memory of the compiled program, without arguments and results: the activations of the encoder."""

    def deep(params, rows):
        for w in params:
            rows = jnp.tanh(rows @ w)
        return rows

    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(16, 512), *[(512, 512)] * 4, (512, 16)]]
    rows = jax.ShapeDtypeStruct((2048, 16), jnp.float32)

    def needed(n):
        encoder = microbatched(deep, n)

        def loss(params, rows):
            z = encoder(params, rows)
            return nt_xent(z[::2], z[1::2]).mean()

        program = jax.jit(jax.grad(loss)).lower(params, rows).compile()
        return program.memory_analysis().temp_size_in_bytes / 2**20

    whole, parts = needed(1), needed(16)
    assert whole > 20  # Five layers of 2048 by 512 numbers.
    assert parts < whole / 3, f"{parts:.1f} MiB instead of {whole:.1f}"


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="n is 0"):
        microbatched(encode, 0)
    with pytest.raises(UsageError, match="12 rows do not divide evenly into 5 micro-batches: choose a divisor of 12"):
        microbatched(encode, 5)(PARAMS, ROWS)
    with pytest.raises(UsageError, match="same leading axis"):
        microbatched(encode, 2)(PARAMS, ROWS | {"b": np.zeros(6)})
    for n in (1, 2):
        with pytest.raises(UsageError, match=rf"given {12 // n} rows and returned an array of shape \(\)"):
            microbatched(lambda params, rows: rows["a"].sum(), n)(PARAMS, ROWS)
