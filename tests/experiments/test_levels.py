"""Losses on several levels of a text: what the levels are, that none sees what it predicts, and what is measured."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hierarchical_lm
from experiments.data import levels as data_levels
from experiments.data.causal import CausalText, Corpus, make_stream, plain_bytes
from experiments.data.tokenizers import ByteTokenizer
from experiments.evaluation import levels
from experiments.models.levels import LevelsLM
from experiments.models.transformer import TransformerConfig
from train.errors import UsageError
from train.objective import Context

VERSES = ['God said, "Let there be light!" And there was light.', "He saw it: good, so good."]
LENGTH = 48


def text_of(verses, documents):
    none = np.zeros(len(verses), int)
    corpus = Corpus(verses, np.asarray(documents), none, none)
    stream, plain = make_stream(corpus, ByteTokenizer()), plain_bytes(corpus)
    splits = ("train", "validation", "test")
    return CausalText(ByteTokenizer(), dict.fromkeys(splits, stream), dict.fromkeys(splits, plain), {})


@pytest.fixture(scope="module")
def found():
    text = text_of([*VERSES, "Light came. It was there, light."], [1, 1, 2])
    return data_levels.make_levels(text, 4, LENGTH)["train"]


def spans_of(found, level):
    """The text of each span."""
    text, start = data_levels.text_of(found.stream), 0
    parts = []
    for end in found.levels[level].end:
        parts.append(text[start : end + 1].strip("\0"))
        start = end + 1
    return parts


def test_levels_are_those_that_a_reader_finds(found):
    sentences = ['God said, "Let there be light!" ', "And there was light. ", "He saw it: good, so good.\n"]
    assert spans_of(found, "sentence") == [*sentences, "Light came. ", "It was there, light.\n"]
    phrases = ["God said, ", '"Let there be light!" ', "And there was light. ", "He saw it: ", "good, ", "so good.\n"]
    assert spans_of(found, "phrase") == [*phrases, "Light came. ", "It was there, ", "light.\n"]
    assert "".join(spans_of(found, "word")) == "".join(spans_of(found, "sentence"))
    assert spans_of(found, "word")[:4] == ["God ", "said, ", '"Let ', "there "]


def test_words_are_numbered_by_frequency_and_a_bag_holds_those_of_its_span(found):
    words = data_levels.words_of(data_levels.text_of(found.stream), found.levels["word"].end)
    counts = {word: words.count(word) for word in words}
    assert [counts[word] for word in ("light", "there")] == [4, 3]
    ids = dict(zip(words, found.levels["word"].words[:, 0].tolist(), strict=True))
    assert (ids["light"], ids["there"], ids["saw"]) == (1, 2, data_levels.OTHER)
    third = found.levels["sentence"].words[1]  # And there was light.
    assert third[:4].tolist() == [ids["and"], 2, ids["was"], 1]
    assert (third[4:] == -1).all()


def test_the_last_span_of_a_document_has_no_successor(found):
    for level in data_levels.ENDS:
        made = found.levels[level]
        document = found.stream.document[made.end]
        np.testing.assert_array_equal(made.follows[:-1], document[:-1] == document[1:])
        assert not made.follows[-1]


def test_a_block_predicts_only_what_comes_after_a_span_that_has_ended_in_it(found):
    starts = np.arange(len(found.stream.ids) - LENGTH + 1)
    batch = data_levels.make_blocks(found, starts, LENGTH)
    for level, made in found.levels.items():
        for row, start in enumerate(starts):
            spans = batch[f"{level}_spans"][row]
            for number in np.flatnonzero(batch[f"{level}_where"][row]):
                place = start + np.flatnonzero(spans == number)
                span = made.span[place[0]]
                assert place[-1] == made.end[span]  # whole up to its end, and no character of the next one
                np.testing.assert_array_equal(batch[f"{level}_next"][row, number], made.words[span + 1])


def small_model():
    return LevelsLM(TransformerConfig(width=8, depth=1, heads=1), 261, 5, ("word", "phrase", "sentence"))


def changed_from(batch, place):
    """The batch with other characters from a place on, in the same spans."""
    tokens = batch["tokens"].copy()
    tokens[:, place:] = 5 + (tokens[:, place:] + 37) % 256
    return batch | {"tokens": tokens}


@pytest.mark.parametrize("level", data_levels.ENDS)
def test_no_level_sees_what_it_predicts(found, level):
    """Changing characters after a span does not change its predictions; changing one inside it does."""
    batch, model = data_levels.make_blocks(found, np.array([1]), LENGTH), small_model()
    params = jax.tree.map(lambda leaf: leaf + 0.1, model.init(jax.random.key(0), batch)["params"])
    outputs = jax.jit(lambda batch: model.apply({"params": params}, batch))
    before = outputs(batch)
    ended = np.flatnonzero(batch[f"{level}_where"][0])
    assert len(ended)
    for number in ended:
        last = np.flatnonzero(batch[f"{level}_spans"][0] == number)[-1]
        after, early = outputs(changed_from(batch, last + 1)), outputs(changed_from(batch, last))

        def said(out, number=number):
            return out["sentence"][0][number] if level == "sentence" else out[level][0, number]

        np.testing.assert_allclose(said(after), said(before), rtol=1e-5, atol=1e-6)
        assert not np.allclose(said(early), said(before), rtol=1e-3)
        np.testing.assert_allclose(after["char"][0, : last + 1], before["char"][0, : last + 1], rtol=1e-5, atol=1e-6)


def test_terms_are_the_losses_by_hand(found):
    batch, model = data_levels.make_blocks(found, np.array([0, 20]), LENGTH), small_model()
    params = model.init(jax.random.key(1), batch)["params"]
    ctx = Context(jax.random.key(0), jnp.int32(0), train=True)
    terms = hierarchical_lm.make_objective(model, 0.1)({"net": params}, batch, ctx)
    out = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.apply({"params": params}, batch))

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    sums = {"char": [], "word": [], "phrase": [], "sentence": []}
    queries, keys = (x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-30) for x in out["sentence"])
    exist = np.flatnonzero(batch["sentence_where"])
    for row in range(2):
        for t in range(LENGTH - 1):
            if batch["segment_ids"][row, t] == batch["segment_ids"][row, t + 1]:
                sums["char"].append(-log_softmax(out["char"][row, t])[batch["tokens"][row, t + 1]])
        for s in np.flatnonzero(batch["word_where"][row]):
            sums["word"].append(-log_softmax(out["word"][row, s])[batch["word_next"][row, s, 0]])
        for s in np.flatnonzero(batch["phrase_where"][row]):
            words = [w for w in batch["phrase_next"][row, s] if w > 0]
            sums["phrase"].append(-np.mean([log_softmax(out["phrase"][row, s])[w] for w in words]))
    for place, number in enumerate(exist):
        sums["sentence"].append(-log_softmax(queries[number] @ keys[exist].T / 0.1)[place])
    for level, values in sums.items():
        total, weight = terms[level].sums()
        assert float(weight) == len(values) > 0, level
        np.testing.assert_allclose(total, np.sum(values), rtol=2e-5)


def test_places_are_those_of_the_predicted_characters():
    text = text_of([*VERSES, "Light came."], [1, 1, 2])
    blocks = levels.take_blocks(data_levels.make_levels(text, 4, 20)["train"], 3, 20)
    tokens, segment = blocks.batch["tokens"], blocks.batch["segment_ids"]
    predicted = tokens[:, 1:][segment[:, 1:] == segment[:, :-1]]
    plain = np.frombuffer(text.texts["train"], np.uint8)[levels.places(blocks)]
    np.testing.assert_array_equal(np.where(plain == ord("\n"), 3, plain + 5), predicted)  # 3 ends a document


def test_what_states_hold_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    words = rng.integers(1, 40, (900, 3))
    bags = levels.bags(words, 40)
    states = bags @ rng.normal(size=(40, 60)).astype(np.float32)
    split = (slice(0, 500), slice(500, 900))
    assert levels.find_next(*((states[part], bags[part]) for part in split)) > 0.9
    noise = rng.normal(size=(900, 60)).astype(np.float32)
    assert levels.find_next(*((noise[part], bags[part]) for part in split)) == pytest.approx(1 / 20, abs=0.04)
    assert levels.name_word(*((states[part], words[part, 0]) for part in split)) > 0.3


def test_arms_start_from_one_encoder_and_take_the_same_operations(found):
    """Of the study's own sizes: the steps of each arm are rounded by less than 2 %."""
    study, text = hierarchical_lm, text_of([*VERSES, "Light came. It was there, light."], [1, 1, 2])
    config = study.Config(data=dataclasses.replace(study.Config().data, seq_len=LENGTH))
    made = data_levels.make_levels(text, config.vocabulary, LENGTH)
    data = levels.Measured(text, made, {"train": levels.take_blocks(made["train"], 2, LENGTH)})
    small = dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=1))
    lab = study.make_lab(small, data, None)
    trainings = lab.trainings(0.1)
    for arm in study.TRAINED:
        assert trainings.share(arm, config.training.steps) == pytest.approx(1, abs=0.02)
    assert trainings.operations[study.ALL] > 1.05 * trainings.operations[study.CHARS]
    assert trainings.loss_weights[study.PHRASE] == {"char": 1.0, "phrase": 0.1}
    encoders = [study.initial(small, data, arm, 3)["encoder"] for arm in (study.CHARS, study.ALL)]
    jax.tree.map(np.testing.assert_array_equal, *encoders)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": ("+ words",)}, "characters"),
        ({"weights": (0.1, 0.0)}, "--weights must be above 0, got 0"),
        ({"arms": ("characters", "+ letters")}, "one of them is '[+] letters'"),
        ({"data": dataclasses.replace(hierarchical_lm.Config().data, tokenizer="sentencepiece")}, "must be bytes"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(changes, words):
    with pytest.raises(UsageError, match=words):
        hierarchical_lm.Config(**changes)


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(0.02, True), (0.0, False)])
def test_all_levels_learn(rate, learns, tmp_path, monkeypatch):
    """A hundred steps bring the characters well below what their frequencies alone give."""
    study = hierarchical_lm
    monkeypatch.setattr(study, "QUESTIONS", ())
    usual = study.Config().fast()
    optimizer = dataclasses.replace(usual.training.optimizer, learning_rate=rate)
    training = dataclasses.replace(usual.training, optimizer=optimizer, steps=100)
    config = dataclasses.replace(usual, training=training, model=study.Config().model, seeds=1)
    config = dataclasses.replace(config, ngram_order=1, fast_dev_run=True)
    summary = study.main(dataclasses.replace(config, workdir=str(tmp_path / "run")))
    trained = [row for row in summary["runs"] if row.get("method") in study.ARMS]
    (counts,) = (row["bits_per_char"] for row in summary["runs"] if row.get("method") == study.COUNTS)
    assert len(trained) == 2
    assert all((row["bits_per_char"] < counts - 0.4) == learns for row in trained)
