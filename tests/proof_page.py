"""Writes docs/coverage.md, what proves each case of tests/cases: `python -m tests.proof_page`.

Everything is read from the cases; the matrix, the fuzz tests and tests/references are what holds it true.
"""

import json
from pathlib import Path

import lossfns
from lossfns.testing import PROPERTIES, LossCase
from tests.cases import CASES
from tests.references.authors_calls import CALLS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/coverage.md"
TORCH = ROOT / "tests/references/torch_values.json"
HEAD = """# What proves each function

Written by `python -m tests.proof_page` from `tests/cases`; a test compares.

Every case passes every property of `lossfns.testing.PROPERTIES` that concerns it, but for those in its last column,
each with its reason. The properties are

{properties}

The columns say what differs from case to case:

- **oracle**: "formula" for an independent float64 formula in `tests/oracles`; "enumerated" where it goes through all
  alignments, paths, trees or assignments.
- **torch**: values and gradients equal torch's, which are committed in `tests/references`.
- **published code**: values and gradients equal those of published code, the authors' own wherever there is some: the
  named repositories, run in float64. `tests/references/authors_calls` says which functions at which commits.
- **derivatives**: checked to this order against finite differences.
- **mask**: over rows, or over single elements.
- **rows**: "coupled" if a value depends on other rows. Such losses are checked on 8 devices under `shard_map` with and
  without `check_vma` and under `pmap`; others on a few devices.
"""
COLUMNS = ("oracle", "torch", "published code", "derivatives", "mask", "rows", "does not apply")
NOTHING = "-"


def torch_rows() -> set[str]:
    """Rows with committed numbers of torch's."""
    return {case["row"] for case in json.loads(TORCH.read_text())["cases"].values()} if TORCH.exists() else set()


def authors(name: str) -> str:
    """The repositories with committed numbers."""
    return ", ".join(sorted({call.code.repository.split("/")[1] for call in CALLS.values() if call.row == name}))


def derivatives(case: LossCase) -> str:
    if "gradients" in case.skip or not case.moving(case.inputs()):
        return ""
    return "second" if case.smooth else "first"


def mask(case: LossCase) -> str:
    if not case.batched or "masked = deleted" in case.skip:
        return ""
    return "elements" if case.element_masks else "rows"


def oracle(case: LossCase) -> str:
    if case.oracle is None or "oracle" in case.skip:
        return ""
    return "enumerated" if case.enumerated else "formula"


def family_of(name: str) -> str:
    return getattr(lossfns, name.split(" ")[0]).__module__.split(".")[1]


def exceptions(case: LossCase) -> dict[str, str]:
    """What does not hold for a case -> the reason."""
    return {
        **case.skip,
        **{f"a NaN shows (argument {position})": why for position, why in case.nan_stays.items()},
        **{f"hyper-parameters ({name})": why for name, why in case.unlike_differences.items()},
        **({"non-negative to the last digit": case.below_zero} if case.below_zero else {}),
    }


def properties() -> str:
    """What each demands, by the first line of its docstring."""
    return "\n".join(f"- **{name}**: {(check.__doc__ or '').splitlines()[0]}" for name, check in PROPERTIES.items())


def page() -> str:
    """The whole page."""
    reasons: dict[str, int] = {}
    families: dict[str, list[str]] = {}
    with_torch = torch_rows()
    for family, name in sorted((family_of(name), name) for name in CASES):
        case = CASES[name]
        skipped = [
            f"{key} [^{reasons.setdefault(' '.join(why.split()), len(reasons) + 1)}]"
            for key, why in exceptions(case).items()
        ]
        cells = [
            oracle(case),
            "yes" if name in with_torch else "",
            authors(name),
            derivatives(case),
            mask(case),
            ("coupled" if case.batch_coupled else "independent") if case.batched else "none",
            ", ".join(skipped),
        ]
        families.setdefault(family, []).append(f"| {name} | {' | '.join(cell or NOTHING for cell in cells)} |")
    table = [f"| name | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 1)]
    sections = ["\n".join([f"## {family}", "", *table, *lines]) for family, lines in families.items()]
    notes = "\n".join(f"[^{number}]: {reason}." for reason, number in reasons.items())
    return "\n".join([HEAD.format(properties=properties()), *(section + "\n" for section in sections), notes, ""])


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
