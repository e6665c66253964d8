"""Names of one concept in several languages: of emoji, of the characters of HTML, or a user's own pairs of texts.

The names of emoji need the extra `emoji` (the package is BSD-3; the names are from Unicode's CLDR, Unicode License v3).
The fallback is the names of characters in HTML and Unicode, from Python's `html` and `unicodedata`; `Names.source` says
which was read.
"""

from __future__ import annotations

import csv
import html.entities
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import UsageError

INSTALL = "python -m pip install -c constraints.txt -e '.[emoji]'"
LATIN = ("de", "es", "fr", "pt", "it", "id", "tr")
OTHER = ("ru", "ar", "fa", "ja", "ko", "zh")
LEFT_OUT = {"Portuguese": "pt", "Chinese": "zh"}
"""Languages withheld from one method; it sees related ones (Spanish, and Japanese with its kanji)."""
LEAST = 100
"""Minimum number of pairs in a user's own file; with fewer, too little is left to test on."""
_SAME_PERSON = {ord(sign): "🧑" for sign in "👨👩🧑"} | {ord(sign): "🧒" for sign in "👦👧🧒"}
_SAME_PERSON |= {ord(sign): "🧓" for sign in "👴👵🧓"}
_JOINERS = dict.fromkeys(map(ord, "♂♀\u200d\ufe0f"))
_GENDERS = {
    "man", "woman", "person", "men", "women", "people", "mr", "mrs", "mx", "santa", "boy", "girl", "child",
}  # fmt: skip
_CROWNED = ("prince", "princess", "with crown")


@dataclass(frozen=True)
class NamesConfig:
    """The texts."""

    path: str | None = None
    """A UTF-8 file of pairs to learn instead, two texts per line: .tsv with a tab between them, or .csv."""


@dataclass(frozen=True)
class Names:
    """N concepts, with one name in each language.

    Attributes:
        source: What was read, for the report.
        texts: [N] names by language; the first language gives the queries, the others the answers.
        family: [N]; siblings (such as man and woman of one profession) have the same number.
        groups: Answer languages that are averaged together, by a name for the report.
        left_out: Languages that one method does not train on.
    """

    source: str
    texts: Mapping[str, Sequence[str]]
    family: np.ndarray
    groups: Mapping[str, Sequence[str]]
    left_out: Sequence[str] = field(default=())

    def __len__(self) -> int:
        return len(self.family)


def has_emoji() -> bool:
    """Whether the extra is installed."""
    return find_spec("emoji") is not None


def read_names(path: str | None = None) -> Names:
    """A user's pairs if a path is given, else the names of emoji or, without the extra, of HTML's characters."""
    if path is not None:
        return read_pairs(path)
    return read_emoji() if has_emoji() else read_html()


def read_emoji() -> Names:
    """Names of 1,661 emoji in English and 13 other languages, without flags and skin tones.

    Siblings differ only in gender: in the person of the emoji, or in words such as man and woman.
    """
    import emoji

    for language in (*LATIN, *OTHER):
        emoji.config.load_language(language)
    table = emoji.EMOJI_DATA
    plain = [sign for sign, entry in table.items() if entry["status"] == emoji.STATUS["fully_qualified"]]
    plain = [sign for sign in plain if not any(_is_tone(ord(x)) or _is_flag(ord(x)) for x in sign)]
    texts = {
        language: [table[sign][language].strip(":").replace("_", " ") for sign in plain]
        for language in ("en", *LATIN, *OTHER)
    }
    keys = []
    for sign, name in zip(plain, texts["en"], strict=True):
        core = " ".join(word for word in re.findall(r"\w+", name.lower()) if word not in _GENDERS)
        core = _CROWNED[0] if core in _CROWNED else core
        keys.append([("sign", sign.translate(_SAME_PERSON).translate(_JOINERS)), *([("name", core)] if core else [])])
    groups = {"Latin script": LATIN, "other scripts": OTHER} | {name: (code,) for name, code in LEFT_OUT.items()}
    return Names("emoji", texts, families(keys), groups, tuple(LEFT_OUT.values()))


def _is_tone(code: int) -> bool:
    return 0x1F3FB <= code <= 0x1F3FF


def _is_flag(code: int) -> bool:
    return 0x1F1E6 <= code <= 0x1F1FF or 0xE0020 <= code <= 0xE007F


def read_html() -> Names:
    """1,444 characters with their Unicode name and their longest HTML name.

    Siblings differ only in case.
    """
    found: dict[str, list[str]] = {}
    for entity, characters in sorted(html.entities.html5.items()):
        name = unicodedata.name(characters, "") if len(characters) == 1 else ""
        if name and entity.endswith(";"):
            found.setdefault(name.lower(), []).append(entity.removesuffix(";"))
    names = sorted(found)
    texts = {"Unicode": names, "HTML": [max(found[name], key=len) for name in names]}
    keys = [[re.sub(r"\b(?:small|capital)\b", "", name)] for name in names]
    return Names("HTML's names of characters", texts, families(keys), {"HTML": ("HTML",)})


def read_pairs(path: str) -> Names:
    """Pairs of a UTF-8 file, two texts per line, separated by tabs (.tsv) or by commas as in CSV (.csv).

    Pairs that share a text are siblings.

    Raises:
        UsageError: The file is missing or not UTF-8, a line does not have two texts, or there are too few.
    """
    file = Path(path)
    if file.suffix not in (".tsv", ".csv") or not file.is_file():
        raise UsageError(
            f"expected --data.path as a UTF-8 file .tsv or .csv with two texts a line, got {path!r}"
            + ("" if file.is_file() else ", and there is no such file")
        )
    pairs: list[tuple[str, str]] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            tabs: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if file.suffix == ".tsv" else {}
            reader = csv.reader(lines, **tabs)
            for row in reader:
                texts = [text.strip() for text in row]
                if len(texts) != 2 or not all(texts):
                    raise UsageError(
                        f"line {reader.line_num} of {path}: expected two texts, got {sum(map(bool, texts))} "
                        f"in {len(texts)} columns; correct or delete it"
                    )
                pairs.append((texts[0], texts[1]))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error
    firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
    keys = [[("first", a.lower()), ("second", b.lower())] for a, b in pairs]
    family = families(keys)
    if len({*family}) < LEAST:
        raise UsageError(
            f"expected at least {LEAST} pairs in {path}, to train and to test on, where those with a common text count "
            f"once; got {len({*family})} of {len(pairs)} lines"
        )
    return Names(file.name, {"first": firsts, "second": seconds}, family, {"second": ("second",)})


def families(keys: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Numbers the connected components of concepts that share a key.

    >>> families([["a"], ["b", "c"], ["d", "b"], ["d"]]).tolist()
    [0, 1, 1, 1]
    """
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for first, *others in keys:
        for other in others:
            parent[root(other)] = root(first)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(root(own[0]), len(numbers)) for own in keys])


def split_by_family(family: np.ndarray, seed: int, shares: Sequence[float] = (0.1, 0.2)) -> list[np.ndarray]:
    """Training, validation and test rows; no family is in two of them.

    Args:
        family: [N].
        seed: Seed of the draw.
        shares: Shares of the families to validate and to test on.
    """
    count = int(family.max()) + 1
    place = np.empty(count, int)
    place[np.random.default_rng([seed, 5]).permutation(count)] = np.arange(count)
    validation, test = (round(share * count) for share in shares)
    own = place[family]
    return [
        np.flatnonzero(own >= validation + test),
        np.flatnonzero((own >= test) & (own < validation + test)),
        np.flatnonzero(own < test),
    ]
