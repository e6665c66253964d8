"""Memory of a compiled step, and which setting to lower if it is not enough."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from train.errors import RunFailed
from train.trees import Batch, Tree

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of a compiled program on each device, in bytes.

    Args:
        arguments: State and batch.
        outputs: Returned arrays.
        aliased: Part of the outputs that reuses donated arguments.
        temporaries: Arrays that exist only while it runs: activations and gradients.
        program: The program itself.
    """

    arguments: int
    outputs: int = 0
    aliased: int = 0
    temporaries: int = 0
    program: int = 0

    @property
    def kept(self) -> int:
        """Memory without the temporaries."""
        return self.arguments + self.outputs - self.aliased + self.program

    @property
    def total(self) -> int:
        """Total memory.

        >>> Memory(arguments=10, outputs=9, aliased=8, temporaries=5).total
        16
        """
        return self.kept + self.temporaries

    @classmethod
    def of(cls, compiled: Any) -> Self | None:
        """Memory by the report of the compiler on a `jax.stages.Compiled`; None if the backend has no report."""
        found = compiled.memory_analysis()
        if found is None:
            return None
        return cls(
            arguments=found.argument_size_in_bytes,
            outputs=found.output_size_in_bytes,
            aliased=found.alias_size_in_bytes,
            temporaries=found.temp_size_in_bytes,
            program=found.generated_code_size_in_bytes,
        )


class OutOfMemory(RunFailed):
    """A step that needs too much memory; the message says what to lower and by how much.

    Args:
        rows: Examples in a batch, over all devices.
        parts: Number of micro-batches.
        devices: Number of devices.
        memory: Memory of the step on each device, if known.
        limit: Memory of each device, if known.
        gradients: Bytes of the gradients, temporaries that do not shrink with more micro-batches.
        batch: Bytes of the batch on each device, which is copied to be split into micro-batches.
        trains: Whether it is a train step; an evaluation has no micro-batches.
    """

    def __init__(
        self,
        rows: int,
        parts: int,
        devices: int,
        memory: Memory | None,
        limit: int | None,
        *,
        gradients: int = 0,
        batch: int = 0,
        trains: bool = True,
    ) -> None:
        self.trains = trains
        self.rows, self.parts, self.devices = rows, parts, devices
        self.memory, self.limit, self.gradients, self.batch = memory, limit, gradients, batch
        super().__init__(self.sentence())

    def sentence(self, split: str | None = "accumulate=", size: str = "batch_size=") -> str:
        """The message with the names of the settings in the calling program.

        Args:
            split: How to set the number of micro-batches; None if there is no such setting.
            size: How to set the number of examples in a batch.
        """
        parts = f" in {self.parts} micro-batch{'es' if self.parts > 1 else ''}" if self.trains else " in an evaluation"
        needs = "more memory than there is"
        if self.memory is not None:
            needs = (
                f"{readable(self.memory.total)} on each device ({readable(self.memory.kept)} for state and batch, "
                f"{readable(self.memory.temporaries)} while it runs)"
            )
        has = "" if self.limit is None else f", and a device has {readable(self.limit)}"
        advice = self._advice(split if self.trains else None, size)
        return f"out of memory: a batch of {self.rows}{parts} needs {needs}{has}; {advice}"

    def _advice(self, split: str | None, size: str) -> str:
        smaller = "take a smaller model or shorter inputs, or more devices"
        if self.rows // self.devices <= self.parts:
            return f"that is one example at a time already: {smaller}"
        if self.memory is None or self.limit is None:
            first = f"try {split}{2 * self.parts}, or " if split is not None else "try "
            return f"{first}{size}{max(self.rows // 2, self.devices)}, and halve again if that is not enough"
        factor = self.factor()
        if factor is None:
            return (
                f"one example at a time would need about {readable(self.needed(self.rows // self.devices))}: {smaller}"
            )
        instead = f"{size}{self.rows * self.parts // factor}"
        if split is not None:
            instead = f"{split}{factor} (about {readable(self.needed(factor))}), or {instead}"
        return f"try {instead}"

    def factor(self) -> int | None:
        """The smallest number of micro-batches estimated to fit; None if there is none.

        >>> def gib(n): return int(n * 2**30)
        >>> error = OutOfMemory(64, 1, 1, Memory(arguments=gib(12), temporaries=gib(79)), gib(78))
        >>> error.factor()
        2
        >>> print(error)
        out of memory: a batch of 64 in 1 micro-batch needs 91.0 GiB on each device (12.0 GiB for state and batch,
        79.0 GiB while it runs), and a device has 78.0 GiB; try accumulate=2 (about 51.5 GiB), or batch_size=32
        """
        each = self.rows // self.devices
        fitting = [k for k in range(self.parts + 1, each + 1) if each % k == 0 and self.needed(k) <= (self.limit or 0)]
        return fitting[0] if fitting else None

    def needed(self, parts: int) -> int:
        """Bytes per device with this number of micro-batches: activations shrink, and gradients are stored twice."""
        if self.memory is None:
            return 0
        gradients = min(self.gradients, self.memory.temporaries)
        had = gradients if self.parts == 1 else 2 * gradients + self.batch
        activations = max(self.memory.temporaries - had, 0)
        return self.memory.kept + 2 * gradients + self.batch + activations * self.parts // parts


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA ran out of memory during compilation or execution."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


