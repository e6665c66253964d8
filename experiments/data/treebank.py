"""Dependency trees: a Turkish treebank, a CoNLL-U file of the user's, or syntax trees of Python's standard library.

The treebank (turkish-treebanks, Apache-2.0) has sentences from web pages and from Wikipedia. Its words are divided into
inflectional groups by hand: within a word each group depends on the next (relation `ig`), which `SpaceAfter=No`
reveals.
"""

from __future__ import annotations

import ast
import itertools
import os
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from train.errors import UsageError

Source = Literal["turkish", "ast"]
INSTALL = "python -m pip install -c constraints.txt -e '.[experiments]'"
TRIVIAL = frozenset({"ig", "p", "punct"})
"""Relations that are not scored: within a word, and to punctuation."""
BUCKETS = 2048
"""Number of buckets for the hashed parts of words; 0 stands for no part."""
LEAST, LEAST_FILE = 2, 50
"""Minimum number of words in a sentence, and of sentences in a user's file."""
MODULES = ("argparse", "ast", "calendar", "configparser", "csv", "datetime", "difflib", "doctest", "fractions", "gzip",
           "heapq", "imaplib", "inspect", "locale", "mailbox", "optparse", "pdb", "pickletools", "platform", "plistlib",
           "pydoc", "random", "shutil", "smtplib", "socket", "statistics", "subprocess", "tarfile", "textwrap",
           "threading", "tokenize", "traceback", "typing", "uuid", "zipapp")  # fmt: skip
"""Modules to read statements from, if this Python has them; the last fifth is for the test only."""


class Sentence(NamedTuple):
    """Words with their tags, heads (0 the root, k the k-th word), relations, and whether a space follows."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    spaces: tuple[bool, ...]


@dataclass(frozen=True)
class TreebankConfig:
    """The trees, and limits on the lengths and numbers of sentences."""

    path: str | None = None
    """File of dependency trees in CoNLL-U to read instead."""
    longest: int = 24
    """Maximum number of words in a training or validation sentence."""
    longest_test: int = 30
    """Maximum number of words in a test sentence."""
    most: int = 10_000
    """Maximum number of training sentences."""
    most_test: int = 600
    """Maximum number of sentences in a test set."""


@dataclass(frozen=True)
class Treebank:
    """Training, validation and (by source) test sentences, and the name of the data."""

    name: str
    train: list[Sentence]
    validation: list[Sentence]
    tests: dict[str, list[Sentence]]

    @property
    def tags(self) -> list[str]:
        """Tags of the training sentences, in order."""
        return sorted({tag for sentence in self.train for tag in sentence.tags})


def read_treebank(source: Source, config: TreebankConfig) -> Treebank:
    """Reads the sentences and splits them in a random order: of 20, 15 for training, 2 for validation, 3 for the test.

    Without the package of the Turkish treebank, statements of Python are read instead. The second of two sources is for
    tests only.
    """
    if config.path is not None:
        name, texts = Path(config.path).name, {"held out": read_conllu(config.path)}
        if len(texts["held out"]) < LEAST_FILE:
            raise UsageError(
                f"{config.path} has {len(texts['held out'])} trees, but {LEAST_FILE} are needed: give a longer file"
            )
    elif source == "turkish" and (found := _turkish_files()):
        name, texts = "the Turkish treebank", {part: read_conllu(found[part]) for part in ("web", "wiki")}
    else:
        parts = {"statements": MODULES[: len(MODULES) * 4 // 5], "other modules": MODULES[len(MODULES) * 4 // 5 :]}
        texts = {part: list(read_python(modules)) for part, modules in parts.items()}
        name = "Python's standard library" + ("" if source == "ast" else f" (for the Turkish treebank: {INSTALL})")
    shuffled = {
        part: [trees[i] for i in np.random.default_rng(0).permutation(len(trees))] for part, trees in texts.items()
    }
    first, *others = shuffled
    edges = [len(shuffled[first]) * share // 20 for share in (0, 15, 17, 20)]
    train, validation, test = (shuffled[first][low:high] for low, high in itertools.pairwise(edges))

    def short(sentences: Iterable[Sentence], longest: int, most: int) -> list[Sentence]:
        return [sentence for sentence in sentences if LEAST <= len(sentence.words) <= longest][:most]

    read = Treebank(
        name,
        short(train, config.longest, config.most),
        short(validation, config.longest, config.most_test),
        {
            part: short(trees, config.longest_test, config.most_test)
            for part, trees in {first: test, **{part: shuffled[part] for part in others}}.items()
        },
    )
    if not (read.train and read.validation and all(read.tests.values())):
        raise UsageError(
            f"{name} has a part without sentences of {LEAST} to {config.longest} words: raise --data.longest"
        )
    return read


def _turkish_files() -> dict[str, Any]:
    """The two files of the package by name, or nothing; its wheel uses a folder name that others may use too."""
    try:
        listed = files("turkish-treebanks") or []
    except PackageNotFoundError:
        return {}
    return {Path(str(file)).stem: file.locate() for file in listed if file.suffix == ".conllu"}


def read_conllu(path: str | os.PathLike[str]) -> list[Sentence]:
    """The trees of a CoNLL-U file; lines of multiword tokens and of empty nodes are left out.

    Raises:
        UsageError: There is no such file, or a line or tree in it is not valid CoNLL-U; the message names the line.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no file {str(file)!r}; --data.path expects dependency trees in CoNLL-U.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as UTF-8 ({error}); --data.path expects trees in CoNLL-U.") from error
    sentences, rows = [], []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        columns = line.rstrip("\r").split("\t")
        if line.startswith("#"):
            continue
        if line.strip():
            if len(columns) != 10:
                raise UsageError(
                    f"line {number} of {file} has {len(columns)} columns separated by tabs, but CoNLL-U has 10"
                )
            if columns[0].isdecimal():
                rows.append(columns)
        elif rows:
            sentences.append(_sentence(rows, f"{file}, the tree before line {number}"))
            rows = []
    if not sentences:
        raise UsageError(f"{file} has no trees; --data.path expects dependency trees in CoNLL-U.")
    return sentences


