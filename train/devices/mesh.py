"""Meshes of devices, and the rows of a batch on each of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from train.errors import UsageError

DATA = "data"
BATCH_AXES = (DATA, "fsdp")
"""The axes of a mesh that split the batch."""
AXES = (*BATCH_AXES, "tensor")


def make_mesh(
    *, data: int | None = None, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Arranges the devices as `data` x `fsdp` x `tensor`, with neighbours in `tensor`, which communicates most.

    Args:
        data: Number of copies of the parameters; by default all remaining devices.
        fsdp: Number of parameter shards that are gathered when needed; each processes its own rows of the batch.
        tensor: Number of parameter shards that compute together on the same rows.
        devices: The devices; by default all, of all processes.

    >>> dict(make_mesh(devices=jax.devices()[:1]).shape)
    {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = _chosen(devices)
    count = len(devices)
    if fsdp < 1 or tensor < 1 or (data is not None and data < 1):
        raise UsageError(f"expected mesh axes of at least 1, got data {data}, fsdp {fsdp} and tensor {tensor}")
    data = max(1, count // (fsdp * tensor)) if data is None else data
    if data * fsdp * tensor != count:
        raise UsageError(
            f"a mesh of data {data} x fsdp {fsdp} x tensor {tensor} needs {data * fsdp * tensor} devices, but there "
            f"are {count}: choose fsdp and tensor so that their product divides {count}"
        )
    return jax.make_mesh((data, fsdp, tensor), AXES, devices=devices, axis_types=(AxisType.Auto,) * 3)


def line_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh: each device has its part of the batch and all parameters."""
    devices = _chosen(devices)
    return jax.make_mesh((len(devices),), (DATA,), devices=devices, axis_types=(AxisType.Auto,))


def _chosen(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    """The devices as a list without repetition, all by default."""
    found = jax.devices() if devices is None else list(devices) if isinstance(devices, Iterable) else [devices]
    if not found or not all(isinstance(device, jax.Device) for device in found) or len({*found}) < len(found):
        raise UsageError(
            f"devices are at least one of jax.devices(), each of them once, got {devices!r}: leave them out for all "
            "devices, or give some, as jax.devices()[:1]."
        )
    return found


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading axis is split over `data` and `fsdp`, as far as the mesh has them."""
    return NamedSharding(mesh, P(tuple(axis for axis in BATCH_AXES if axis in mesh.shape)))


def local_parts(mesh: Mesh) -> int:
    """Number of parts of a batch on devices of this process."""
    return len(_local_spans(mesh, _parts(mesh)))


def process_rows(size: int, mesh: Mesh | None = None) -> np.ndarray:
    """The rows of a global batch that this process must give to the step.

    Args:
        size: Rows of the batch over all processes.
        mesh: Mesh of the step; by default all devices in a line.

    Returns:
        Ascending indices. A single process has all rows. Two processes share rows if a mesh axis that does not split
        the batch spans both.

    >>> process_rows(4).tolist()
    [0, 1, 2, 3]
    """
    if jax.process_count() == 1:
        return np.arange(size)
    mesh = mesh or line_mesh()
    if size % _parts(mesh):
        raise UsageError(
            f"a batch of {size} does not divide evenly into the {_parts(mesh)} parts that {jax.process_count()} "
            f"processes need: use a batch size that is a multiple of {_parts(mesh)}"
        )
    return np.concatenate([np.arange(*span) for span in _local_spans(mesh, size)])


def place(leaf: Any, sharding: Sharding) -> jax.Array:
    """`jax.device_put` that also accepts PRNG keys on devices of several processes."""
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if sharding.is_fully_addressable or not here or not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        placed: jax.Array = jax.device_put(leaf, sharding)
        return placed
    wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(leaf))
    keys: jax.Array = jax.jit(wrap, out_shardings=sharding)(np.asarray(jax.random.key_data(leaf)))
    return keys


def _parts(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES if axis in mesh.shape)


def _local_spans(mesh: Mesh, size: int) -> list[tuple[int, int]]:
    """First row and end of each part of a batch on devices of this process, without repetition."""
    spans = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return sorted({span[0].indices(size)[:2] for span in spans if span is not None})
