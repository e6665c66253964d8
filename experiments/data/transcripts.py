"""Which text belongs to which recording: a manifest, a table of metadata, or text files beside the recordings."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.records import Skips
from train.errors import UsageError

MANIFESTS, METADATA = ("manifest.jsonl", "manifest.json"), ("metadata.csv", "metadata.tsv")
FILE = ("audio_filepath", "file", "file_name", "filename", "path", "wav", "audio", "id")
TEXT = ("text", "transcription", "transcript", "sentence")
VOICE = ("speaker", "speaker_id", "client_id", "voice")
"""Names of a column, or of a key."""
LAYOUT = (
    "manifest.jsonl with audio_filepath and text, metadata.csv with file|text in each line, or NAME.wav beside NAME.txt"
)


class Entry(NamedTuple):
    """A recording, its text, and who speaks."""

    file: Path
    text: str
    voice: str | None
    where: str
    """The unit that names it in messages: "recording", or "line"."""
    number: int
    """Of the unit, from 1."""
    start: float = 0.0
    """Seconds of the file before the recording."""
    seconds: float | None = None
    """How long it is, if it is a part of the file."""


def read_entries(path: str, skips: Skips) -> list[Entry]:
    """Finds recordings and their texts.

    Args:
        path: A folder, or a manifest or metadata in it.
        skips: Notes those without a recording or a text.

    Raises:
        UsageError: There is nothing of that kind.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        folder = place
        found = next((folder / name for name in (*MANIFESTS, *METADATA) if (folder / name).is_file()), None)
    else:
        folder, found = place.parent, place
    if found is not None and (not found.is_file() or found.suffix.lower() not in (".json", ".jsonl", ".csv", ".tsv")):
        raise UsageError(
            f"expected --data.path as a folder with {LAYOUT}, got {path!r}"
            + ("" if found.exists() else ", and there is no such folder or file")
        )
    if found is None:
        entries = list(_pairs(folder, skips))
    else:
        entries, skips.what = [], found.name
        for number, row in _rows(found):
            try:
                entries.append(_entry(row, folder, number))
            except (ValueError, TypeError) as error:
                skips.skip("line", number, error)
    return _with_voices(entries)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields number and fields of each line, or what is wrong with it."""
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error
    yield from (_lines if file.suffix.lower() in (".json", ".jsonl") else _table)(content)


def _lines(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Objects of lines of JSON."""
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else f"expected a JSON object, got {line.strip()[:40]!r}"


def _table(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Rows of a table with a header, or else with two columns, or with three as LJSpeech: the last is spelled out."""
    head = content.split("\n", 1)[0]
    delimiter = next((mark for mark in "|\t," if mark in head), "|")
    quoting: Any = {"quoting": csv.QUOTE_NONE} if delimiter == "|" else {}
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, **quoting)
    names: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, f"expected a line of a table, got none ({error})"
            continue
        if cells is None:
            return
        if not any(cells):
            continue
        lower = [cell.strip().lower() for cell in cells]
        if names is None and {*lower} & {*FILE} and {*lower} & {*TEXT}:
            names = lower
            continue
        names = names or [FILE[0], TEXT[0]]
        if names == [FILE[0], TEXT[0]] and len(cells) == 3 and delimiter == "|":
            cells = [cells[0], cells[2]]
        if len(cells) == len(names):
            yield reader.line_num, dict(zip(names, cells, strict=True))
        else:
            yield reader.line_num, f"expected {len(names)} fields between {delimiter!r}, got {len(cells)}"


def _entry(row: dict[str, Any] | str, folder: Path, number: int) -> Entry:
    if isinstance(row, str):
        raise ValueError(row)
    name, text, voice = (next((row[key] for key in keys if key in row), None) for keys in (FILE, TEXT, VOICE))
    for value, keys in ((name, FILE), (text, TEXT)):
        if not isinstance(value, str):
            raise ValueError(f"expected {keys[0]!r} with a text, got {value!r} among {', '.join(map(repr, row))}")
    tried = [folder / str(name), folder / f"{name}.wav", folder / "wavs" / str(name), folder / "wavs" / f"{name}.wav"]
    file = next((one for one in tried if one.is_file()), None)
    if file is None:
        raise ValueError(
            f"expected the recording {tried[0]}, {tried[1].name} or wavs/{tried[1].name}, found none of them"
        )
    start, seconds = (row.get("offset") or 0.0), (row.get("duration") if row.get("offset") is not None else None)
    if not 0 <= float(start) < float("inf"):
        raise ValueError(f"expected an offset in seconds of at least 0, got {start!r}")
    known = None if voice is None or not str(voice).strip() else str(voice).strip()
    return Entry(file, str(text), known, "line", number, float(start), None if seconds is None else float(seconds))


def _pairs(folder: Path, skips: Skips) -> Iterator[Entry]:
    """Recordings in the folder and below, with a text file of the same name each."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".wav")
    if not files:
        others = sorted({file.suffix for file in folder.rglob("*") if file.suffix.lower() in (".flac", ".mp3", ".ogg")})
        hint = f"; it has {', '.join(others)} files: convert them to WAV (ffmpeg -i a.mp3 a.wav)" if others else ""
        raise UsageError(f"expected recordings in {folder}: {LAYOUT}; found no WAV file{hint}")
    for number, file in enumerate(files, 1):
        beside = file.with_suffix(".txt")
        try:
            if not beside.is_file():
                raise ValueError(
                    f"expected the text of {file.relative_to(folder)} in {beside.name}, found no such file"
                )
            yield Entry(file, beside.read_text(encoding="utf-8-sig"), None, "recording", number)
        except (OSError, ValueError) as error:
            skips.skip("recording", number, error)


def _with_voices(entries: list[Entry]) -> list[Entry]:
    """Takes folders for voices, if none is named and there are several."""
    if not entries or any(entry.voice for entry in entries):
        return entries
    top = os.path.commonpath([entry.file.parent for entry in entries])
    parts = [entry.file.parent.relative_to(top).parts for entry in entries]
    if not all(parts):
        return entries
    return [entry._replace(voice=own[0]) for entry, own in zip(entries, parts, strict=True)]
