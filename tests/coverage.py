"""Writes docs/coverage.md, what proves each row of the loss table: `python -m tests.coverage`.

Everything is read from the rows; the matrix, the fuzz tests and tests/peers are what holds it true.
"""

import json
from collections.abc import Callable
from pathlib import Path

import lossfns
from lossfns.testing import LossCase
from tests.loss_table import LOSS_TABLE
from tests.peers.authors_calls import CALLS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/coverage.md"
TORCH = ROOT / "tests/peers/torch_values.json"
HEAD = """# What proves each function

Written by `python -m tests.coverage` from the rows in `tests/rows`; a test compares. The rest of each row's properties,
the same for all, is in `lossfns.testing.PROPERTIES`.

- **oracle**: values in float32 and float64 equal an independent float64 formula in `tests/oracles`, for every variant
  of the arguments.
- **torch**: values and gradients equal torch's, which are committed in `tests/peers`.
- **authors**: values and gradients equal those of published code, the authors' own wherever there is some: the named
  repositories, run in float64. `tests/peers/authors_calls` says which functions at which commits.
- **brute force**: the oracle enumerates all alignments, paths, trees or assignments.
- **gradient**: finite differences, forward and reverse mode; to second order where the function is smooth.
- **masks**: a masked row, or element, might as well not be there, in value and gradient, even with NaN under the mask.
- **low precision**: bfloat16 and float16 inputs cost their own rounding only.
- **sharded**: split over devices with uneven masks, value and gradient stay. Rows that depend on each other are checked
  on 8 devices under `shard_map` with and without `check_vma` and under `pmap`; others on a few devices.
- **fuzz**: drawn masks, magnitudes and extreme entries.
"""
NO_ROWS = "a function of parameters: no rows, and no mask"
NO_TORCH = "torch has no such function, or one of another convention"
NO_AUTHORS = "not compared with published code"
FORMULA = "the oracle is a formula: nothing to enumerate"

Cell = tuple[bool, str]
"""Whether it is checked, and how or why not."""


def torch_rows() -> set[str]:
    """Rows with committed numbers of torch's."""
    return {case["row"] for case in json.loads(TORCH.read_text())["cases"].values()} if TORCH.exists() else set()


def authors(name: str) -> Cell:
    """The repositories whose numbers are committed."""
    calls = [call for call in CALLS.values() if call.row == name]
    owners = sorted({call.code.repository.split("/")[1] for call in calls})
    return (True, ", ".join(owners)) if owners else (False, NO_AUTHORS)


def gradient(case: LossCase) -> Cell:
    inputs = case.inputs()
    if not case.moving(inputs):
        return False, "no floating input to differentiate"
    return True, "order 2" if case.smooth else "order 1"


def masks(case: LossCase) -> Cell:
    return (True, "elements" if case.element_masks else "rows") if case.batched else (False, NO_ROWS)


def sharded(case: LossCase) -> Cell:
    return (True, "8 devices" if case.batch_coupled else "yes") if case.batched else (False, NO_ROWS)


COLUMNS: dict[str, tuple[str | None, Callable[[str, LossCase], Cell]]] = {
    "oracle": ("oracle", lambda name, case: (case.oracle is not None, "yes" if case.oracle else "no oracle given")),
    "torch": (None, lambda name, case: (True, "yes") if name in torch_rows() else (False, NO_TORCH)),
    "authors": (None, lambda name, case: authors(name)),
    "brute force": ("oracle", lambda name, case: (True, "yes") if case.enumerated else (False, FORMULA)),
    "gradient": ("gradients", lambda name, case: gradient(case)),
    "masks": ("masked = deleted", lambda name, case: masks(case)),
    "low precision": ("low precision", lambda name, case: (True, "yes")),
    "sharded": ("devices = one device", lambda name, case: sharded(case)),
    "fuzz": ("fuzz", lambda name, case: (True, "yes")),
}
"""Column -> the property whose skip empties it, and what it says otherwise."""


def family_of(name: str) -> str:
    return getattr(lossfns, name.split(" ")[0]).__module__.split(".")[1]


def page() -> str:
    """The whole page."""
    reasons: dict[str, int] = {}
    families: dict[str, list[str]] = {}
    for family, name in sorted((family_of(name), name) for name in LOSS_TABLE):
        case, cells = LOSS_TABLE[name], []
        for needed, cell in COLUMNS.values():
            checked, text = (False, case.skip[needed]) if needed in case.skip else cell(name, case)
            cells.append(text if checked else f"[^{reasons.setdefault(text, len(reasons) + 1)}]")
        families.setdefault(family, []).append(f"| {name} | {' | '.join(cells)} |")
    table = [f"| name | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 1)]
    sections = ["\n".join([f"## {family}", "", *table, *lines]) for family, lines in families.items()]
    notes = "\n".join(f"[^{number}]: {' '.join(reason.split())}." for reason, number in reasons.items())
    return "\n".join([HEAD, *(section + "\n" for section in sections), notes, ""])


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
