"""Parameters sharded over a mesh of devices by rules on their paths, for models larger than one device.

    mesh = make_mesh(fsdp=4, tensor=2)
    state = shard_state(lambda: create_state(init(key), optimizer, key=0), mesh, rules)
    step = data_parallel(build_train_step(...), mesh=mesh)

Three axes: the batch is split over `data` and `fsdp`, the parameters over `fsdp` and `tensor`. The step does not
change: under `jit` the compiler gathers parameters when needed and scatters gradients.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from train.devices.mesh import place
from train.errors import UsageError
from train.paths import check_matches, map_with_path, path_of
from train.state import TrainState
from train.trees import Params, Tree

Axis = str | tuple[str, ...] | None
Rules = Sequence[tuple[str, Sequence[Axis]]]

MIN_SIZE = 2**12
"""Parameters with fewer entries are replicated on every device: a collective would cost more than it saves."""


def param_specs(params: Params, mesh: Mesh, rules: Rules = (), *, min_size: int = MIN_SIZE) -> Any:
    """The sharding of each parameter: by the first rule with a matching pattern, otherwise by default.

    By default, a parameter of at least `min_size` entries is split along its largest dimension divisible by the size of
    `fsdp` (the last one of equal size).

    Args:
        params: The parameters, or their shapes as from `jax.eval_shape`.
        mesh: The devices.
        rules: Pairs of a regular expression, searched in paths such as `encoder/block_0/qkv/kernel`, and for the first
            dimensions of the parameter the mesh axis (or axes) each is split over; None splits it over none.
        min_size: Minimum number of entries of a parameter split by default.

    Returns:
        A `PartitionSpec` for each parameter.

    >>> from train import make_mesh
    >>> mesh = make_mesh(devices=jax.devices()[:1])
    >>> shapes = {"kernel": jax.ShapeDtypeStruct((64, 256), float), "bias": jax.ShapeDtypeStruct((256,), float)}
    >>> {path: tuple(spec) for path, spec in param_specs(shapes, mesh).items()}
    {'bias': (), 'kernel': (None, 'fsdp')}
    >>> tuple(param_specs(shapes, mesh, [("kernel$", ("fsdp", "tensor"))])["kernel"])
    ('fsdp', 'tensor')
    """
    for pattern, axes in rules:
        check_matches(pattern, params, "sharding rule")
        for name in _names(axes):
            if name not in mesh.shape:
                raise UsageError(
                    f"the sharding rule {pattern!r} names the mesh axis {name!r}, but the mesh has "
                    f"{', '.join(map(str, mesh.axis_names))}"
                )

    def spec(path: str, leaf: Any) -> P:
        for pattern, axes in rules:
            if re.search(pattern, path):
                return _by_rule(path, leaf.shape, pattern, axes, mesh)
        return _by_default(leaf.shape, mesh, min_size)

    return map_with_path(spec, params)


def state_shardings(state: TrainState, mesh: Mesh, rules: Rules = (), *, min_size: int = MIN_SIZE) -> TrainState:
    """The sharding of each array of a state; for the arguments see `shard_state`."""
    specs = param_specs(state.params, mesh, rules, min_size=min_size)
    flat = jax.tree_util.tree_flatten_with_path(state.params)[0]
    known = {
        path_of(path): (leaf.shape, spec)
        for (path, leaf), spec in zip(flat, jax.tree.leaves(specs, is_leaf=_is_spec), strict=True)
    }

    def on_mesh(spec: P) -> NamedSharding:
        return NamedSharding(mesh, spec)

    def like_its_parameter(path: str, leaf: Any) -> NamedSharding:
        return on_mesh(_spec_of_copy(path, leaf.shape, known))

    frozen = jax.tree.map(
        lambda leaf: _by_default(leaf.shape, mesh, min_size if _is_real(leaf) else math.inf), state.frozen
    )
    whole: TrainState = jax.tree.map(lambda _: on_mesh(P()), state)
    return whole.replace(
        params=map_with_path(like_its_parameter, state.params),
        opt_state=map_with_path(like_its_parameter, state.opt_state),
        ema=map_with_path(like_its_parameter, state.ema),
        frozen=jax.tree.map(on_mesh, frozen, is_leaf=_is_spec),
    )


def shard_state(
    state: TrainState | Callable[[], TrainState], mesh: Mesh, rules: Rules = (), *, min_size: int = MIN_SIZE
) -> TrainState:
    """Shards a state over the mesh.

    Optimizer state and averages are sharded like their parameters, recognised by the end of the path and the shape.
    Frozen arrays follow the default rule; everything else is replicated.

    Args:
        state: The state, or a function that creates it. The function is compiled so that no device ever holds the whole
            state.
        mesh: The devices, as from `make_mesh`.
        rules: See `param_specs`.
        min_size: See `param_specs`.
    """
    if isinstance(state, TrainState):
        placed: TrainState = jax.tree.map(place, state, state_shardings(state, mesh, rules, min_size=min_size))
        return placed
    shardings = state_shardings(jax.eval_shape(state), mesh, rules, min_size=min_size)
    made: TrainState = jax.jit(state, out_shardings=shardings)()
    return made


def gather(tree: Tree) -> Any:
    """Returns each whole array on the host of every process. All processes must call it.

    >>> gather({"w": jax.numpy.ones(2)})
    {'w': array([1., 1.], dtype=float32)}
    """

    def fetch(leaf: Any) -> Any:
        whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        return jax.device_get(leaf) if whole else multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetch, tree)


def bytes_per_device(tree: Tree) -> dict[jax.Device, int]:
    """Bytes of a tree of arrays on each device of this process.

    >>> list(bytes_per_device({"w": jax.numpy.ones(3)}).values())
    [12]
    """
    held: dict[jax.Device, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return held


def _names(axes: Sequence[Axis]) -> list[str]:
    return [name for axis in axes if axis is not None for name in ((axis,) if isinstance(axis, str) else axis)]


def _by_rule(path: str, shape: tuple[int, ...], pattern: str, axes: Sequence[Axis], mesh: Mesh) -> P:
    where = f"the sharding rule {pattern!r} splits {path} of shape {shape}"
    if len(axes) > len(shape):
        raise UsageError(f"{where} in {len(axes)} dimensions, but it has {len(shape)}: give one axis a dimension")
    if len(set(_names(axes))) < len(_names(axes)):
        raise UsageError(f"{where} twice over one mesh axis {tuple(axes)}: name each axis once")
    for dimension, axis in enumerate(axes):
        parts = math.prod(mesh.shape[name] for name in _names([axis]))
        if shape[dimension] % parts:
            raise UsageError(
                f"{where}, but the mesh axis {axis!r} of size {parts} does not divide its dimension {dimension} of "
                f"{shape[dimension]}: choose another size of that axis, or another rule"
            )
    return P(*axes)


def _by_default(shape: tuple[int, ...], mesh: Mesh, min_size: float) -> P:
    parts = mesh.shape.get("fsdp", 1)
    fitting = [d for d, size in enumerate(shape) if size and size % parts == 0]
    if not fitting or "fsdp" not in mesh.shape or math.prod(shape) < min_size:
        return P()
    chosen = max(fitting, key=lambda d: (shape[d], d))
    return P(*[None] * chosen, "fsdp")


def _spec_of_copy(path: str, shape: tuple[int, ...], known: Mapping[str, tuple[tuple[int, ...], P]]) -> P:
    """The spec of the parameter with the longest path that this path ends in, if the shapes are equal."""
    parts = path.split("/")
    for start in range(len(parts) + 1):
        found = known.get("/".join(parts[start:]))
        if found is not None and found[0] == shape:
            return found[1]
    return P()


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, P)


def _is_real(leaf: Any) -> bool:
    return not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
