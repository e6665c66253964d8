"""`python -m lossfns` prints the catalogue; `python -m lossfns NAME` a definition and its papers.

Names from other libraries work too: `python -m lossfns mse`.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from lossfns._catalogue import Entry, catalogue, definition, functions
from lossfns._synonyms import named, similar


def table(entries: Sequence[Entry]) -> str:
    """The catalogue as a table."""
    rows = [("name", "family", "paper", "summary")]
    rows += [(entry.name, entry.family, entry.paper, entry.summary) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the catalogue or a definition; exits with 2 for an unknown name."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # authors' names, on a terminal that lacks their letters
    parser = argparse.ArgumentParser(prog="python -m lossfns", description="The catalogue of loss functions.")
    parser.add_argument("name", nargs="?", help="print its signature, definition and BibTeX; without it, list all")
    name = parser.parse_args(arguments).name
    if name is None:
        print(table(catalogue()))
    elif name in functions():
        print(definition(name))
    elif len(found := named(name, functions())) == 1:
        print(f"{name} is lossfns.{found[0]} here.\n\n{definition(found[0])}")
    else:
        found = found or similar(name, functions())
        hint = f"did you mean {' or '.join(found)}?" if found else "python -m lossfns lists them all"
        parser.error(f"there is no {name!r}; {hint}")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has closed the pipe; do not flush into it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
