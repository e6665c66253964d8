"""Compares blockwise losses with plain JAX on the full score matrix: time, memory and accuracy.

    python -m experiments.benchmarks.streaming
    python -m experiments.benchmarks.streaming --only clip siglip --rounds 15 --out streaming.md

Value and gradient are compiled for both, then run alternately: ours, plain, plain, ours, and so on, with a pause before
each run, so that neither pays for memory freed by the other. A matrix product timed before and after each run shows
whether the machine itself is slow. A round waits while it is slow, up to a limit. Rounds with a slow machine are
repeated, at most as often as there are rounds. The ratio is the median over rounds of our time to the plain time in the
same round. Memory is the memory of the compiled program without inputs and outputs. The error of a gradient is its
largest absolute error, relative to the largest entry, against plain JAX in float64, on a smaller problem with
probabilities near 0 and 1.

Takes about seven minutes and 3 GB on two otherwise idle CPU cores.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.benchmarks.cases import CASES, Arrays, Case
from experiments.benchmarks.timing import Probe, in_turns


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    only: tuple[str, ...] = ()
    """Run cases with one of these words in their name; all by default."""
    rounds: int = 7
    """Number of timed runs of each program; a first run is not counted."""
    patience: int = 300
    """Total seconds to wait while the machine is slow."""
    shape_scale: float = 1.0
    """Divisor of the large sizes, for a quick trial; the times are then not meaningful."""
    accuracy: bool = True
    """Also measure the errors of the gradients."""
    out: Path | None = None
    """File to write the table to, .md or .json."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Measurements of one case."""

    name: str
    sizes: dict[str, int]
    dtype: str
    seconds: float
    """Median time of our loss."""
    plain_seconds: float
    ratio: float
    ratios: tuple[float, ...]
    repeated: int
    """Number of discarded rounds, in which the machine was slow."""
    target: float | None
    mib: float | None
    plain_mib: float | None
    error: float | None
    plain_error: float | None


def measure(name: str, case: Case, options: Options, probe: Probe) -> Row:
    """Runs one case."""
    sizes = {k: max(int(v * options.shape_scale), 2) if k in case.scaled else v for k, v in case.sizes.items()}
    arrays = case.make(jax.random.key(0), case.dtype, False, **sizes)
    programs = [_compile(loss, arrays) for loss in (case.ours, case.plain)]
    given = jax.block_until_ready(list(arrays.values()))
    runs = [functools.partial(program, *given) for program, _ in programs]
    rounds, repeated = in_turns(runs, options.rounds, probe)
    errors = _errors(case, sizes) if options.accuracy else (None, None)
    ours, plain = zip(*(r.seconds for r in rounds), strict=True)
    ratios = tuple(a / b for a, b in zip(ours, plain, strict=True))
    return Row(
        name=name,
        sizes=sizes,
        dtype=jnp.dtype(case.dtype).name,
        seconds=statistics.median(ours),
        plain_seconds=statistics.median(plain),
        ratio=statistics.median(ratios),
        ratios=ratios,
        repeated=repeated,
        target=case.target,
        mib=programs[0][1],
        plain_mib=programs[1][1],
        error=errors[0],
        plain_error=errors[1],
    )


def _floats(arrays: Arrays) -> tuple[int, ...]:
    return tuple(i for i, x in enumerate(arrays.values()) if jnp.issubdtype(x.dtype, jnp.floating))


def _compile(loss: Any, arrays: Arrays) -> tuple[Any, float | None]:
    """Returns the compiled value and gradient, and its memory in MiB if the compiler reports it."""
    run = jax.jit(jax.value_and_grad(loss, argnums=_floats(arrays)))
    program = run.lower(*arrays.values()).compile()
    memory = program.memory_analysis()
    return program, None if memory is None else memory.temp_size_in_bytes / 2**20


_ACCURATE = 512
"""Largest size of the problem for the comparison with float64."""


def _errors(case: Case, sizes: dict[str, int]) -> tuple[float, float]:
    small = {k: min(v, _ACCURATE) if k in case.scaled else v for k, v in sizes.items()}
    arrays = case.make(jax.random.key(1), case.dtype, True, **small)
    moving = _floats(arrays)
    given = [np.asarray(x) for x in arrays.values()]
    with jax.enable_x64(True):
        doubles = [x.astype(np.float64) if i in moving else x for i, x in enumerate(given)]
        exact = [np.asarray(x) for x in jax.jit(jax.grad(case.plain, argnums=moving))(*map(jnp.asarray, doubles))]

    def error(loss: Any) -> float:
        slopes = jax.jit(jax.grad(loss, argnums=moving))(*arrays.values())
        pairs = zip(slopes, exact, strict=True)
        return max(float(np.abs(np.asarray(a).astype(float) - e).max() / np.abs(e).max()) for a, e in pairs)

    return error(case.ours), error(case.plain)


def environment() -> dict[str, str]:
    """Returns device, versions and date of the measurement."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "processor": _processor(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def table(rows: Sequence[Row]) -> str:
    """Returns a Markdown table."""

    def number(x: float | None, form: str) -> str:
        return "" if x is None else format(x, form)

    lines = [
        "| loss | shape | dtype | plain ms | ours ms | ratio | of rounds | repeated | target | plain MiB | MiB "
        "| plain gradient error | gradient error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row.name,
            " x ".join(map(str, row.sizes.values())),
            row.dtype,
            f"{row.plain_seconds * 1e3:.1f}",
            f"{row.seconds * 1e3:.1f}",
            f"{row.ratio:.2f}",
            f"{min(row.ratios):.2f} .. {max(row.ratios):.2f}",
            str(row.repeated),
            number(row.target, ".2f"),
            number(row.plain_mib, ".0f"),
            number(row.mib, ".0f"),
            number(row.plain_error, ".1e"),
            number(row.error, ".1e"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(options: Options) -> list[Row]:
    """Measures, prints, and writes the requested file."""
    chosen = {k: case for k, case in CASES.items() if not options.only or any(part in k for part in options.only)}
    if not chosen:
        raise SystemExit(f"no case matches {', '.join(options.only)}; the cases are {', '.join(CASES)}")
    if options.rounds < 1:
        raise SystemExit(f"--rounds must be at least 1, got {options.rounds}")
    if options.out is not None and options.out.suffix not in (".md", ".json"):
        raise SystemExit(f"--out must end in .md or .json, got {options.out}")
    probe = Probe(options.patience)
    rows = []
    for name, case in chosen.items():
        rows.append(measure(name, case, options, probe))
        print(table(rows).splitlines()[-1], flush=True)
    where = environment()
    text = "\n".join([f"{key}: {value}  " for key, value in where.items()] + ["", table(rows), ""])
    print(f"\n{text}")
    if options.out is not None and options.out.suffix == ".json":
        content = {"environment": where, "rows": [dataclasses.asdict(row) for row in rows]}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    elif options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m experiments.benchmarks.streaming", description=__doc__))
