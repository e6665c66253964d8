"""Several processes of one run: joining them, comparing their inputs, and ending together.

With one process nothing here has an effect. With several, JAX does the work: `jax.distributed.initialize()` joins them,
its preemption service agrees on the last step, and its heartbeats detect a lost process.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.errors import UsageError
from train.files import differences, is_writer, to_json

_SHOWN = 8
_FOR_EVER = 10**6
"""Seconds."""
_ASKED = itertools.count(1)


def join(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    heartbeat_seconds: int = 60,
    start_seconds: int = 300,
) -> None:
    """Joins the other processes of the run. Must be called before any other use of JAX devices.

    Args:
        coordinator: HOST:PORT of process 0. Under SLURM, Open MPI, Kubernetes (with `jax[k8s]`) and on TPU VMs, JAX
            determines it, the count and the index.
        count: Number of processes.
        index: Index of this process.
        heartbeat_seconds: Time without a heartbeat after which a process counts as dead and the others end.
        start_seconds: Maximum time to wait for all processes.

    Raises:
        UsageError: They cannot be joined, or did not all join in time. JAX may still be waiting for them, so this
            process cannot try again and should end.
    """
    failed: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                count,
                index,
                heartbeat_timeout_seconds=heartbeat_seconds,
                shutdown_timeout_seconds=heartbeat_seconds,
                initialization_timeout=start_seconds + _FOR_EVER,
            )
        except Exception as error:
            failed.append(error)

    # At its own timeout JAX aborts the process (SIGABRT), so it gets a longer one.
    waiting = threading.Thread(target=initialize, name="join", daemon=True)
    waiting.start()
    waiting.join(start_seconds)
    if waiting.is_alive():
        raise UsageError(
            f"cannot join the processes of this run (after {start_seconds} s {_missing(coordinator, index)}); "
            "start all of them at about the same time, and check that each can reach process 0"
        )
    if failed and not isinstance(failed[0], ValueError | TypeError | RuntimeError):
        raise failed[0]
    if failed:
        reason = (str(failed[0]).strip() or type(failed[0]).__name__).splitlines()[0]
        raise UsageError(
            f"cannot join the processes of this run ({reason}); outside of SLURM, Open MPI, Kubernetes and TPU VMs say "
            "where process 0 listens, how many processes there are and which this is"
        ) from failed[0]


def _missing(coordinator: str | None, index: int | None) -> str:
    """The processes that are missing, as far as this process can tell."""
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if index == 0 or address is None:
        return "some of the other processes have not joined"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return f"process 0 does not answer at {address}"
    return f"process 0 answers at {address}, but some of the other processes have not joined"


def check_same(given: Mapping[str, Any]) -> None:
    """Compares inputs between the processes. All of them must call it.

    Args:
        given: Small JSON values by name: the config, the fingerprint of the data.

    Raises:
        UsageError: A process differs from process 0. All of them raise it.
    """
    if jax.process_count() == 1:
        return
    first, *others = _allgather_json(to_json(dict(given), nonfinite=str))
    for number, other in enumerate(others, 1):
        if names := list(differences(first, other)):
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise UsageError(
                f"process {number} was started with other inputs than process 0 (different: {shown}); start all "
                "processes of a run by the same command, on the same code and data"
            )


def on_process_zero(action: Callable[[], object]) -> None:
    """Runs an action on process 0 while the others wait; all of them raise its `UsageError`."""
    failed: UsageError | None = None
    if is_writer():
        try:
            action()
        except UsageError as error:
            failed = error
    if jax.process_count() > 1:
        told = _allgather_json(None if failed is None else str(failed))[0]
        failed = failed or (None if told is None else UsageError(told))
    if failed is not None:
        raise failed


def explain_lost_process(error: BaseException) -> str | None:
    """The message for an error that was probably caused by a lost process; None for other errors."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in text:  # on CPUs it is a ValueError
        return None
    return (
        f"a step failed in process {jax.process_index()} of {jax.process_count()}, most likely because another process "
        f"has ended ({text:.200}); look at the output of the others, then start all again: they continue from the "
        "latest checkpoint"
    )


def preempted() -> bool:
    """Whether one of several processes received SIGTERM and all must end after this step.

    Every process must call this after every step, one training at a time, because calls are counted.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(next(_ASKED))


def wait_for_all(name: str) -> None:
    """Waits for all processes, so that none reads a file before another has written it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _allgather_json(value: Any) -> list[Any]:
    """The value of each process, in order."""
    text = np.frombuffer(json.dumps(value, sort_keys=True).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(text), np.int32))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size]).decode()) for row, size in zip(rows, sizes, strict=True)]
