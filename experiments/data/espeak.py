"""Words read aloud by eSpeak NG, from the package `espeakng-loader` (extra `speech`).

eSpeak NG is GPL-3. It is called at run time by ctypes and never shipped. The library keeps state, so the same text
spoken twice differs. A new process with a fixed seed always gives the same audio, so each list of utterances is read by
a separate process, in the order of the list.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.errors import RunFailed

INSTALL = "python -m pip install -c constraints.txt -e '.[speech]'"
SAMPLE_RATE = 22_050
ACCENTS = ("en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
_NO_PEOPLE = ("croak", "demonic", "robosoft", "robot", "whisper")
"""Parts of the names of voices that imitate monsters, machines or whispers."""
_SYNCHRONOUS, _UTF8, _RATE, _PITCH = 2, 1, 1, 3  # constants of espeak-ng's speak_lib.h
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Utterance(NamedTuple):
    """A text with the voice, rate and pitch to read it."""

    text: str
    voice: str
    """An accent and a voice, such as "en-us+f3"."""
    rate: int
    """Words a minute, 80 to 450."""
    pitch: int
    """0 to 100; 50 is the voice's default."""


def has_espeak() -> bool:
    """Whether the extra is installed."""
    return find_spec("espeakng_loader") is not None


def version() -> str:
    """The version of the package, for the name of the cached file."""
    return importlib.metadata.version("espeakng-loader")


def voices() -> list[str]:
    """The names of all human voices, sorted."""
    import espeakng_loader

    names = os.listdir(Path(espeakng_loader.get_data_path()) / "voices" / "!v")
    return sorted(name for name in names if not any(part in name.lower() for part in _NO_PEOPLE))


def speak(utterances: Sequence[Utterance]) -> Iterator[np.ndarray]:
    """Reads a list aloud in a new process.

    Args:
        utterances: The utterances, read in this order.

    Yields:
        int16 samples of each, at `SAMPLE_RATE`.

    Raises:
        RunFailed: The process ended before the end of the list.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "experiments.data.espeak"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as child:
        child.stdin.write(json.dumps(utterances).encode())  # type: ignore[union-attr]
        child.stdin.close()  # type: ignore[union-attr]
        for number, utterance in enumerate(utterances):
            size = int.from_bytes(child.stdout.read(4), "little")  # type: ignore[union-attr]
            samples = np.frombuffer(child.stdout.read(2 * size), np.int16)  # type: ignore[union-attr]
            if not size or len(samples) < size:
                raise RunFailed(
                    f"eSpeak NG stopped at utterance {number} of {len(utterances)} ({utterance}); its message is above"
                )
            yield samples


def _start() -> Callable[[Utterance], np.ndarray]:
    """Starts the library; returns a function that reads one utterance."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    if library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(espeakng_loader.get_data_path()), 0) != SAMPLE_RATE:
        raise RunFailed("eSpeak NG did not start")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # the default, the time of day, is audible in breathy voices
    heard: list[np.ndarray] = []
    known = {"", *voices()}

    @_Callback
    def hear(samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(hear)

    def read(utterance: Utterance) -> np.ndarray:
        variant = utterance.voice.partition("+")[2]  # for a missing variant the library would use its default voice
        if variant not in known or library.espeak_SetVoiceByName(utterance.voice.encode()) != 0:
            raise RunFailed(f"eSpeak NG has no voice {utterance.voice!r}")
        library.espeak_SetParameter(_RATE, utterance.rate, 0)
        library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
        heard.clear()
        text = utterance.text.encode() + b"\0"
        library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, _UTF8, None, hear)
        return np.concatenate(heard)

    return read


def _read_aloud() -> None:
    """Reads the list on standard input aloud to standard output: a length in four bytes, then the samples."""
    read = _start()
    for utterance in json.load(sys.stdin.buffer):
        samples = read(Utterance(*utterance))
        sys.stdout.buffer.write(len(samples).to_bytes(4, "little") + samples.tobytes())


if __name__ == "__main__":
    _read_aloud()
