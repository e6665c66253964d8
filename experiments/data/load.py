"""One door to every data set: `load(name, split)` gives random access to examples as dicts of NumPy values.

The embedded sets (`EMBEDDED`) are built from installed packages at first use, without network; any other name goes to TFDS.
A text file takes the place of a name with `path`. Prepared sets live in `data_dir()`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from train.errors import UsageError

EMBEDDED: dict[str, tuple[str, str]] = {
    "bible_web": ("experiments.data.bible", "BibleWeb"),
    "bible_kjv": ("experiments.data.bible", "BibleKjv"),
    "digits": ("experiments.data.digits", "Digits"),
    "glyphs": ("experiments.data.glyphs", "Glyphs"),
}
"""Module and class of the builders that need no network."""

ROLES: tuple[str, ...] = ("train", "validation", "test")
"""The splits that an experiment may ask of any data set."""

FILE_SHARES: dict[str, tuple[float, float]] = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
"""Which part of a text file's sentences a split is."""

Example = Mapping[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """Where text comes from and how it becomes tokens."""

    name: str = "bible_web"
    """Data set: bible_web, bible_kjv, or the name of a TFDS data set with a text feature."""
    path: str | None = None
    """UTF-8 text file to read instead: one sentence a line, a blank line ends a document."""
    text_feature: str | None = None
    """Feature that holds the text; found by itself where a data set has only one."""
    tokenizer: Literal["sentencepiece", "bytes"] = "sentencepiece"
    """Subwords learnt from the training split, or the 256 bytes."""
    subwords: Literal["unigram", "bpe"] = "unigram"
    """How sentencepiece learns its subwords."""
    vocab_size: int = 8192
    """Number of subwords with the special tokens; a small text may give fewer."""
    seq_len: int = 64
    """Tokens in a sequence."""
    mask_rate: float = 0.15
    """Share of the tokens that the masked language model predicts."""
    max_examples: int | None = None
    """Read at most this many examples of each split (None: all)."""


def data_dir(directory: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of prepared data: the argument, else `$LOSSFNS_DATA_DIR`, else `lossfns` in the user's cache."""
    chosen = directory or os.environ.get("LOSSFNS_DATA_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen).expanduser() if chosen else Path(cache) / "lossfns"


def load(
    name: str,
    split: str,
    *,
    path: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Sequence[Example]:
    """Returns the examples of one split with random access.

    `train`, `validation` and `test` work for every data set: where TFDS has no such split, it is cut from the end of `train`
    (a tenth for each missing one). Other names are those of TFDS, slices included (`train[:10%]`).

    Args:
        name: an embedded data set or a TFDS name.
        split: the split.
        path: a UTF-8 text file to read instead of `name`: one sentence a line, a blank line ends a document. The first
            90 % of its sentences are train, then 5 % validation and 5 % test.
        data_dir: where prepared data lives (default: see `data_dir`).

    Returns:
        A sequence of dicts; text is bytes in UTF-8, as TFDS gives it.

    Raises:
        UsageError: the data cannot be had; the message says why and what to do.
    """
    if path is not None:
        return read_text_file(path, split)
    builder = make_builder(name, data_dir)
    prepare(builder, name)
    expression = _split_expression(builder, name, split)
    try:
        return builder.as_data_source(split=expression)
    except NotImplementedError as error:
        raise UsageError(
            f"{name} was prepared in a format without random access; delete {builder.data_dir} so that it is prepared anew."
        ) from error
    except ValueError as error:
        known = ", ".join(builder.info.splits)
        raise UsageError(f"{name} has no split {split!r}: {_first_line(error)}; it has {known}.") from error


def make_builder(name: str, directory: str | os.PathLike[str] | None = None) -> Any:
    """Returns the TFDS builder of a name, not prepared yet.

    Args:
        name: an embedded data set or a TFDS name, such as "imdb_reviews" or "wiki40b/en".
        directory: where prepared data lives.

    Returns:
        A `tfds.core.DatasetBuilder` that stores array_record files.

    Raises:
        UsageError: there is no such data set, or its builder needs TensorFlow.
    """
    folder = os.fspath(data_dir(directory))
    if name in EMBEDDED:
        module, cls = EMBEDDED[name]
        return getattr(importlib.import_module(module), cls)(data_dir=folder, file_format="array_record")
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    try:
        _register(base)
        return tfds.builder(name, data_dir=folder, file_format="array_record", try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError as error:
        close = difflib.get_close_matches(base, [*EMBEDDED, *_registered_names()], n=3)
        hint = f"; did you mean {' or '.join(close)}" if close else ""
        raise UsageError(
            f"There is no data set {name!r}{hint}? Give one of {', '.join(EMBEDDED)} (no network needed), a TFDS name, or "
            "your own text by --data.path."
            if close
            else f"There is no data set {name!r}: give one of {', '.join(EMBEDDED)} (no network needed), a TFDS name, or your "
            "own text by --data.path."
        ) from error
    except ImportError as error:
        raise UsageError(_needs(name, error)) from error
    except (AssertionError, ValueError) as error:  # an unknown version or configuration
        raise UsageError(f"TFDS cannot open {name!r}: {_first_line(error)}") from error


def prepare(builder: Any, name: str) -> None:
    """Builds or downloads a data set unless it lies in its folder already; two processes may do so at once."""
    if builder.data_path.exists():
        return
    try:
        with _quiet() if name in EMBEDDED else contextlib.nullcontext():
            builder.download_and_prepare()
    except ImportError as error:
        raise UsageError(_needs(name, error)) from error
    except Exception as error:
        if builder.data_path.exists():  # another process finished first; TFDS moves complete folders only
            builder.info.read_from_directory(builder.data_path)
        elif isinstance(error, OSError) or "onnect" in repr(error) or "ownload" in repr(error):
            raise UsageError(
                f"{name} must be downloaded and that failed ({type(error).__name__}: {_first_line(error)}); check the network, "
                f"or take one of {', '.join(EMBEDDED)}, which need none."
            ) from error
        else:
            raise


def read_text_file(path: str | os.PathLike[str], split: str) -> list[Example]:
    """Reads sentences from a text file; see `load`.

    Returns:
        Dicts of "text" (bytes) and "document" (int).
    """
    file = Path(path)
    if split not in FILE_SHARES:
        raise UsageError(f"A text file has the splits {', '.join(FILE_SHARES)}, not {split!r}.")
    if not file.is_file():
        raise UsageError(f"There is no text file {str(file)!r}; --data.path expects a UTF-8 file, one sentence a line.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}; save it as UTF-8 and retry."
        ) from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    document, examples = 0, []
    for line in text.splitlines():
        sentence = " ".join(line.split())
        if sentence:
            examples.append({"text": sentence.encode(), "document": document})
        elif examples:
            document = examples[-1]["document"] + 1
    if not examples:
        raise UsageError(f"{file} is empty; --data.path expects a UTF-8 file, one sentence a line.")
    start, stop = (round(share * len(examples)) for share in FILE_SHARES[split])
    if start == stop:
        raise UsageError(
            f"{file} has only {len(examples)} sentences, too few for the split {split!r}; it takes at least 20."
        )
    return examples[start:stop]


def find_text_feature(source: Sequence[Example], text_feature: str | None = None) -> str:
    """Returns the name of the feature that holds the text of a source.

    Args:
        source: examples, at least one.
        text_feature: the wanted name, or None for "text", or else the only feature that is text.

    Returns:
        The name.

    Raises:
        UsageError: no such feature, or several to choose from; the message lists what there is.
    """
    features = {key: type(value).__name__ for key, value in source[0].items()}
    texts = [key for key, value in source[0].items() if isinstance(value, bytes | str)]
    if text_feature is not None:
        if text_feature in texts:
            return text_feature
        raise UsageError(f"The data has no text feature {text_feature!r}; its features are {_listing(features)}.")
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else texts[0]
    need = "choose one by --data.text-feature" if texts else "a text experiment needs one that is text"
    raise UsageError(f"The data has no feature named 'text'; its features are {_listing(features)}; {need}.")


def _listing(features: Mapping[str, str]) -> str:
    return ", ".join(f"{key} ({kind})" for key, kind in features.items())


def _split_expression(builder: Any, name: str, split: str) -> str:
    """Translates a role into a TFDS split, cutting what is missing from the end of train."""
    have = list(builder.info.splits)
    if split in have or not have:
        return split
    if split not in ROLES:
        if any(
            split.startswith(f"{known}[") or f"+{known}" in split or split.startswith(f"{known}+") for known in have
        ):
            return split
        raise UsageError(f"{name} has no split {split!r}; it has {', '.join(have)}.")
    if "train" not in have:
        raise UsageError(f"{name} has neither {split!r} nor 'train' to cut it from; it has {', '.join(have)}.")
    return "train" + _cuts(have)[split]


def _cuts(have: Sequence[str]) -> dict[str, str]:
    """Returns the slice of `train` that each role takes when some of validation and test do not exist.

    >>> _cuts(["train", "test"])
    {'validation': '[90%:]', 'train': '[:90%]'}
    >>> _cuts(["train"])
    {'validation': '[80%:90%]', 'test': '[90%:]', 'train': '[:80%]'}
    """
    missing = [role for role in ROLES[1:] if role not in have]
    edges = [100 - 10 * (len(missing) - i) for i in range(len(missing) + 1)]
    cuts = {
        role: f"[{edges[i]}%:{'' if edges[i + 1] == 100 else f'{edges[i + 1]}%'}]" for i, role in enumerate(missing)
    }
    return cuts | {"train": f"[:{edges[0]}%]"}


def _registered_names() -> list[str]:
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def _register(base: str) -> None:
    """Imports the TFDS module named like the data set, so that it is registered (or says what it needs)."""
    import tensorflow_datasets as tfds

    if base in _registered_names():
        return
    for package in pkgutil.iter_modules(tfds.__path__):
        if package.ispkg and package.name not in ("core", "testing", "scripts"):
            where = Path(list(tfds.__path__)[0]) / package.name
            if (where / f"{base}.py").exists() or (where / base / "__init__.py").exists():
                with _quiet():
                    importlib.import_module(f"tensorflow_datasets.{package.name}.{base}")


def _needs(name: str, error: ImportError) -> str:
    missing = error.name or "another package"
    if missing == "tensorflow":
        return f"The TFDS builder of {name} imports TensorFlow, which is not used here; take a data set whose builder does not."
    return f"The TFDS builder of {name} needs the package {missing!r}; install it and retry."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's progress bars and banners while an embedded set of a few seconds is built."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