def _sentence(rows: Sequence[Sequence[str]], place: str) -> Sentence:
    numbers, heads = [row[0] for row in rows], [row[6] for row in rows]
    if numbers != [str(k + 1) for k in range(len(rows))]:
        raise UsageError(f"{place}: words must be numbered 1 to {len(rows)}, but are {', '.join(numbers)}")
    wrong = [head for head in heads if not head.isdecimal() or int(head) > len(rows)]
    if wrong:
        raise UsageError(f"{place}: a head must be a number from 0 to {len(rows)}, but one is {wrong[0]!r}")
    found = tuple(map(int, heads))
    if not is_tree(found):
        raise UsageError(f"{place}: the heads {' '.join(heads)} are no tree with one root; correct or delete it")
    columns = list(zip(*rows, strict=True))
    spaces = tuple("SpaceAfter=No" not in misc for misc in columns[9])
    return Sentence(columns[1], columns[3], found, columns[7], spaces)


def is_tree(heads: Sequence[int]) -> bool:
    """Whether each word reaches the only root.

    >>> is_tree([2, 0, 2]), is_tree([2, 1]), is_tree([0, 0])
    (True, False, False)
    """
    below: dict[int, list[int]] = {}
    for word, head in enumerate(heads, 1):
        below.setdefault(head, []).append(word)
    reached, waiting = 0, list(below.get(0, ()))
    while waiting:
        reached += 1
        waiting += below.get(waiting.pop(), ())
    return len(below.get(0, ())) == 1 and reached == len(heads)


def read_python(modules: Iterable[str]) -> Iterator[Sentence]:
    """The syntax trees of simple statements: a word for each node, in the order of the source."""
    simple = (ast.Assign, ast.AugAssign, ast.Return, ast.Expr, ast.Raise, ast.Assert, ast.Delete)
    seen = set()
    for module in modules:
        file = Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py"
        if not file.is_file():
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, simple) and (found := _of_statement(node)) not in seen:
                seen.add(found)
                yield found


def _of_statement(statement: ast.AST) -> Sentence:
    words, tags, heads, relations = [], [], [], []

    def visit(node: ast.AST, head: int, relation: str) -> None:
        name = getattr(node, "id", getattr(node, "attr", getattr(node, "value", None)))
        words.append(str(name)[:20] if isinstance(name, str | int | float) else type(node).__name__)
        tags.append(type(node).__name__)
        heads.append(head)
        relations.append(relation)
        place = len(words)
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.expr_context):
                    visit(child, place, field)

    visit(statement, 0, "root")
    return Sentence(tuple(words), tuple(tags), tuple(heads), tuple(relations), (True,) * len(words))


