"""The catalogue of functions (name, family, paper, summary) and the papers' BibTeX."""

import dataclasses
import inspect
import re
import unicodedata
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import lossfns

ARXIV = re.compile(r"arXiv:([a-z.-]+/\d{7}|\d{4}\.\d{4,5})", re.IGNORECASE)
DOI = re.compile(r"doi:\s*(10\.\S+[^\s.,;)])")


@dataclasses.dataclass(frozen=True)
class Paper:
    """An entry of `references.bib`."""

    key: str
    fields: Mapping[str, str]
    bibtex: str

    def place_in(self, text: str) -> int:
        """Position of the citation in a text, by arXiv id or doi, else by author and year; -1 if absent."""
        places = [m.start() for m in ARXIV.finditer(text) if m[1] == self.fields.get("eprint")]
        places += [m.start() for m in DOI.finditer(text) if m[1].lower() == self.fields.get("doi", "").lower()]
        if not {"eprint", "doi"} & set(self.fields):
            words = rf"{re.escape(_plain(self.first_author))}\b[^.]*?( al\.)?[^.]*?\b{self.fields['year']}\b"
            places += [m.start() for m in re.finditer(words, _plain(text), re.IGNORECASE)]
        return min(places, default=-1)

    @property
    def first_author(self) -> str:
        """The first author's surname."""
        return self.fields["author"].split(" and ")[0].split(",")[0]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public function."""

    name: str
    family: str
    paper: str
    """Its first reference as cited, such as "Chen et al. 2020"; empty without references."""
    summary: str


def _plain(text: str) -> str:
    """Text without accents and TeX accent commands, to compare names."""
    text = re.sub(r"\\([a-zA-Z]+\s*|.)", lambda m: {"o": "o", "l": "l", "ss": "ss"}.get(m[1].strip(), ""), text)
    text = text.replace("{", "").replace("}", "").replace("ø", "o").replace("ł", "l").replace("ß", "ss")
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def papers() -> list[Paper]:
    """All entries of `references.bib`, which has one field per line: `  name = {value},`."""
    text = resources.files(lossfns).joinpath("references.bib").read_text(encoding="utf-8")
    found = re.finditer(r"^@\w+\{([^,\s]+),\n(.*?)^\}\n", text, re.MULTILINE | re.DOTALL)
    return [Paper(m[1], dict(re.findall(r"^  (\w+) = \{(.*)\},$", m[2], re.MULTILINE)), m[0]) for m in found]


def cited(text: str) -> list[Paper]:
    """The papers that a text cites, in order."""
    places = [(paper.place_in(text), paper) for paper in papers()]
    return [paper for place, paper in sorted(places, key=lambda pair: pair[0]) if place >= 0]


def functions() -> dict[str, Callable[..., Any]]:
    """Name -> public function."""
    named = {name: getattr(lossfns, name) for name in vars(lossfns) if not name.startswith("_")}
    return {name: f for name, f in sorted(named.items()) if callable(f) and not isinstance(f, type)}


def catalogue() -> list[Entry]:
    """One entry per public function, sorted by family and name."""
    entries = []
    for name, function in functions().items():
        doc = inspect.getdoc(function) or ""
        section = re.search(r"^References:\n\s*(.*)", doc, re.MULTILINE)
        paper = re.match(r"[^;(]*?\b\d{4}\b", section[1]) if section else None
        entries.append(Entry(name, function.__module__.split(".")[1], paper[0] if paper else "", doc.split("\n")[0]))
    return sorted(entries, key=lambda entry: (entry.family, entry.name))


def definition(name: str) -> str:
    """Signature, docstring and BibTeX of a public function."""
    function = functions()[name]
    doc, signature = inspect.getdoc(function) or "", inspect.signature(function)
    head = f"lossfns.{name}{_shown(signature)}"
    if len(head) > 90:
        returns = _shown(signature.replace(parameters=[]))
        head = f"lossfns.{name}(\n" + "".join(f"    {part},\n" for part in _parts(signature)) + returns[1:]
    return "\n\n".join([head, doc, *(paper.bibtex.strip() for paper in cited(doc))])


def _shown(part: object) -> str:
    """The annotation as text, with the public name `jax.Array`."""
    return re.sub(r"[\w.]*jaxlib[\w.]*\.Array", "jax.Array", str(part))


def _parts(signature: inspect.Signature) -> list[str]:
    parameters = list(signature.parameters.values())
    first = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), len(parameters))
    star = ["*"] if first < len(parameters) else []
    return [*map(_shown, parameters[:first]), *star, *map(_shown, parameters[first:])]
