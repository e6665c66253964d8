"""Loading of every data set: `load(name, split)` returns examples with random access, as dicts of NumPy values.

The embedded sets (`EMBEDDED`) are built from installed packages at first use, without network; any other name goes to
TFDS. With `path`, a text file is read instead. Prepared data sets are stored in `resolve_data_dir()`.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import importlib
import io
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.data.records import Example as Example
from experiments.data.records import Skips, sentence_of
from experiments.data.records import read_all as read_all
from train.devices.compilation_cache import user_cache
from train.errors import UsageError
from train.files import check_place

EMBEDDED: dict[str, tuple[str, str]] = {
    "bible_web": ("experiments.data.bible", "BibleWeb"),
    "bible_kjv": ("experiments.data.bible", "BibleKjv"),
    "digits": ("experiments.data.digits", "Digits"),
    "glyphs": ("experiments.data.glyphs", "Glyphs"),
}
"""Module and class of the builders without network access."""

BIBLES = {"bible_web": "the World English Bible", "bible_kjv": "the King James Bible"}
"""The embedded texts by their titles: splits are books, and their groups are the labels of passages."""

ROLES: tuple[str, ...] = ("train", "validation", "test")
"""The splits of every data set."""

FILE_SHARES: dict[str, tuple[float, float]] = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
"""Range of the sentences of a text file for each split."""


@dataclass(frozen=True)
class DataConfig:
    """Source of the text, and its tokenisation."""

    name: str = "bible_web"
    """Data set: bible_web, bible_kjv, or the name of a TFDS data set with a text feature."""
    path: str | None = None
    """UTF-8 text file to read instead: one sentence a line, a blank line ends a document."""
    text_feature: str | None = None
    """Feature with the text; detected if a data set has only one."""
    max_examples: int | None = None
    """Read at most this many examples of each split (None: all)."""
    tokenizer: Literal["sentencepiece", "bytes"] = "sentencepiece"
    """Subwords trained on the training split, or the 256 bytes."""
    subwords: Literal["unigram", "bpe"] = "unigram"
    """Algorithm of sentencepiece."""
    vocab_size: int = 8192
    """Number of subwords, including the special tokens; a small text may give fewer."""
    seq_len: int = 64
    """Sequence length in tokens."""
    mask_rate: float = 0.15
    """Fraction of the tokens that the masked language model predicts."""
    skip_budget: int = 0
    """Maximum number of damaged records of a split, or lines of a text file, to skip; one more ends the run."""


class Wording(NamedTuple):
    """Names of the data in a report."""

    title: str
    parts: str
    """Units of the splits, as in "test books"."""
    document: str


def wording(config: DataConfig) -> Wording:
    """Returns the names of the text that is read.

    >>> wording(DataConfig())
    Wording(title='the World English Bible', parts='books', document='chapter')
    >>> wording(DataConfig(path="letters/mine.txt"))
    Wording(title='mine.txt', parts='text', document='document')
    """
    if config.path is None and config.name in BIBLES:
        return Wording(BIBLES[config.name], "books", "chapter")
    return Wording(config.name if config.path is None else Path(config.path).name, "text", "document")


def resolve_data_dir(directory: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of prepared data: the argument, `$LOSSFNS_DATA_DIR`, or `lossfns` in the user's cache."""
    chosen = directory or os.environ.get("LOSSFNS_DATA_DIR")
    if not chosen:
        return user_cache()
    try:
        return check_place(chosen, "the folder of prepared data").expanduser()
    except RuntimeError as error:  # of an unknown user
        raise UsageError(f"{chosen} is not a folder ({error}); give another one by LOSSFNS_DATA_DIR") from error


def load(
    name: str,
    split: str,
    *,
    path: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    skip_budget: int = 0,
) -> Sequence[Example]:
    """Returns the examples of one split with random access.

    `train`, `validation` and `test` work for every data set: a split that TFDS lacks is cut from the end of `train` (a
    tenth for each missing one). Other names are TFDS splits, including slices (`train[:10%]`).

    Args:
        name: an embedded data set or a TFDS name.
        split: the split.
        path: a UTF-8 text file to read instead of `name`: one sentence a line, a blank line ends a document. The first
            90 % of its sentences are train, then 5 % validation and 5 % test.
        data_dir: folder of prepared data (default: see `resolve_data_dir`).
        skip_budget: maximum number of damaged lines of a text file; for a data set, see `read_all`.

    Returns:
        A sequence of dicts; text is bytes in UTF-8, as in TFDS.

    Raises:
        UsageError: the data are not available; the message says why and what to do.
    """
    if path is not None:
        return read_text_file(path, split, skip_budget=skip_budget)
    builder = make_builder(name, data_dir)
    prepare(builder, name)
    have = list(builder.info.splits)
    expression = _cut(split, have)
    try:
        return builder.as_data_source(split=expression)
    except NotImplementedError as error:
        advice = f"delete {builder.data_dir} to prepare it again"
        raise UsageError(f"{name} was prepared in a format without random access; {advice}.") from error
    except ImportError as error:
        raise UsageError(_needs(name, error)) from error
    except (ValueError, KeyError) as error:
        if not have:
            raise UsageError(f"the prepared copy of {name} has no splits; {remedy_for(name, data_dir)}.") from error
        raise UsageError(f"{name} has no split {split!r}; it has {', '.join(have)}, and slices of them.") from error