class MemoryErrors:
    """Turns an out-of-memory error of a step, raised inside the `with` block, into `OutOfMemory`.

    Args:
        step: The step; the memory of one from `data_parallel` is known.
    """

    def __init__(self, step: Any) -> None:
        self._step = step
        self._shapes: tuple[Any, Any] | None = None

    def expect(self, state: Any, batch: Batch) -> None:
        """Records the shapes of the first call, before the step deletes a donated state."""
        if self._shapes is None:
            self._shapes = jax.tree.map(_shape, (state, batch))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self._shapes is not None and is_out_of_memory(error):
            raise explain(str(error), self._step, *self._shapes) from error


def explain(message: str, step: Any, state: Any, batch: Batch) -> OutOfMemory:
    """Makes an `OutOfMemory` from an error of XLA."""
    rows = max((leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.shape), default=1)
    limit = device_limit()
    memory = None
    if hasattr(step, "lower"):
        try:
            memory = Memory.of(step.lower(state, jax.tree.map(_zeros, batch)).compile())
        except jax.errors.JaxRuntimeError:  # compilation itself fails
            memory = None
    if memory is None and (used := re.search(r"Used ([\d.]+)([KMGT]?)i?B? of ([\d.]+)([KMGT]?)", message)):
        total, limit = (round(float(used[i]) * _UNITS[used[i + 1]]) for i in (1, 3))
        arguments = min(tree_bytes((state, batch)), total)
        memory = Memory(arguments, temporaries=total - arguments)
    plain = getattr(step, "step", None)
    return OutOfMemory(
        rows * jax.process_count(),
        getattr(plain, "accumulate", 1),
        getattr(step, "parts", 1) * jax.process_count(),
        memory,
        limit,
        gradients=tree_bytes(getattr(state, "params", ())),
        batch=tree_bytes(batch) // getattr(step, "parts", 1),
        trains=getattr(plain, "trains", True),
    )


def device_limit(device: jax.Device | None = None) -> int | None:
    """Memory of a device in bytes, by default of the first; None if unknown."""
    device = device or jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit")
    try:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None
    try:
        return min(limit, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return limit


def tree_bytes(tree: Tree) -> int:
    """Bytes of all arrays of a tree.

    >>> tree_bytes({"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)})
    36
    """
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def readable(size: int) -> str:
    """Bytes with a suitable unit.

    >>> readable(91 * 2**30), readable(2**19), readable(2**50)
    ('91.0 GiB', '512.0 KiB', '1024.0 TiB')
    """
    for name, unit in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 2**10:.1f} KiB"


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    array = np.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _zeros(leaf: Any) -> np.ndarray:
    return np.zeros(leaf.shape, leaf.dtype)
