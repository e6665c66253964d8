"""Additions to the next-token loss: each is its formula, all take the same operations, and every byte is counted."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import causal_variants
from experiments.causal_variants import ARMS, PLAIN, TWO, Arm, Config, make_model, make_objective, operations, steps_of
from experiments.data.causal import CausalText, Stream, eval_batches, whole_batches, whole_blocks
from experiments.data.tokenizers import CLS, SEP, ByteTokenizer
from experiments.evaluation.compression import bits_per_byte
from experiments.models.transformer import CausalLM, MultiTokenLM, TransformerConfig
from train.errors import UsageError
from train.objective import Context

SIZE, VOCABULARY = TransformerConfig(width=8, depth=2, heads=2), 11
CTX = Context(jax.random.key(0), jnp.int32(0))
VALID = np.arange(6)[None] < np.array([[6], [5]])
BATCH = {
    "tokens": np.random.default_rng(0).integers(0, VOCABULARY, (2, 6)).astype(np.int32),
    "valid": VALID,
    "segment_ids": np.where(VALID, [[1, 1, 1, 2, 2, 2]], 0).astype(np.int32),
}
PLACES = {"valid": BATCH["valid"], "segment_ids": BATCH["segment_ids"]}
SCORED = [(row, place) for row, last in ((0, 6), (1, 5)) for place in range(1, last) if place != 3]
"""Tokens with one before them in the same document."""


@pytest.fixture(scope="module")
def networks():
    """The model of two tokens with its parameters, large enough that logits differ, and its logits in float64."""
    model = MultiTokenLM(SIZE, VOCABULARY)
    params = jax.jit(model.init)(jax.random.key(1), BATCH["tokens"], valid=VALID)["params"]
    params["encoder"]["embedding"]["embedding"] *= 50
    logits = np.asarray(jax.jit(model.apply)({"params": params}, BATCH["tokens"], **PLACES), np.float64)
    return params, logits


def means(model, arm, params):
    terms = make_objective(model, arm)(params, BATCH, CTX)
    return {name: float(total / weight) for name, (total, weight) in ((n, t.sums()) for n, t in terms.items())}


@pytest.mark.parametrize("arm", [*(arm for arm in ARMS.values() if arm.tokens == 1), Arm(0.3, 2.0, 0.2)], ids=str)
def test_a_loss_is_its_formula(arm, networks):
    params, logits = networks
    values = []
    for row, place in SCORED:
        x = logits[row, 0, place - 1]
        if arm.soft_cap is not None:
            x = arm.soft_cap * np.tanh(x / arm.soft_cap)
        log_z = np.log(np.exp(x).sum())
        target = np.full(VOCABULARY, arm.label_smoothing / VOCABULARY)
        target[BATCH["tokens"][row, place]] += 1 - arm.label_smoothing
        values.append(-target @ (x - log_z) + arm.z_loss * log_z**2)
    model = CausalLM(SIZE, VOCABULARY)
    found = means(model, arm, {"encoder": params["encoder"]})
    assert found == {"token_1": pytest.approx(np.mean(values), rel=2e-5)}


def test_two_tokens_are_the_next_and_the_one_after_it(networks):
    params, logits = networks

    def mean(head, places):
        log_p = logits[:, head] - np.log(np.exp(logits[:, head]).sum(-1, keepdims=True))
        return np.mean([-log_p[row, place - 1 - head, BATCH["tokens"][row, place]] for row, place in places])

    later = [(0, 2), (0, 5), (1, 2)]  # two places after another of the same document
    expected = {"token_1": mean(0, SCORED), "token_2": mean(1, later)}
    assert means(MultiTokenLM(SIZE, VOCABULARY), ARMS[TWO], params) == pytest.approx(expected, rel=2e-5)


def test_the_first_of_two_tokens_is_predicted_by_the_plain_model(networks):
    params, logits = networks
    plain = CausalLM(SIZE, VOCABULARY)
    own = jax.jit(plain.init)(jax.random.key(1), BATCH["tokens"], valid=VALID)["params"]
    assert jax.tree.structure(own) == jax.tree.structure({"encoder": params["encoder"]})
    np.testing.assert_array_equal(
        own["encoder"]["block_1"]["qkv"]["kernel"], params["encoder"]["block_1"]["qkv"]["kernel"]
    )
    found = jax.jit(plain.apply)({"params": {"encoder": params["encoder"]}}, BATCH["tokens"], **PLACES)
    np.testing.assert_allclose(found[VALID], logits[:, 0][VALID], rtol=1e-4, atol=1e-4)
    assert np.abs(logits[:, 1] - logits[:, 0])[VALID].max() > 0.1


def test_all_arms_take_the_same_operations():
    config, vocabulary = Config(), Config().data.vocab_size
    width, depth, length = config.model.width, config.model.depth, config.data.seq_len
    block = 2 * 12 * width**2 + 2 * 2 * length * width  # of a token: four products of weights, two of attention
    output = 2 * vocabulary * width
    once = config.training.batch_size * length * 3  # forward, and backward twice as many
    plain, two = (operations(config, vocabulary, ARMS[name]) for name in (PLAIN, TWO))
    assert plain == once * (depth * block + output)
    assert two == once * ((depth + 1) * block + 2 * output)
    assert operations(config, vocabulary, Arm(0.3, 2.0, 0.2)) == plain
    assert steps_of(config, vocabulary, ARMS[TWO]) * two == pytest.approx(config.training.steps * plain, rel=0.02)


@pytest.mark.full
def test_the_compiler_counts_the_same_share_of_operations():
    config = dataclasses.replace(Config(), model=TransformerConfig(width=32, depth=2, heads=1))

    def counted(arm):
        model = make_model(config, VOCABULARY * 20, arm.tokens)
        params = jax.eval_shape(model.init, jax.random.key(0), BATCH["tokens"], valid=VALID)["params"]
        batch = {"tokens": jnp.zeros((8, 128), int), "valid": jnp.ones((8, 128), bool)}
        batch["segment_ids"] = batch["tokens"]

        def loss(params):
            terms = make_objective(model, arm)(params, batch, CTX).values()
            return sum(total / weight for total, weight in (term.sums() for term in terms))

        return jax.jit(jax.grad(loss)).lower(params).cost_analysis()["flops"]

    share = operations(config, VOCABULARY * 20, ARMS[TWO]) / operations(config, VOCABULARY * 20, ARMS[PLAIN])
    assert counted(ARMS[TWO]) / counted(ARMS[PLAIN]) == pytest.approx(share, rel=0.05)


def text_of(*documents):
    """A text of which each token stands for two bytes, and three bytes were lost."""
    tokenizer = ByteTokenizer()
    ids = [np.concatenate([[CLS], tokenizer.encode(text), [SEP]]) for text in documents]
    number = np.repeat(np.arange(len(ids)), [len(one) for one in ids])
    whole = np.concatenate(ids).astype(np.int32)
    stream = Stream(whole, number, (whole != CLS).astype(np.int64))
    text = "".join(f"{one}\n" * 2 for one in documents).encode()
    return CausalText(tokenizer, {"test": stream}, {"test": text}, {"test": 3})


def test_every_byte_is_counted_once_and_at_most_whole():
    text = text_of("abcab", "c", "bcabcabca")
    model = CausalLM(SIZE, text.tokenizer.vocab_size)
    params = jax.jit(model.init)(jax.random.key(2), np.zeros((1, 5), int), valid=np.ones((1, 5), bool))["params"]
    params["encoder"]["embedding"]["embedding"] *= 10
    networks = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.full_like(leaf, jnp.nan)]), params)
    apply, total = jax.jit(model.apply), 0.0
    for batch in eval_batches(text.streams["test"], batch_size=2, seq_len=5):
        places = {name: batch[name] for name in ("valid", "segment_ids")}
        x = np.asarray(apply({"params": params}, batch["tokens"], **places), np.float64)
        x = 0.5 * np.tanh(x / 0.5)
        log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
        for row, place in zip(*np.nonzero(batch["valid"][:, 1:]), strict=True):
            if batch["segment_ids"][row, place] == batch["segment_ids"][row, place + 1]:
                total -= log_p[row, place, batch["tokens"][row, place + 1]]
    bits = (total / math.log(2) + 8 * 3) / len(text.texts["test"])
    assert 4 < bits < 8
    found = bits_per_byte(model, networks, text, "test", shape=(2, 5), soft_cap=0.5)
    assert found == [pytest.approx(bits, rel=1e-5), 8.0]


def test_whole_passes_are_those_in_parts():
    stream = text_of("abcab", "c", "bcabcabca").streams["test"]
    parts = list(eval_batches(stream, batch_size=2, seq_len=5))
    whole = whole_batches(stream, batch_size=2, seq_len=5)
    for name, leaf in whole.items():
        np.testing.assert_array_equal(leaf, np.stack([part[name] for part in parts]))
    blocks = whole_blocks(stream, 5)
    assert blocks["valid"].all()
    starts = range(0, len(stream.ids) - 4, 4)
    np.testing.assert_array_equal(blocks["tokens"], [stream.ids[start : start + 5] for start in starts])
    with pytest.raises(UsageError, match=r"has 21 tokens, fewer than one block of 22"):
        whole_blocks(stream, 22)
    assert len(whole_blocks(stream, 21)["tokens"]) == 1


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(1.0, True), (0.0, False)])
def test_a_network_learns_to_compress(rate, learns, tmp_path, monkeypatch):
    monkeypatch.setattr(causal_variants, "ARMS", {PLAIN: ARMS[PLAIN]})
    monkeypatch.setattr(causal_variants, "STABLE", ())
    monkeypatch.setattr(causal_variants, "QUESTIONS", ())  # they ask of more than plain training
    config = Config().fast()
    optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
    training = dataclasses.replace(config.training, steps=60, optimizer=optimizer)
    config = dataclasses.replace(config, training=training, workdir=str(tmp_path / "run"))
    summary = causal_variants.main(config)
    bits = [row["test_bits_per_byte"] for row in summary["runs"] if row["method"] == PLAIN]
    uniform = 3.8  # all tokens equally likely: 9 bits for each
    assert (np.mean(bits) < uniform - 0.8) == learns
