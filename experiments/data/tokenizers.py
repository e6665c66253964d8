"""Tokenizers: sentencepiece subwords trained on the training text, cached by content, and plain bytes.

Both share five special tokens at fixed ids, so that a model's code does not depend on the tokenizer.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece

from experiments.data.load import DataConfig, resolve_data_dir
from train.console import warn
from train.errors import UsageError
from train.files import make_folder, read_bytes, write_atomic

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL_IDS: tuple[int, ...] = (PAD, UNK, CLS, SEP, MASK)
SPECIAL_NAMES: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Tokenizer(Protocol):
    """Interface of a tokenizer."""

    vocab_size: int
    counts: np.ndarray
    """int64 [vocab_size]: occurrences of each token in the training text."""

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [n], without special tokens around it."""

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of many texts."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special tokens give nothing."""

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Returns a readable name of each id."""


@dataclass
class ByteTokenizer:
    """Every byte of the UTF-8 text is a token: id = 5 + byte."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(5 + 256, np.int64))
    vocab_size: int = 5 + 256

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [n].

        >>> ByteTokenizer().encode("A").tolist()
        [70]
        """
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + len(SPECIAL_IDS)

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of many texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; bytes that are not UTF-8 become the replacement character."""
        return bytes(int(i) - len(SPECIAL_IDS) for i in ids if i >= len(SPECIAL_IDS)).decode(errors="replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Returns a readable name of each id."""
        return [SPECIAL_NAMES[i] if i < 5 else repr(bytes([int(i) - 5]))[2:-1] for i in ids]


class SentencePieceTokenizer:
    """Subwords of a sentencepiece model; its first five ids are the special tokens."""

    def __init__(self, model: bytes, counts: np.ndarray | None = None):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.vocab_size()
        self.counts = np.zeros(self.vocab_size, np.int64) if counts is None else counts

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [n]."""
        return np.asarray(self._processor.encode(text), np.int32)

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of many texts."""
        return [np.asarray(ids, np.int32) for ids in self._processor.encode(list(texts), num_threads=1)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special tokens give nothing."""
        return self._processor.decode([int(i) for i in ids if i not in (PAD, CLS, SEP, MASK)])

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Returns a readable name of each id."""
        return [self._processor.id_to_piece(int(i)) for i in ids]


def make_tokenizer(
    config: DataConfig, texts: Sequence[str], *, directory: str | os.PathLike[str] | None = None
) -> Tokenizer:
    """Returns the tokenizer of a config with the token counts of the training text.

    Args:
        config: `tokenizer`, `subwords` and `vocab_size` are used.
        texts: sentences of the training split only.
        directory: folder of prepared data (default: see `load.resolve_data_dir`).

    Returns:
        A tokenizer; equal arguments give the same tokenizer, byte for byte.

    Raises:
        UsageError: the vocabulary size does not fit the text, or the tokenizer cannot be stored in `directory`.
        RunFailed: the disk is full.
    """
    if config.tokenizer == "bytes":
        tokenizer: Tokenizer = ByteTokenizer()
    else:
        tokenizer = SentencePieceTokenizer(_cached_model(config, texts, resolve_data_dir(directory) / "tokenizers"))
    ids = tokenizer.encode_all(texts)
    tokenizer.counts = np.bincount(np.concatenate([np.zeros(0, np.int32), *ids]), minlength=tokenizer.vocab_size)
    return tokenizer


def _cached_model(config: DataConfig, texts: Sequence[str], folder: Path) -> bytes:
    """Returns the model for exactly this text and these settings, read from the cache if it is intact, else trained.

    The file starts with the SHA-256 sum of the model on a separate line, because sentencepiece reads many damaged
    models without an error and returns other ids.
    """
    settings = {"type": config.subwords, "size": config.vocab_size, "version": sentencepiece.__version__, "format": 2}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for text in texts:
        data = text.encode()
        digest.update(b"%d:" % len(data) + data)  # the length distinguishes two texts from their concatenation
    file = folder / f"{config.subwords}-{config.vocab_size}-{digest.hexdigest()[:24]}.model"
    try:
        told, _, model = read_bytes(file).partition(b"\n")
        if told == _sum_of(model):
            return model
        problem = "is damaged"
    except FileNotFoundError:
        problem = ""
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    if problem:
        warn(f"the tokenizer {file} {problem}; it is trained again")
    model = train_sentencepiece(texts, config.vocab_size, config.subwords)
    make_folder(folder, "the folder of tokenizers")
    write_atomic(file, _sum_of(model) + b"\n" + model)
    return model


def _sum_of(model: bytes) -> bytes:
    return hashlib.sha256(model).hexdigest().encode()


def train_sentencepiece(texts: Sequence[str], vocab_size: int, subwords: str) -> bytes:
    """Trains a sentencepiece model, silently and on one thread, so that the result does not depend on the machine."""
    if vocab_size < 32:
        raise UsageError(f"--data.vocab-size must be at least 32, but it is {vocab_size}.")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # a small text gives fewer subwords
            model_type=subwords,
            character_coverage=1.0,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=-1,
            eos_id=-1,
            pad_piece=SPECIAL_NAMES[PAD],
            unk_piece=SPECIAL_NAMES[UNK],
            control_symbols=list(SPECIAL_NAMES[CLS:]),
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UsageError(
            f"sentencepiece cannot train {vocab_size} subwords on this text ({error}); choose a smaller "
            "--data.vocab-size, or --data.tokenizer=bytes."
        ) from error
    return model.getvalue()


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Returns the files of a tokenizer by name; `read_tokenizer` reads them."""
    kind = "bytes" if isinstance(tokenizer, ByteTokenizer) else "sentencepiece"
    files = {"tokenizer.json": json.dumps({"kind": kind, "counts": tokenizer.counts.tolist()}).encode()}
    if isinstance(tokenizer, SentencePieceTokenizer):
        files["tokenizer.model"] = tokenizer.model
    return files


def read_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer | None:
    """Returns the tokenizer stored in a folder, or None.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, content in tokenizer_files(ByteTokenizer()).items():
    ...         _ = pathlib.Path(folder, name).write_bytes(content)
    ...     read_tokenizer(folder).decode([70, 71])
    'AB'
    """
    file = Path(folder) / "tokenizer.json"
    if not file.exists():
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    counts = np.asarray(told["counts"], np.int64)
    if told["kind"] == "bytes":
        return ByteTokenizer(counts)
    return SentencePieceTokenizer((Path(folder) / "tokenizer.model").read_bytes(), counts)
