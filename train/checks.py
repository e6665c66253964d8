"""Checks of values inside a compiled step."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
from jax.experimental import checkify

from train.errors import RunFailed
from train.objective import Sums, Terms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Report:
    """Sums and counts of bad entries of all terms on one device, added over micro-batches and devices.

    Args:
        sums: For each term, the sum of its weighted values and the sum of its weights.
        bad_values: For each term, the number of NaN or infinite values with weight.
        bad_weights: For each term, the number of NaN, infinite or negative weights.
    """

    sums: Sums
    bad_values: dict[str, jax.Array]
    bad_weights: dict[str, jax.Array]

    @classmethod
    def of(cls, terms: Terms) -> Self:
        """The report of some terms. Counts that are not used cost nothing: the compiler removes them."""
        arrays = {name: term.broadcast() for name, term in terms.items()}
        return cls(
            sums={name: term.sums() for name, term in terms.items()},
            bad_values={name: jnp.sum(~jnp.isfinite(v) & (w != 0)) for name, (v, w) in arrays.items()},
            bad_weights={name: jnp.sum(~(jnp.isfinite(w) & (w >= 0))) for name, (_, w) in arrays.items()},
        )


def check_report(report: Report, losses: Collection[str], grad_norm: jax.Array, step: jax.Array) -> None:
    """Checks inside the compiled step that weights are not negative and that values and gradients are finite.

    The first check that fails is the one reported, so the loss terms come before the metrics.
    """
    for name in [*losses, *(name for name in report.sums if name not in losses)]:
        checkify.check(
            report.bad_weights[name] == 0,
            f"term {name!r} has {{count}} weight(s) that are negative, NaN or infinite at step {{step}}: "
            "weights say how much a value counts and must be finite and at least 0.",
            count=report.bad_weights[name],
            step=step,
        )
        checkify.check(
            report.bad_values[name] == 0,
            f"term {name!r} has {{count}} value(s) that are NaN or infinite at step {{step}}: "
            "look for labels out of range, invalid inputs or a learning rate that is too high.",
            count=report.bad_values[name],
            step=step,
        )
    checkify.check(
        jnp.isfinite(grad_norm),
        "the gradient is not finite at step {step}, though every term is: look for a derivative without bound, "
        "such as the square root at 0.",
        step=step,
    )


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets the checks inside a compiled function raise RunFailed; the caller waits for the result."""
    # At exit chex warns of unread checks, and by mistake also of those that were waited for, as all of these are.
    logging.getLogger("absl").addFilter(_is_no_chexify_warning)
    checking = chex.chexify(function, async_check=False)

    def call(*args: Any) -> Any:
        try:
            return checking(*args)
        except (AssertionError, checkify.JaxRuntimeError) as error:
            raise RunFailed(str(error).removesuffix(" (`check` failed)")) from error

    return call


def _is_no_chexify_warning(record: logging.LogRecord) -> bool:
    return "chexify assertion statuses" not in record.getMessage()
