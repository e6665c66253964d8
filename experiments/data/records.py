"""Reading of records one by one, with a limit on skipped damaged records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from train.console import warn
from train.errors import UsageError

Example = Mapping[str, Any]


@dataclass
class Skips:
    """Skips the damaged records of a split, up to a budget."""

    what: str
    """Name of the source, as in "record 3 of WHAT"."""
    budget: int = 0
    remedy: str = "fix it"
    """Remedy in the error message."""
    skipped: list[int] = field(default_factory=list)

    def skip(self, unit: str, index: int, error: BaseException, *, quiet: bool = False) -> None:
        """Notes that a record cannot be read.

        Args:
            unit: "record" or "line".
            index: its number.
            error: the error from reading it.
            quiet: whether to print no warning.

        Raises:
            UsageError: the budget is used up.
        """
        self.skipped.append(index)
        problem = f"{unit} {index} of {self.what} is damaged ({type(error).__name__}: {sentence_of(error)})"
        if len(self.skipped) > self.budget:
            more = f", the {len(self.skipped)} damaged so far exceed --data.skip-budget" if self.budget else ""
            option = f"--data.skip-budget {max(10, 2 * self.budget)}"
            raise UsageError(
                f"{problem[0].upper()}{problem[1:]}{more}; {self.remedy}, or skip such {unit}s by {option}."
            ) from error
        if not quiet:
            warn(f"{problem}; skipped")


def read_all(
    source: Sequence[Example],
    limit: int | None = None,
    *,
    what: str = "the data",
    skip_budget: int = 0,
    remedy: str = "fix it",
    check: Callable[[Example], Any] = bool,
) -> list[Example]:
    """Returns examples as a list.

    Args:
        source: the source from `load`.
        limit: maximum number of examples (None: all).
        what: name and split, for messages.
        skip_budget: maximum number of damaged records to skip.
        remedy: remedy for a damaged record, for messages.
        check: raises an error for an example that can be read but not used.

    Returns:
        The undamaged examples.

    Raises:
        UsageError: too many records are damaged, or there are none.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--data.max-examples must be at least 1, but it is {limit}.")
    if skip_budget < 0:
        raise UsageError(f"--data.skip-budget must be at least 0, but it is {skip_budget}.")
    if len(source) == 0:
        raise UsageError(f"{what} is empty; take another split or data set.")
    skips = Skips(what, skip_budget, remedy)
    examples = []
    for index in range(len(source) if limit is None else min(limit, len(source))):
        try:
            example = source[index]
            check(example)
            examples.append(example)
        except UsageError:
            raise
        except Exception as error:  # the readers of the formats raise all kinds
            skips.skip("record", index, error)
    if not examples:
        raise UsageError(f"Every record of {what} is damaged; {remedy}.")
    return examples


def sentence_of(error: BaseException) -> str:
    """Returns the first line of an error message."""
    return (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".:")
