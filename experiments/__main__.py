"""Lists the experiments: `python -m experiments`."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path

from train.files import escape_output

FOLDER = Path(__file__).parent


def experiments() -> dict[str, str]:
    """Returns the name of each experiment and the first line of its docstring, in alphabetical order.

    A module of this folder that defines `main` and `Config` is an experiment; it is read, not imported.
    """
    found = {}
    for module in pkgutil.iter_modules([str(FOLDER)]):
        tree = ast.parse((FOLDER / f"{module.name}.py").read_text(encoding="utf-8")) if not module.ispkg else None
        if tree and {"Config", "main"} <= {getattr(node, "name", "") for node in tree.body}:
            found[module.name] = (ast.get_docstring(tree) or "").splitlines()[0]
    return found


if __name__ == "__main__":
    escape_output()
    names = experiments()
    width = max(map(len, names))
    print(
        "Run one with `python -m experiments.NAME`, see its options with `--help` and what it costs with `--dry-run`.\n"
    )
    for name, line in names.items():
        print(f"  {name:<{width}}  {line}")
