"""Where an experiment runs: options for a mesh of devices and for several processes."""

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
    """How parameters are spread over the devices; what the two leave over splits the batch only."""

    fsdp: int = 1
    """Parts of the parameters, each on devices with rows of the batch of their own."""
    tensor: int = 1
    """Parts of the parameters, all on the same rows: neighbours that talk in every layer."""

    def make(self) -> Mesh | None:
        """The mesh of all devices, or None where no parameter is to be spread."""
        return None if self.fsdp == self.tensor == 1 else make_mesh(fsdp=self.fsdp, tensor=self.tensor)


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """Several processes that make one run, started by the same command."""

    join: bool = False
    """Join the other processes by jax.distributed.initialize(), which finds them under SLURM and on TPU VMs."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where JAX cannot find it."""
    count: int | None = None
    """Number of processes, where JAX cannot find it."""
    index: int | None = None
    """Which of them this is, where JAX cannot find it."""
    heartbeat_seconds: int = 60
    """A process not heard of for so long is taken for dead, and the others end."""
    start_seconds: int = 300
    """How long to wait at the start until all processes are there."""


@contextlib.contextmanager
def joined(config: Any) -> Iterator[None]:
    """Joins the processes of an experiment whose config has `processes`, and lets only process 0 print results."""
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
        if jax.distributed.is_initialized():  # It still waits for the others, and the usual end would wait for it.
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
            # Of this process alone: the usual end would wait for the others, who wait for this one.
            if (told := explain_lost_process(error)) is None:
                say(traceback.format_exc())
            _end_at_once(f"error: {told or 'this process failed, and the others end with it'}", 1)


def _end_at_once(text: str, code: int) -> NoReturn:
    say(text)
    os._exit(code)
