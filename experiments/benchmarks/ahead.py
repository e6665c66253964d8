"""Memory of losses and train steps on accelerators, by the accelerators' own compilers; nothing is run.

    python -m experiments.benchmarks.ahead losses
    python -m experiments.benchmarks.ahead steps --only "GPT 1.3B"
    python -m experiments.benchmarks.ahead times

prints the tables of README.md, docs/scaling.md and RESULTS.md. Needs the extra `aot`; the losses take 3 minutes.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from experiments.benchmarks import targets
from experiments.benchmarks.cases import CASES, Case
from experiments.benchmarks.scaling import table
from experiments.benchmarks.steps import STEPS, bytes_of, collectives, compile_step
from experiments.benchmarks.targets import TARGETS, mib

LOSSES = [name for name, case in CASES.items() if name not in ("linear_chain_crf", "sigmoid_focal")]
"""Cases with a plain form that materialises a table of scores."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Programs compiled ahead of time."""

    what: tyro.conf.Positional[Literal["losses", "steps", "times"]]
    """Memory of losses, memory of train steps, or CPU seconds to compile the losses."""
    only: tuple[str, ...] = ()
    """Rows with one of these words in their name; all by default."""


def compile_loss(case: Case, target: str | None, *, plain: bool = False) -> jax.stages.Compiled:
    """Value and gradient of a case for a target, or for this machine's CPU."""
    # As a tuple: a dictionary would come back in the order of its keys.
    arrays = jax.eval_shape(lambda: tuple(case.make(jax.random.key(0), case.dtype, False, **case.sizes).values()))
    moving = tuple(i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating))
    function = jax.jit(jax.value_and_grad(case.plain if plain else case.ours, argnums=moving))
    if target is None:
        return function.lower(*arrays).compile()
    place = jax.sharding.SingleDeviceSharding(TARGETS[target].devices[0])
    return function.lower(*(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in arrays)).compile()


def loss_row(name: str) -> list[Any]:
    """MiB of the plain form and of ours for a loss, on each kind of device."""
    case = CASES[name]
    row = [name, " x ".join(f"{size:,}" for size in case.sizes.values())]
    for target in (None, "H100", "v5e"):
        found = [mib(compile_loss(case, target, plain=plain)) for plain in (True, False)]
        row += [f"{x:,.0f}" if x >= 10 else f"{x:.1f}" for x in found]
    return row


def step_row(name: str) -> list[Any]:
    """Bytes and collectives of a train step."""
    step = STEPS[name]
    began = time.monotonic()
    compiled = compile_step(step)
    seconds = time.monotonic() - began
    memory: Any = compiled.memory_analysis()
    sent = {
        kind: sum(bytes_of(x) * count for x, count in of_kind.items()) / 1e9
        for kind, of_kind in collectives(compiled.as_text() or "").items()
    }
    return [
        name,
        f"{step.examples:,}",
        f"{memory.argument_size_in_bytes / 1e9:.2f}",
        f"{memory.temp_size_in_bytes / 1e9:.2f}",
        f"{memory.peak_memory_in_bytes / 1e9:.1f} of {TARGETS[step.target].memory / 1e9:.0f}",
        ", ".join(f"{kind} {size:.2f}" for kind, size in sent.items() if size >= 0.005) or "none",
        f"{seconds:.0f}",
    ]


def time_row(name: str) -> list[Any]:
    """CPU seconds to compile a loss; the plain form has products of the same precision."""
    case, row = CASES[name], [name]
    for target in ("H100", "v5e"):
        for plain in (True, False):
            began = time.process_time()
            with jax.default_matmul_precision("highest" if case.dtype == jnp.float32 else "default"):
                compile_loss(case, target, plain=plain)
            row.append(f"{time.process_time() - began:.1f}")
    return row


HEADS = {
    "losses": ["loss", "shape", "plain, CPU", "CPU", "plain, H100", "H100", "plain, v5e", "v5e"],
    "steps": ["step", "examples", "GB in", "GB temporary", "GB at the peak", "GB of collectives", "s to compile"],
    "times": ["loss", "plain, H100", "H100", "plain, v5e", "v5e"],
}


def main(options: Options) -> None:
    """Prints a table."""
    targets.prepare()
    missing = sorted({target.module for target in TARGETS.values() if not target.installed})
    if missing:
        sys.exit(f"{', '.join(missing)} not installed: python -m pip install -c constraints.txt -e '.[train,aot]'")
    names = [n for n in (STEPS if options.what == "steps" else LOSSES) if _chosen(n, options.only)]
    if not names:
        sys.exit(f"no row matches {' or '.join(options.only)}: choose from {', '.join(STEPS)} and {', '.join(LOSSES)}.")
    row = {"losses": loss_row, "steps": step_row, "times": time_row}[options.what]
    print(table(HEADS[options.what], [row(name) for name in names]))


def _chosen(name: str, words: tuple[str, ...]) -> bool:
    return not words or any(word in name for word in words)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