def remedy_for(name: str, directory: str | os.PathLike[str] | None = None) -> str:
    """Returns the remedy for a damaged prepared data set."""
    return f"delete {resolve_data_dir(directory) / name.split(':')[0].split('/')[0]} to prepare it again"


def make_builder(name: str, directory: str | os.PathLike[str] | None = None) -> Any:
    """Returns the TFDS builder of a name, without preparing its data.

    Args:
        name: an embedded data set or a TFDS name, such as "imdb_reviews" or "wiki40b/en".
        directory: folder of prepared data.

    Returns:
        A `tfds.core.DatasetBuilder` that stores array_record files.

    Raises:
        UsageError: there is no such data set, or its builder needs a package that is not installed.
    """
    folder = os.fspath(resolve_data_dir(directory))
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    try:
        if name in EMBEDDED:
            module, cls = EMBEDDED[name]
            return getattr(importlib.import_module(module), cls)(data_dir=folder, file_format="array_record")
        _register(base)
        return tfds.builder(name, data_dir=folder, file_format="array_record", try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError as error:
        close = difflib.get_close_matches(base, sorted({*EMBEDDED, *_registered_names()}), n=3)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UsageError(
            f"There is no data set {name!r}{hint}: give a name that TFDS knows, or one of {', '.join(EMBEDDED)}, which "
            "need no network; a study of texts also reads your own file, by --data.path."
        ) from error
    except ImportError as error:
        raise UsageError(_needs(name, error)) from error
    except Exception as error:
        if resolve_data_dir(directory).joinpath(base).exists():  # damaged: TFDS raises all kinds
            advice = remedy_for(name, directory)
            raise UsageError(f"the prepared copy of {name} cannot be read ({sentence_of(error)}); {advice}.") from error
        if isinstance(error, AssertionError | ValueError):  # an unknown version or configuration
            raise UsageError(f"TFDS cannot open {name!r}: {sentence_of(error)}.") from error
        raise


def prepare(builder: Any, name: str) -> None:
    """Builds or downloads a data set unless it is already prepared; two processes may do so at once."""
    if builder.data_path.exists():
        return
    try:
        with _quiet() if name in EMBEDDED else _network_checked(builder, name):
            builder.download_and_prepare()
    except UsageError:
        raise
    except ImportError as error:
        raise UsageError(_needs(name, error)) from error
    except Exception as error:
        if builder.data_path.exists():  # another process was first: TFDS renames a complete folder into place
            builder.info.read_from_directory(builder.data_path)
        else:
            raise UsageError(f"{name} could not be prepared: {type(error).__name__}, {sentence_of(error)}.") from error


def read_text_file(path: str | os.PathLike[str], split: str, *, skip_budget: int = 0) -> Sequence[Example]:
    """Reads sentences from a text file; see `load`. Lines that are not UTF-8 are damaged.

    Returns:
        Dicts of "text" (bytes) and "document" (int).
    """
    file = Path(path)
    if split not in FILE_SHARES:
        raise UsageError(f"A text file has the splits {', '.join(FILE_SHARES)}, not {split!r}.")
    if not file.is_file():
        raise UsageError(f"There is no text file {str(file)!r}; --data.path expects a UTF-8 file, one sentence a line.")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    text = _decode(content, Skips(f"{file} (which must be UTF-8)", skip_budget), quiet=split != "train")
    examples: list[dict[str, Any]] = []
    document = 0
    for line in text.splitlines():
        sentence = " ".join(line.split())
        if sentence:
            examples.append({"text": sentence.encode(), "document": document})
        else:
            document += 1
    if not examples:
        raise UsageError(f"{file} is empty; --data.path expects a UTF-8 file, one sentence a line.")
    start, stop = (round(share * len(examples)) for share in FILE_SHARES[split])
    if start == stop:
        raise UsageError(f"{file} has {len(examples)} sentences, too few for the split {split!r}; give at least 20.")
    return examples[start:stop]


def _decode(content: bytes, skips: Skips, *, quiet: bool) -> str:
    """Returns the text of a file without its damaged lines, which are counted from 1."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        lines = []
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            skips.skip("line", number, error, quiet=quiet)
    return "\n".join(lines)


def find_text_feature(source: Sequence[Example], text_feature: str | None = None) -> str:
    """Returns the name of the text feature of a source.

    Args:
        source: examples, at least one.
        text_feature: the requested name; None selects "text", or else the only text feature.

    Returns:
        The name.

    Raises:
        UsageError: there is no such feature, or several; the message lists the features.
    """
    features = ", ".join(f"{key} ({_kind(value)})" for key, value in source[0].items())
    texts = [key for key, value in source[0].items() if _kind(value) == "text"]
    if text_feature is not None:
        if text_feature in texts:
            return text_feature
        raise UsageError(f"The data has no text feature {text_feature!r}; its features are {features}.")
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else texts[0]
    advice = "choose one by --data.text-feature" if texts else "use a data set with a text feature"
    raise UsageError(f"The data has no feature named 'text'; its features are {features}; {advice}.")


def _kind(value: Any) -> str:
    if isinstance(value, bytes | str):
        return "text"
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def _cut(split: str, have: Sequence[str]) -> str:
    """Returns the TFDS split of a role; a missing validation or test is cut from the end of train.

    >>> [_cut(role, ["train", "test"]) for role in ROLES]
    ['train[:90%]', 'train[90%:]', 'test']
    >>> [_cut(role, ["train"]) for role in ROLES]
    ['train[:80%]', 'train[80%:90%]', 'train[90%:]']
    """
    missing = [role for role in ROLES[1:] if role not in have]
    if split not in ROLES or "train" not in have or (split in have and split != "train") or not missing:
        return split
    edges = [100 - 10 * left for left in range(len(missing), -1, -1)]
    if split == "train":
        return f"train[:{edges[0]}%]"
    place = missing.index(split)
    end = "" if edges[place + 1] == 100 else f"{edges[place + 1]}%"
    return f"train[{edges[place]}%:{end}]"


def _registered_names() -> list[str]:
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def _register(base: str) -> None:
    """Imports the TFDS module of a data set, which registers some builders (and may need a missing package)."""
    import tensorflow_datasets as tfds

    if not base.isidentifier() or base in _registered_names():
        return
    root = Path(next(iter(tfds.__path__)))
    for found in [*root.glob(f"*/{base}.py"), *root.glob(f"*/{base}/__init__.py")]:
        package = (found.parent if found.stem == base else found.parent.parent).name
        if package not in ("core", "testing", "scripts"):
            with _quiet():
                importlib.import_module(f"tensorflow_datasets.{package}.{base}")


@contextlib.contextmanager
def _network_checked(builder: Any, name: str) -> Iterator[None]:
    """Checks the host before TFDS downloads, because TFDS would retry for minutes."""
    make_manager = builder._make_download_manager

    def check_and_make(*args: Any, **kwargs: Any) -> Any:
        _check_network(builder.url_infos or (), name)
        return make_manager(*args, **kwargs)

    builder._make_download_manager = check_and_make
    yield
    del builder._make_download_manager


def _check_network(urls: Iterable[str], name: str) -> None:
    """Raises UsageError if the host of the first download cannot be resolved (and there is no proxy)."""
    hosts = sorted({urllib.parse.urlsplit(url).hostname or "" for url in urls} - {""})
    proxies = urllib.request.getproxies() or any(v.startswith("TFDS_") and v.endswith("_PROXY") for v in os.environ)
    if not hosts or proxies:
        return
    try:
        socket.getaddrinfo(hosts[0], 443)
    except OSError as error:
        raise UsageError(
            f"{name} must be downloaded from {hosts[0]}, which cannot be reached; check the network, or take one of "
            f"{', '.join(EMBEDDED)}, which need none."
        ) from error


def _needs(name: str, error: ImportError) -> str:
    if error.name == "tensorflow":
        return f"The TFDS builder of {name} imports TensorFlow, which is not used here; take another data set."
    return f"The TFDS builder of {name} needs the package {error.name!r}; install it and retry."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress bars and banners of TFDS for a few seconds of work."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
