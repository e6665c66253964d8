"""What one step costs: parameters, operations, memory and time; measured without a trace on disk."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from train.devices.memory import Memory, device_limit, readable


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step costs.

    Args:
        parameters: Numbers that are trained.
        flops: Floating-point operations of its matrix products and convolutions, on all devices together.
        memory: What the compiled program takes on each device; None where the compiler does not tell.
        limit: Bytes that a device has, if known.
        seconds: Median time.
        first_seconds: Time of the first step, which is compiled.
    """

    parameters: int
    flops: int
    memory: Memory | None
    limit: int | None
    seconds: float
    first_seconds: float

    def lines(self, steps: int) -> list[tuple[str, str]]:
        """Name and value of each, to be printed.

        Args:
            steps: Steps of a whole run.
        """
        rate = f", {scaled(self.flops / self.seconds)}FLOP/s" if self.seconds else ""
        table = [
            ("parameters", f"{self.parameters:,}"),
            ("operations", f"{scaled(self.flops)}FLOP in matrix products and convolutions, on all devices"),
        ]
        if self.memory is not None:
            m = self.memory
            table += [
                (
                    "memory on each device",
                    f"{readable(m.total)}" + (f" of {readable(self.limit)}" if self.limit else ""),
                ),
                ("  arguments", f"{readable(m.arguments)} (state and batch)"),
                ("  outputs", f"{readable(m.outputs)}, of which {readable(m.aliased)} take the arguments' place"),
                ("  temporaries", readable(m.temporaries)),
            ]
        return [
            *table,
            ("time", f"{self.seconds:.4g} s a step{rate}"),
            ("  first step", f"{self.first_seconds:.3g} s, with its compilation"),
            ("  all steps", f"{self.seconds * steps / 60:.1f} min for {steps:,}"),
        ]


def scaled(number: float) -> str:
    """A number with a prefix for its unit.

    >>> scaled(1.5e10), scaled(20)
    ('15 G', '20 ')
    """
    for prefix, unit in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g} {prefix}"
    return f"{number:.3g} "


def measure(
    state: Any, step: Callable[[Any, Any], tuple[Any, Any]], data: Iterator[Any], *, repeats: int = 5
) -> tuple[Any, Cost]:
    """Compiles a step, looks at the program and runs it a few times.

    Args:
        state: The state; it is gone afterwards if the step donates it.
        step: The step, best from `data_parallel`: of another function the memory is not known.
        data: Batches, at least `repeats + 1`.
        repeats: Steps that are timed, after a first one.

    Returns:
        The state after those steps, and the cost.
    """
    batch = next(data)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    flops = count_flops(getattr(step, "step", step), state, batch)
    memory = Memory.of(step.lower(state, batch).compile()) if hasattr(step, "lower") else None
    times = []
    for number in range(repeats + 1):
        batch = batch if number == 0 else next(data)
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - start)
    middle = sorted(times[1:])[(len(times) - 1) // 2]
    return state, Cost(parameters, flops, memory, device_limit(), middle, times[0])


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of all matrix products and convolutions of a function.

    Unlike the compiler's own count, a loop counts as often as it runs. What the compiler removes because nobody reads
    it does not count; a `while` loop without a known number of rounds counts once.

    Args:
        function: A function that JAX can trace.
        *args: Its arguments, or their shapes.

    >>> x = jax.ShapeDtypeStruct((3, 4), "float32")
    >>> count_flops(lambda x: x @ x.T, x)  # 2 * 3 * 4 * 3
    72
    """
    closed = jax.make_jaxpr(function)(*args)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _flops(jaxpr)


def _flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_features = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // out_features
        else:
            inner = [_flops(getattr(part, "jaxpr", part)) for part in jaxprs_in_params(params)]
            times = params["length"] if name == "scan" else 1
            total += times * (max(inner, default=0) if name == "cond" else sum(inner))
    return total