def parts_of(word: str, space: bool) -> list[int]:
    """Ids of the parts of a word that the encoder sees: the word, its first and last letters, its shape.

    >>> len(parts_of("evde", True)), parts_of("evde", True)[1:3] == parts_of("evdir", True)[1:3]
    (9, True)
    """
    low = word.lower()
    shape = "".join(sorted({"A" if c.isupper() else "9" if c.isdigit() else "a" if c.isalpha() else c for c in word}))
    parts = [
        low,
        low[:2],
        low[:3],
        low[-1:],
        low[-2:],
        low[-3:],
        low[-4:],
        shape[:6] + str(word[:1].isupper()),
        str(space),
    ]
    return [1 + zlib.crc32(f"{i} {part}".encode()) % (BUCKETS - 1) for i, part in enumerate(parts)]


def arrays_of(sentences: Sequence[Sentence], length: int, tags: Sequence[str]) -> dict[str, np.ndarray]:
    """The sentences as arrays, padded to a length.

    Returns:
        "parts" int [S, N, P], "heads" int [S, N], "tags" int [S, N] (an unknown tag gets the last known one), "words"
        bool [S, N], the present words, and "scored" bool [S, N], the words with a scored relation.
    """
    shape = len(sentences), length
    width = len(parts_of("", True))
    found: dict[str, np.ndarray] = {"parts": np.zeros((*shape, width), np.int32)}
    found |= {name: np.zeros(shape, np.int32) for name in ("heads", "tags")}
    found |= {name: np.zeros(shape, bool) for name in ("words", "scored")}
    number = {tag: i for i, tag in enumerate(tags)}
    for i, sentence in enumerate(sentences):
        count = len(sentence.words)
        found["parts"][i, :count] = [parts_of(*word) for word in zip(sentence.words, sentence.spaces, strict=True)]
        found["heads"][i, :count] = sentence.heads
        found["tags"][i, :count] = [number.get(tag, len(tags) - 1) for tag in sentence.tags]
        found["words"][i, :count] = True
        found["scored"][i, :count] = [relation not in TRIVIAL for relation in sentence.relations]
    return found


def tree_distances(heads: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Number of arcs between each two words of a tree, int [S, N, N]; 0 where one is absent.

    >>> tree_distances(np.array([[0, 1, 2]]), np.ones((1, 3), bool))[0].tolist()
    [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    """
    count, length = words.shape
    above = np.zeros((count, length, length), bool)  # [s, n, k]: k is n or one of its heads' heads
    at, place = np.where(words, np.arange(length), -1), np.arange(length)
    while (at >= 0).any():
        above |= (at[..., None] == place) & (at[..., None] >= 0)
        at = np.where(at >= 0, np.take_along_axis(heads, np.maximum(at, 0), -1) - 1, -1)
    depth, both = above.sum(-1), np.einsum("sik,sjk->sij", above.astype(np.int32), above.astype(np.int32))
    found = depth[:, :, None] + depth[:, None, :] - 2 * both
    return np.where(words[:, :, None] & words[:, None, :], found, 0)


class TreeData(NamedTuple):
    """Sentences and their arrays: training and validation in one pool, tests by source."""

    treebank: Treebank
    pool: dict[str, np.ndarray]
    tests: dict[str, dict[str, np.ndarray]]

    @property
    def train(self) -> dict[str, np.ndarray]:
        """The training sentences."""
        return {name: leaf[: len(self.treebank.train)] for name, leaf in self.pool.items()}

    @property
    def validation(self) -> dict[str, np.ndarray]:
        """The validation sentences."""
        return {name: leaf[len(self.treebank.train) :] for name, leaf in self.pool.items()}


def read_arrays(source: Source, config: TreebankConfig) -> TreeData:
    """Reads a treebank as arrays, see `arrays_of`, with the distances in the trees as "apart" [S, N, N]."""
    read = read_treebank(source, config)
    parts = {"": read.train + read.validation, **read.tests}
    found = {
        name: arrays_of(part, config.longest if not name else config.longest_test, read.tags)
        for name, part in parts.items()
    }
    found = {name: some | {"apart": tree_distances(some["heads"], some["words"])} for name, some in found.items()}
    return TreeData(read, found.pop(""), found)


def describe(data: TreeData) -> str:
    """Describes the data in a sentence for the report."""
    read = data.treebank
    tests = ", ".join(
        f"{len(sentences)} of {text} ({int(data.tests[text]['scored'].sum()):,} scored words)"
        for text, sentences in read.tests.items()
    )
    return f"{read.name}: {len(read.train):,} trees to train on, {len(read.validation)} to choose by; tests: {tests}."
