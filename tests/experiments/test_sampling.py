"""A trained language model continues texts: by the likeliest token, by drawing, in a window, and with clear errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossfns
from experiments import causal_lm
from experiments.__main__ import main
from experiments.data.load import DataConfig
from experiments.data.tokenizers import (
    CLS,
    SEP,
    SPECIAL_IDS,
    ByteTokenizer,
    SentencePieceTokenizer,
    train_sentencepiece,
)
from experiments.models.sampling import keep_likeliest, sample
from experiments.models.transformer import CausalLM, TransformerConfig
from experiments.study import prompt
from experiments.study.config import nested, settings
from experiments.study.prompt import SampleOptions, continuations, prompt_ids
from experiments.study.saved import save_model
from train.errors import UsageError

SIZE, WINDOW = TransformerConfig(width=16, depth=1, heads=1), 8
TOKENIZER = ByteTokenizer()
MODEL = CausalLM(SIZE, TOKENIZER.vocab_size)
TEXT = np.concatenate([[CLS], TOKENIZER.encode("the cat, the dog, the cow, "), [SEP]])


def fitted():
    """Parameters trained on windows of the text."""
    tokens = jnp.asarray(np.stack([np.resize(TEXT, len(TEXT) + WINDOW)[i : i + WINDOW] for i in range(len(TEXT))]))
    params = MODEL.init(jax.random.key(0), tokens, valid=tokens >= 0)["params"]
    optimizer = optax.adam(0.02)

    @jax.jit
    def update(carry, _):
        def loss(params):
            logits = MODEL.apply({"params": params}, tokens, valid=tokens >= 0)
            return lossfns.next_token(logits, tokens).mean()

        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(update, (params, optimizer.init(params)), length=60)[0][0]


def write_folder(path, study, config, params, arguments, tokenizer=None):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"study": study, **nested(settings(config))}))
    save_model(path, params, arguments, tokenizer)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The parameters, and a folder as a finished study leaves it."""
    params = fitted()
    config = causal_lm.Config(data=DataConfig(tokenizer="bytes", seq_len=WINDOW), model=SIZE)
    place = tmp_path_factory.mktemp("sampling") / "run"
    return params, write_folder(place, "causal_lm", config, params, [TOKENIZER.vocab_size], TOKENIZER)


@jax.jit
def logits_at(params, context, last):
    """Logits at a position of WINDOW tokens; those after it are padding."""
    valid = (jnp.arange(WINDOW) <= last)[None]
    return MODEL.apply({"params": params}, context[None], valid=valid)[0, last]


def scores_after(params, ids):
    """Logits after the last of some tokens, of which the model sees as many as a training block has."""
    seen = ids[-WINDOW:]
    logits = np.array(logits_at(params, np.resize(seen, WINDOW), len(seen) - 1), np.float64)
    logits[[i for i in SPECIAL_IDS if i != SEP]] = -np.inf
    return logits


def test_temperature_0_takes_the_likeliest_token_by_hand(trained, capsys):
    params, folder = trained
    ids = [CLS, *TOKENIZER.encode("the c")]
    for _ in range(12):  # further than the window
        ids.append(int(scores_after(params, ids).argmax()))
    expected = TOKENIZER.decode(ids[: ids.index(SEP) if SEP in ids else None])
    assert main(["sample", folder, "the c", "--tokens", "12", "--temperature", "0"]) == 0
    printed = capsys.readouterr().out
    assert printed == expected + "\n"
    assert len(ids) > WINDOW
    assert "the" in expected[5:]  # it has learnt something, so that the likeliest tokens are not all the same
    assert continuations(SampleOptions(folder, "the c", tokens=12, top_k=1)) == [expected]


class Sums:
    """Its likeliest next token is 5 plus the sum of the tokens that it sees up to here, modulo 7."""

    def apply(self, variables, tokens, valid):
        return jax.nn.one_hot(5 + jnp.cumsum(tokens, axis=1) % 7, 12)


@pytest.mark.parametrize("window", [3, 4, 9, None])
def test_the_network_sees_the_last_tokens_of_the_window(window):
    ids = [CLS, 6, 11, 8, 10, 7]
    found = sample(Sums(), {}, jax.random.key(0), length=14, rows=1, temperature=0, prompt=ids[1:], window=window)
    while len(ids) < 14:
        ids.append(5 + sum(ids[-(window or 99) :]) % 7)
    assert found.tolist() == [ids]


