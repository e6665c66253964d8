"""A user's recordings: WAV files of every kind, three layouts, the split by voices, and what is refused."""

import json
import struct

import numpy as np
import pytest
from scipy.io import wavfile

from experiments.data import recordings
from experiments.data.log_mel import BANDS, HOP, log_mel
from experiments.data.recordings import RATE, read_recordings, read_wav, split_recordings
from experiments.data.records import Skips
from experiments.data.speech import SpeechConfig, read_corpus
from experiments.data.transcripts import read_entries
from train.errors import UsageError

RNG = np.random.default_rng(0)
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)


def riff(samples, bits, *, code=1, channels=1, rate=16_000):
    """A WAV file by its specification: bytes of a header of 44, and little-endian samples."""
    size = bits // 8
    if code == 3:
        data = np.asarray(samples, f"<f{size}").tobytes()
    elif bits == 8:
        data = bytes((np.round(np.asarray(samples) * 127) + 128).astype(np.uint8))
    else:
        whole = np.round(np.asarray(samples) * (2 ** (bits - 1) - 1)).astype(np.int64)
        data = b"".join(int(value).to_bytes(size, "little", signed=True) for value in whole)
    form = struct.pack("<HHIIHH", code, channels, rate, rate * size * channels, size * channels, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def speak(file, rate=RATE, seconds=0.6):
    """Writes a sound that rises and falls."""
    file.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate)) / rate
    wavfile.write(
        file, rate, np.round(9_000 * np.sin(2 * np.pi * (300 + 200 * np.sin(9 * times)) * times)).astype("<i2")
    )


def pairs(folder, count=60, voices=1, text="Well, {}!"):
    for number in range(count):
        file = folder / (f"v{number % voices}" if voices > 1 else ".") / f"{number}.wav"
        speak(file)
        file.with_suffix(".txt").write_text(text.format("abcdefgh"[number % 8]), encoding="utf-8")
    return folder


def read_all(folder, **options):
    return read_recordings(str(folder), 4_800, 300, 10.0, **options)


@pytest.mark.parametrize(("bits", "code"), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)])
def test_samples_of_every_width_are_read_alike(tmp_path, bits, code):
    (tmp_path / "a.wav").write_bytes(riff(TONE, bits, code=code))
    samples, rate = read_wav(tmp_path / "a.wav")
    assert rate == 16_000
    np.testing.assert_allclose(samples, TONE, atol=1 / 100 if bits == 8 else 1e-4)


