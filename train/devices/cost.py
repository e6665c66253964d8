"""The cost of one step: parameters, operations, memory and time."""

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
    """The cost of a step.

    Args:
        parameters: Number of trained parameters.
        flops: Floating-point operations of matrix products and convolutions, summed over devices.
        memory: Memory of the compiled program on each device; None if the compiler does not report it.
        limit: Memory of a device in bytes, if known.
        seconds: Median time.
        first_seconds: Time of the first step with its compilation.
    """

    parameters: int
    flops: int
    memory: Memory | None
    limit: int | None
    seconds: float
    first_seconds: float

    def lines(self, steps: int) -> list[tuple[str, str]]:
        """Names and values as text."""
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
                ("  outputs", f"{readable(m.outputs)}, of which {readable(m.aliased)} reuse donated arguments"),
                ("  temporaries", readable(m.temporaries)),
            ]
        return [
            *table,
            ("time", f"{self.seconds:.4g} s a step{rate}"),
            ("  first step", f"{self.first_seconds:.3g} s, with its compilation"),
            ("  all steps", f"{self.seconds * steps / 60:.1f} min for {steps:,}"),
        ]


def scaled(number: float) -> str:
    """A number with an SI prefix.

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
    """Compiles a step, inspects the program and times a few steps.

    Args:
        state: The state; a step that donates its arguments deletes it.
        step: The step, preferably from `data_parallel`: the memory of other functions is not known.
        data: Batches, at least `repeats + 1`.
        repeats: Steps timed after the first.

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

    Unlike in the compiler's count, the body of a loop counts once for each iteration. Unused results, which the
    compiler removes, do not count; a `while` loop with an unknown number of iterations counts once.

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
