"""Reading aloud: features, masks, decoding, errors, templates, and the study of them."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import speech_ctc, study
from experiments.baselines.templates import Templates
from experiments.data import espeak, speech
from experiments.data.log_mel import BANDS, HOP, WINDOW, add_noise, log_mel, mel, spec_augment
from experiments.data.speech import SpeechConfig, plan, read_corpus, split_voices
from experiments.evaluation.readers import Readers, choose_size, make_readers
from experiments.evaluation.reading import edit_distance, measure
from experiments.models.decoding import MOST, collapse, transduce
from experiments.models.speech import EncoderConfig, FrameReader, Transducer, initial, read, uniform_alignment
from train.errors import RunFailed, UsageError
from train.objective import Context

SMALL = SpeechConfig(words=12, new_words=6, train=64, held_out=12)
STRIPS = dataclasses.replace(SMALL, name="strips")
RATE = 16_000


def test_edit_distance_is_that_of_the_recursion():
    @functools.cache
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2))
        assert edit_distance(a, b) == slow(a, b)


def test_words_and_letters_are_counted():
    found = measure(["the sea", "light"], ["the see", "a light"], "_far")
    assert found["cer_far"] == pytest.approx((1 + 2) / 12)
    assert found["wer_far"] == pytest.approx((1 + 1) / 3)
    assert found["wer_far examples"] == [[1, 2], [1, 1]]


def test_log_mel_is_that_of_a_slow_transform():
    samples = np.random.default_rng(1).standard_normal(RATE // 20) * 3
    width, hop, size = round(WINDOW * RATE), round(HOP * RATE), 512
    edges = 700 * (10 ** (np.linspace(mel(60.0), mel(8_000.0), BANDS + 2) / 2_595) - 1)
    rows = []
    for start in range(0, len(samples) - width + 1, hop):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / (width - 1))
        part, row = samples[start : start + width] * window, []
        power = [abs(np.sum(part * np.exp(-2j * np.pi * k * np.arange(width) / size))) ** 2 for k in range(257)]
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            at = [mel(k * RATE / size) for k in range(257)]
            up = [(x - mel(low)) / (mel(middle) - mel(low)) for x in at]
            down = [(mel(high) - x) / (mel(high) - mel(middle)) for x in at]
            row.append(np.log(sum(p * max(0, min(u, d)) for p, u, d in zip(power, up, down, strict=True)) + 1e-10))
        rows.append(row)
    expected = np.array(rows) - np.mean(rows, 0)
    np.testing.assert_allclose(log_mel(samples, RATE), expected / expected.std(), atol=2e-4)


def test_noise_has_the_power_that_is_asked_for():
    rng = np.random.default_rng(2)
    signal = 1_000 * np.sin(np.arange(100_000) / 9)
    noise = add_noise(signal, 10.0, rng) - signal / np.sqrt(np.mean(signal**2))
    assert np.mean(noise**2) == pytest.approx(0.1, rel=0.02)


def test_masks_hide_whole_bands_and_times_within_their_limits():
    features, frames = jnp.ones((200, 50, 40)), jnp.full(200, 40)
    hidden = np.asarray(spec_augment(jax.random.key(0), features, frames, masks=1, bands=8, share=0.25)) == 0
    bands, times = hidden.all(1), hidden.all(2)
    np.testing.assert_array_equal(hidden, bands[:, None, :] | times[:, :, None])
    assert bands.sum(1).max() == 8
    assert times.sum(1).max() in (9, 10)
    assert not times[:, 40:].any()
    assert bands.sum(1).mean() == pytest.approx(4, abs=0.5)  # uniform from 0 to 8


def test_uniform_alignment_collapses_to_its_letters():
    rng = np.random.default_rng(3)
    labels, letters = np.zeros((40, 6), np.int32), rng.integers(1, 7, 40)
    for row, length in enumerate(letters):
        labels[row, :length] = rng.integers(1, 4, length)
    frames = rng.integers(11, 20, 40)
    found = np.asarray(uniform_alignment(jnp.asarray(labels), jnp.asarray(letters), jnp.asarray(frames), 20))
    for row, path in enumerate(found):
        assert collapse(path[: frames[row]].tolist()) == labels[row, : letters[row]].tolist()
        assert not path[frames[row] :].any()
    once = np.asarray(uniform_alignment(jnp.array([[1, 2, 3]]), jnp.array([3]), jnp.array([9]), 9))
    assert once.tolist() == [[1, 1, 1, 2, 2, 2, 3, 3, 3]]


@pytest.mark.full
def test_a_transducer_decodes_by_the_logits_it_is_trained_on():
    model, rng = Transducer(EncoderConfig(width=8, depth=1, context=2), 5), np.random.default_rng(4)
    features, frames = rng.standard_normal((3, 12, 6)), np.array([12, 7, 3])
    params = jax.tree.map(lambda leaf: 3 * leaf, initial(model, features[:1], 0))
    written = read(model, params, features, frames, 1)
    apply = jax.jit(lambda labels: model.apply({"params": params}, features.astype(np.float32), labels))
    assert any(written)
    for row in range(3):
        letters = []
        for frame in range(-(-frames[row] // 2)):
            for _ in range(MOST):
                labels = np.zeros((3, 6 * MOST), np.int32)
                labels[row, : len(letters)] = letters
                best = int(np.argmax(apply(labels)[row, frame, len(letters)]))
                if best == 0:
                    break
                letters.append(best)
        assert written[row] == letters


def test_a_transducer_writes_no_more_than_it_may_at_a_frame():
    always = transduce(jnp.zeros((1, 3, 1)), jnp.array([2]), lambda frame, last: jnp.array([[0.0, 1.0]]), 2)
    assert always.tolist() == [[1] * (2 * MOST) + [0] * MOST]


def test_templates_find_the_cheapest_sequence():
    rng = np.random.default_rng(5)
    parts = [rng.standard_normal((n, 2)) for n in (2, 3, 3)]
    heard = rng.standard_normal((6, 2))

    def cost(template, segment):
        """The cheapest path that starts in the first frame, ends in the last, and steps by 0, 1 or 2."""
        best = np.inf
        for steps in itertools.product((0, 1, 2), repeat=len(segment) - 1):
            path = np.cumsum([0, *steps])
            if path[-1] == len(template) - 1:
                best = min(best, sum(((template[i] - x) ** 2).sum() for i, x in zip(path, segment, strict=True)))
        return best

    @functools.cache
    def best_to(end):
        if end == 0:
            return 0.0, ()
        options = []
        for start, word in itertools.product(range(end), range(3)):
            before, words = best_to(start)
            options.append((before + 0.3 + cost(parts[word], heard[start:end]), (*words, "abc"[word])))
        return min(options)

    assert Templates(parts, "abc").read(heard, 0.3) == list(best_to(6)[1])


def test_voices_and_texts_of_the_test_are_new():
    sets = plan(SpeechConfig(words=60, new_words=20, train=1_000, held_out=200))
    of_voice = lambda u: u.voice.split("+")[1].lower().rstrip("0123456789")  # noqa: E731
    families = {name: {of_voice(utterance) for utterance in part} for name, part in sets.items()}
    for one, other in itertools.combinations(("train", "validation", "test"), 2):
        assert not families[one] & families[other]
    assert families["heard voices"] <= families["train"]
    texts = {name: {u.text for u in part} for name, part in sets.items()}
    words = {name: {word for text in part for word in text.split()} for name, part in texts.items()}
    for name in ("validation", "test", "heard voices"):
        assert not texts[name] & texts["train"]
        assert words[name] <= words["train"]
    assert not words["new words"] & words["train"]
    parts = split_voices(espeak.voices(), 15, 8, np.random.default_rng(0))
    assert [len(part) for part in parts[1:]] == [8, 15]
    assert sorted(itertools.chain(*parts)) == espeak.voices()


def test_speech_is_kept(monkeypatch):
    first = read_corpus(SMALL)
    monkeypatch.setattr(speech, "speak", lambda utterances: pytest.fail("it was read aloud again"))
    again = read_corpus(SMALL)
    for name, part in first.sets.items():
        np.testing.assert_array_equal(part.features, again.sets[name].features)
        assert np.abs(part.features.astype(np.float32)).sum((1, 2)).min() > 0
    assert set(first.units().texts) == {text for text in first.sets["train"].texts if " " not in text}


@pytest.mark.full
def test_two_processes_say_the_same():
    utterances = [espeak.Utterance("children of light", f"en-us+{voice}", 160, 50) for voice in espeak.voices()]
    for once, again in zip(espeak.speak(utterances), espeak.speak(utterances), strict=True):
        np.testing.assert_array_equal(once, again)


def test_a_voice_that_is_not_there_ends_in_a_sentence(capfd):
    with pytest.raises(RunFailed, match="stopped at utterance 0 of 1"):
        list(espeak.speak([espeak.Utterance("a", "en-us+nobody at all", 160, 50)]))
    assert "no voice" in capfd.readouterr().err


def test_without_the_library_there_are_strips(monkeypatch):
    monkeypatch.setattr(espeak, "has_espeak", lambda: False)
    corpus = read_corpus(SMALL)
    assert corpus.name == "strips of handwritten digits"
    test = corpus.sets["test"]
    assert all(3 <= len(text) <= 5 for text in test.texts)
    assert not np.any(test.features[0, test.frames[0] :])
    assert {len(text) for text in corpus.units().texts} == {1}
    batch = next(corpus.batches(8, 0))
    assert corpus.spell([row[:n] for row, n in zip(batch["labels"], batch["letters"], strict=True)])[0].isdigit()


@pytest.mark.parametrize("method", speech_ctc.Config().arms)
def test_the_objective_of_a_batch(method):
    config = dataclasses.replace(speech_ctc.Config(data=STRIPS).fast(), data=STRIPS)
    corpus, arm = read_corpus(STRIPS), speech_ctc.ARMS[method]
    model = speech_ctc.make_model(config, arm.loss, corpus.classes)
    assert isinstance(model, Transducer if arm.loss == "transducer" else FrameReader)
    objective, batch = speech_ctc.make_objective(model, arm), next(corpus.batches(4, 0))
    params = initial(model, corpus.sets["train"].features, 0)

    def loss(params, train):
        total, weight = objective(params, batch, Context(jax.random.key(0), jnp.int32(0), train=train))[
            "reading"
        ].sums()
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, False)
    assert np.isfinite(value)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert (abs(float(loss(params, True)) / float(value) - 1) > 1e-4) == arm.augment  # only masks change it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": 3, "train": 200}, "15 texts that are not in training were expected, but 3 words give almost none"),
        ({"words": 9_000_000}, "--data.words and --data.new-words may be [0-9]+ together, but they are 9000000 and 6"),
    ],
)
def test_words_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        plan(dataclasses.replace(SMALL, held_out=30, **options))


def test_one_width_is_chosen_for_all_arms_at_equal_operations(tmp_path, monkeypatch):
    usual = speech_ctc.Config(data=STRIPS).fast()
    config = dataclasses.replace(usual, data=STRIPS, workdir=str(tmp_path), arms=("CTC", "CTC, SpecAugment"))
    losses = {(1.0, "CTC"): 0.3, (1.5, "CTC"): 0.2}
    monkeypatch.setattr(Readers, "try_size", lambda self, size, sized: {"width": 0, "loss": losses[size, sized]})
    with study.open_study(config, "Widths.") as run:
        corpus = speech_ctc.make_data(config)
        readers = make_readers(config, corpus, run, speech_ctc.make_start, speech_ctc.make_recipe)
        chosen, rows = choose_size(readers, ["CTC"], (1.0, 1.5))
        assert (chosen.config.model.width, len(rows)) == (12, 2)
        assert choose_size(readers, ["CTC"], (1.0,)) == (readers, [])
    assert chosen.operations["CTC"] > readers.operations["CTC"] == chosen.budget
    for one in (readers, chosen):
        spent = one.steps("CTC", 1_000) * one.operations["CTC"]
        assert spent == pytest.approx(1_000 * readers.operations["CTC"], rel=0.01)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UsageError, match=r"--batch-size must be at most --data.train, 9, but it is 16"):
        speech_ctc.Config(data=dataclasses.replace(SMALL, train=9))
    with pytest.raises(UsageError, match=r"of at least 1 and --data.held-out of at least 2, got 64 and 1"):
        dataclasses.replace(SMALL, held_out=1)
    with pytest.raises(UsageError, match=r"expected --sizes that leave at least one channel of 96, got \(0.001,\)"):
        speech_ctc.Config(sizes=(0.001,))


@pytest.mark.study
@pytest.mark.parametrize("rate", [8e-3, 0.0])
def test_ctc_learns_to_read_unless_its_rate_is_0(rate, tmp_path):
    """Strips of digits that are in no training strip; writing one digit always gets most letters wrong."""
    data = SpeechConfig(name="strips", train=1_000, held_out=100)
    usual = speech_ctc.Config(data=data, model=EncoderConfig(width=32, depth=2), arms=("CTC",), seeds=1)
    optimizer = dataclasses.replace(usual.training.optimizer, learning_rate=rate)
    training = dataclasses.replace(usual.training, optimizer=optimizer, steps=300)
    config = dataclasses.replace(usual, training=training, tuning_steps=1, fast_dev_run=True)
    error = speech_ctc.main(dataclasses.replace(config, workdir=str(tmp_path / "run")))["runs"][0]["cer"]
    assert error < 0.4 if rate else error > 0.6