def test_channels_are_averaged(tmp_path):
    both = np.stack([TONE, np.zeros_like(TONE)], 1).ravel()
    (tmp_path / "a.wav").write_bytes(riff(both, 16, channels=2))
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[0], TONE / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_rate_makes_no_difference_to_what_is_heard(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(recordings, "NOISE", 60.0)
    times = np.arange(rate // 2) / rate
    sound = sum(np.sin(2 * np.pi * hertz * times) for hertz in (300, 700, 1_500, 2_500)) / 8
    (tmp_path / "a.wav").write_bytes(riff(sound, 16, rate=rate))
    (tmp_path / "a.txt").write_text("a")
    [entry] = read_entries(str(tmp_path), Skips("a"))
    found = recordings.features_of(entry, np.random.default_rng(0))
    times = np.arange(RATE // 2) / RATE
    same = sum(np.sin(2 * np.pi * hertz * times) for hertz in (300, 700, 1_500, 2_500)) / 8
    same = same / same.std() + 1e-3 * np.random.default_rng(0).standard_normal(len(same))
    expected = log_mel(same, RATE)
    assert abs(len(found) - len(expected)) <= 1
    loud = [4, 9, 16, 23]  # bands of the four tones, which are the same at all rates
    assert found.shape[1] == BANDS
    raw = np.abs(found[3:-3].mean(0) - expected[3 : len(found) - 3].mean(0))
    assert raw[loud].max() < 0.1


def test_layouts_say_the_same(tmp_path):
    def texts(folder):
        found = read_entries(str(folder), Skips("x"))
        return {entry.file.stem: (entry.text.strip(), entry.voice) for entry in found}

    folder = tmp_path / "pairs"
    for name, text in (("a/one", "Yes."), ("b/two", "No, no!")):
        speak(folder / f"{name}.wav")
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8-sig")
    right = {"one": ("Yes.", "a"), "two": ("No, no!", "b")}
    assert texts(folder) == right
    lines = [
        {"audio_filepath": f"{name}.wav", "text": text} for name, text in (("a/one", "Yes."), ("b/two", "No, no!"))
    ]
    for name in ("manifest.jsonl", "manifest.json"):
        (folder / name).write_text("\n\n".join(map(json.dumps, lines)))
        assert texts(folder) == texts(folder / name) == right
        (folder / name).unlink()
    contents = {
        "a/one.wav|Yes.\nb/two.wav|No, no!\n": right,
        "a/one|y.|Yes.\nb/two|n|No, no!\n": right,
        'file,text,speaker\na/one.wav,Yes.,1\nb/two.wav,"No, no!",2\n': {"one": ("Yes.", "1"), "two": ("No, no!", "2")},
        "speaker\tfile_name\ttranscription\n1\ta/one.wav\tYes.\n2\tb/two.wav\tNo, no!\n": {
            "one": ("Yes.", "1"),
            "two": ("No, no!", "2"),
        },
    }
    for content, expected in contents.items():
        (folder / "metadata.csv").write_text(content)
        assert texts(folder) == texts(folder / "metadata.csv") == expected
    lj = tmp_path / "lj"
    speak(lj / "wavs" / "LJ001.wav")
    (lj / "metadata.csv").write_text('LJ001|Dr. "X|Doctor "X\n')
    assert texts(lj) == {"LJ001": ('Doctor "X', None)}


def test_a_part_of_a_file_is_read(tmp_path):
    speak(tmp_path / "a.wav", seconds=2.0)
    line = {"audio_filepath": "a.wav", "text": "a", "offset": 0.5, "duration": 0.5}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
    [entry] = read_entries(str(tmp_path), Skips("a"))
    assert len(recordings.features_of(entry, RNG)) == pytest.approx(0.5 / HOP, abs=2)


def test_voices_of_the_test_are_in_no_other_set(tmp_path):
    corpus = read_all(pairs(tmp_path, count=64, voices=8))
    assert {name: len(part) for name, part in corpus.sets.items()} == {
        "test": 16,
        "validation": 8,
        "heard voices": 4,
        "train": 36,
    }
    assert "8 voices are known; those of the test are in no other set" in corpus.remarks[0]
    assert corpus.alphabet == " abcdefghlw"
    assert {text.split()[0] for text in corpus.sets["test"].texts} == {"well"}
    names = [f"v{number % 7}" for number in range(200)]
    sides = {name: {names[row] for row in rows} for name, rows in split_recordings(names).items()}
    assert not sides["test"] & (sides["train"] | sides["validation"] | sides["heard voices"])
    assert not sides["validation"] & sides["train"]
    assert sides["heard voices"] <= sides["train"]
    rows = np.concatenate([*split_recordings(names).values()])
    assert sorted(rows.tolist()) == list(range(200))


def test_without_voices_recordings_are_split_and_the_report_says_so(tmp_path):
    config = SpeechConfig(path=str(pairs(tmp_path)), train=20, held_out=10)
    corpus = read_corpus(config)
    assert {name: len(part) for name, part in corpus.sets.items()} == {"test": 10, "validation": 5, "train": 20}
    assert "no voice is unheard" in corpus.remarks[0]


def broken(folder, name):
    """Makes one of 60 recordings unusable."""
    wav, text = folder / "7.wav", folder / "7.txt"
    empty = riff([], 16)
    if name == "no text":
        text.unlink()
    elif name == "no letter":
        text.write_text("?! --")
    elif name == "too many letters":
        text.write_text("a sentence that nobody can say in that time")
    else:
        good = wav.read_bytes()
        silent = riff(np.zeros(8_000), 16)
        nan = riff(np.full(8_000, np.nan), 32, code=3)
        click = riff(np.eye(1, 8_000, 4_000)[0], 16)
        found = {
            "empty": b"",
            "no samples": empty,
            "cut off": good[:9_000],
            "silent": silent,
            "nan": nan,
            "click": click,
        }
        wav.write_bytes(found.get(name, b"no WAV, but words of forty characters...." * 3))


PROBLEMS = {
    "no text": "expected the text of 7.wav in 7.txt, found no such file",
    "no letter": "7.wav: expected a text with letters, got '[?]! --'",
    "too many letters": "7.wav: expected at least 1.[0-9]+ s for the text 'a sent.*', got 0.[0-9]+ s without silence",
    "empty": "7.wav: .*",
    "no samples": "7.wav: ",
    "cut off": "7.wav: .*(cut off|EOF|buffer|end)",
    "silent": "7.wav: expected speech, got silence only",
    "nan": "7.wav: expected finite samples, got NaN or infinity",
    "click": "7.wav: expected at least 0.025 s of sound, got 0.000 s",
    "no WAV": "7.wav: .*",
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_recording_that_cannot_be_used_is_refused_or_skipped(tmp_path, problem, capsys):
    broken(pairs(tmp_path), problem)
    with pytest.raises(UsageError, match=r"(?s)of .* is damaged .*" + PROBLEMS[problem] + ".*--data.skip-budget 10"):
        read_all(tmp_path)
    corpus = read_all(tmp_path, skip_budget=1)
    assert sum(map(len, corpus.sets.values())) == 59
    assert "1 that cannot be used" in corpus.remarks[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.jsonl", "{}\n", "expected 'audio_filepath' with a text, got None"),
        (
            "manifest.jsonl",
            '{"audio_filepath": "0.wav"}\n',
            "expected 'text' with a text, got None among 'audio_filepath'",
        ),
        ("manifest.jsonl", "\n[1]\n", r"Line 2 .*expected a JSON object, got '\[1\]'"),
        ("manifest.jsonl", '{"audio\n', "Line 1 .*expected a JSON object, got"),
        ("manifest.jsonl", '"a"\n', "expected a JSON object, got"),
        (
            "manifest.jsonl",
            '{"audio_filepath": "gone.wav", "text": "a"}',
            r"expected the recording .*gone.wav.* found none",
        ),
        ("metadata.csv", "0.wav|a\n1.wav\n", "Line 2 .*expected 2 fields between '[|]', got 1"),
        (
            "manifest.jsonl",
            '{"audio_filepath": "0.wav", "text": "a", "offset": -1}',
            "Line 1 of manifest.jsonl .*expected an offset in seconds of at least 0, got -1",
        ),
        ("metadata.csv", "", "expected at least 50 recordings with texts in .*, got 0; add some"),
        ("metadata.csv", "0.wav|a\n1.wav|b", "expected at least 50 recordings with texts in .*, got 2; add some"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(tmp_path, name, content, message):
    for number in range(2):
        speak(tmp_path / f"{number}.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_all(tmp_path)


def test_places_without_recordings_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"as a folder with .*, got .*gone', and there is no such folder or file"):
        read_all(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"found no WAV file$"):
        read_all(tmp_path)
    (tmp_path / "a.flac").touch()
    with pytest.raises(UsageError, match=r"it has .flac files: convert them to WAV"):
        read_all(tmp_path)
    with pytest.raises(UsageError, match=r"got 0, besides 60 of more than 0.1 s .--data.longest-seconds.; add some"):
        read_recordings(str(pairs(tmp_path / "long")), 10, 10, 0.1)
