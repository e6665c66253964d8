"""Lists the studies and collects their results: `python -m experiments`."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import how_to_install, missing_packages

FOLDER = Path(__file__).parent
COMMANDS = {
    "report": "puts all finished studies on one page: report [FOLDER ...] [--out FOLDER]",
    "sweep": "runs variants of a study: sweep NAME --a.b=1,2,3 --seeds=5",
    "compare": "compares options and results of two study folders: compare A B",
    "tables": "writes the result tables of README.md and docs/results.md: tables [FOLDER ...]",
    "sample": 'continues a text by a trained language model: sample runs/causal_lm "In the beginning"',
}


def studies() -> dict[str, str]:
    """Returns name and docstring summary of each study, in alphabetical order, without importing it."""
    found = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        found[path.stem] = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return found


def main(words: Sequence[str]) -> int:
    """Lists the studies, runs a command, or explains how to run a study; returns the exit code."""
    found = studies()
    if words and words[0] in COMMANDS:
        from experiments.study import overview

        return overview.run(words[0], words[1:], found)
    if words and words[0] not in ("-h", "--help"):
        name = words[0].removeprefix("experiments.").removesuffix(".py")
        if name in found:
            print(f"run it with `python -m experiments.{' '.join([name, *words[1:]])}`; --help shows its options")
        else:
            from train.console import say

            say(f"error: there is no study or command {words[0]!r}; `python -m experiments` lists them")
        return 2
    print("Run one with `python -m experiments.NAME`; --help shows its options, --dry-run its cost.\n")
    for group in (found, {f"python -m experiments {name}": text for name, text in COMMANDS.items()}):
        width = max(map(len, group))
        print("\n".join(f"  {name:<{width}}  {line}" for name, line in group.items()) + "\n")
    return 0


if __name__ == "__main__":
    if missing := missing_packages():  # before `train` is imported, which needs some of them
        argparse.ArgumentParser(prog="python -m experiments", usage=argparse.SUPPRESS).error(how_to_install(missing))
    from train.files import escape_output

    escape_output()
    raise SystemExit(main(sys.argv[1:]))
