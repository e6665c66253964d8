"""Options for a mesh of devices and for several processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax.sharding import Mesh

from train.console import say
from train.devices.mesh import make_mesh
from train.devices.processes import explain_lost_process, join, wait_for_all
from train.errors import RunFailed, UsageError
from train.files import is_writer


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sharding of the parameters over the devices; the remaining factor of devices splits only the batch."""

    fsdp: int = 1
    """Number of parameter shards over devices with different rows of the batch."""
    tensor: int = 1
    """Number of parameter shards over devices with the same rows, which communicate in every layer."""

    def make(self) -> Mesh | None:
        """Returns the mesh of all devices, or None without sharding."""
        return None if self.fsdp == self.tensor == 1 else make_mesh(fsdp=self.fsdp, tensor=self.tensor)


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """Several processes that execute one run, started by the same command."""

    join: bool = False
    """Join the other processes with jax.distributed.initialize(), which finds them under SLURM and on TPU VMs."""
    coordinator: str | None = None
    """HOST:PORT of process 0, if JAX cannot detect it."""
    count: int | None = None
    """Number of processes, if JAX cannot detect it."""
    index: int | None = None
    """Index of this process, if JAX cannot detect it."""
    heartbeat_seconds: int = 60
    """Seconds without a heartbeat after which a process counts as lost and the others end."""
    start_seconds: int = 300
    """Seconds to wait at the start for all processes."""


@contextlib.contextmanager
def joined(config: Any) -> Iterator[None]:
    """Joins the processes if the config has `processes`; only process 0 then prints results."""
    options = getattr(config, "processes", None)
    if options is None or not options.join:
        yield
        return
    try:
        join(
            options.coordinator,
            options.count,
            options.index,
            heartbeat_seconds=options.heartbeat_seconds,
            start_seconds=options.start_seconds,
        )
    except UsageError as error:
        if jax.distributed.is_initialized():  # JAX still waits for the others, and a normal exit would wait for JAX.
            _end_at_once(f"error: {error}", 2)
        raise
    with contextlib.ExitStack() as stack:
        if not is_writer():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield
            wait_for_all("the end")  # process 0 may be busy with its report
        except (UsageError, RunFailed, SystemExit):
            raise  # the same in all of them
        except BaseException as error:
            # Only this process failed: a normal exit would wait for the others, which wait for this one.
            if (told := explain_lost_process(error)) is None:
                say(traceback.format_exc())
            _end_at_once(f"error: {told or 'this process failed, and the others end with it'}", 1)


def _end_at_once(text: str, code: int) -> NoReturn:
    say(text)
    os._exit(code)