def test_draws_follow_the_probabilities(trained):
    params, _ = trained
    given = TOKENIZER.encode("the ").tolist()
    count, options = 4_000, {"length": 6, "prompt": given, "window": WINDOW, "temperature": 2.0}
    drawn = sample(MODEL, params, jax.random.key(3), rows=count, **options)
    np.testing.assert_array_equal(drawn[:, :5], np.tile([CLS, *given], (count, 1)))
    p = np.exp(scores_after(params, [CLS, *given]) / 2.0)
    p /= p.sum()
    share = np.bincount(drawn[:, 5], minlength=len(p)) / count
    assert np.all(np.abs(share - p) < 5 * np.sqrt(p / count) + 1e-3)
    assert p.max() < 0.9
    few = sample(MODEL, params, jax.random.key(3), rows=500, top_k=2, **options)
    assert {*few[:, 5].tolist()} == {*np.argsort(-p)[:2].tolist()}


def test_a_seed_is_a_text(trained):
    _, folder = trained
    hot = {"tokens": 20, "temperature": 3.0, "count": 3}
    first, again, other = (continuations(SampleOptions(folder, "the d", seed=seed, **hot)) for seed in (0, 0, 1))
    assert first == again != other
    assert len({*first}) == 3
    assert all(text.startswith("the d") for text in first)


def test_an_empty_prompt_is_a_text_from_the_start(trained):
    assert continuations(SampleOptions(trained[1], tokens=1, temperature=0))[0] == "t"


@pytest.mark.parametrize("top_k", [None, 1, 3, 50])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_the_likeliest_tokens_are_kept(top_k, top_p):
    scores = np.random.default_rng(0).normal(size=(7, 9)) * 2
    kept = np.asarray(keep_likeliest(jnp.asarray(scores, jnp.float32), top_k, top_p)) > -np.inf
    for row, found in zip(scores, kept, strict=True):
        order = np.argsort(-row)[:top_k]
        p = np.exp(row[order]) / np.exp(row[order]).sum()
        expected, mass = [], 0.0
        for token, part in zip(order, p, strict=True):
            expected.append(token)
            mass += part
            if mass >= top_p:
                break
        assert sorted(expected) == np.flatnonzero(found).tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "0"], "--tokens must be at least 1, but it is 0"),
        (["--count", "0"], "--count must be at least 1, but it is 0"),
        (["--seed", "-1"], "--seed must be at least 0, but it is -1"),
        (["--top-k", "0"], "--top-k must be at least 1, but it is 0"),
        (["--top-p", "0"], "--top-p must be above 0 and at most 1, but it is 0.0"),
        (["--top-p", "nan"], "--top-p must be above 0 and at most 1, but it is nan"),
        (["--temperature", "-1"], "--temperature must be a number from 0 on, but it is -1.0"),
        (["--temperature", "inf"], "--temperature must be a number from 0 on, but it is inf"),
        (["\udcff"], "the prompt '\\udcff' is no text in UTF-8; type it again"),
    ],
)
def test_bad_options_are_one_sentence(trained, words, message, capsys):
    assert main(["sample", trained[1], *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_folder_without_a_language_model_is_refused(trained, tmp_path, capsys):
    assert main(["sample", str(tmp_path / "none"), "a"]) == 2
    assert "contains no model" in capsys.readouterr().err
    minima = pytest.importorskip("experiments.minima")
    place = write_folder(tmp_path / "digits", "minima", minima.Config(), {"w": np.zeros(1)}, [])
    assert main(["sample", place, "a"]) == 2
    message = f"error: the model in {place} is no language model but a MLP; give the folder of a finished causal_lm\n"
    assert capsys.readouterr().err == message
    with pytest.raises(SystemExit) as stop:
        main(["sample"])
    assert stop.value.code == 2
    assert "required" in capsys.readouterr().err.lower()


def test_characters_that_the_tokenizer_never_saw_are_named():
    text = ["In the beginning God created the heavens and the earth."] * 20
    tokenizer = SentencePieceTokenizer(train_sentencepiece(text, 40, "unigram"))
    assert tokenizer.decode(prompt_ids("the earth", tokenizer)) == "the earth"
    with pytest.raises(UsageError, match="the tokenizer never saw Z λ, so the model knows nothing of it"):
        prompt_ids("the Z and λ Z", tokenizer)


def test_the_command_is_listed_and_explained(capsys):
    assert main([]) == 0
    assert 'sample runs/causal_lm "In the beginning"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        prompt.sample_prompt(["--help"], {})
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--tokens", "--temperature", "--top-k", "--top-p", "--seed", "--count"):
        assert option in shown
