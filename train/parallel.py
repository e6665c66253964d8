"""Placement and synchronisation of a step on one device or many."""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from train.checks import checked
from train.devices.mesh import DATA, batch_sharding, line_mesh, local_parts, place
from train.errors import UsageError
from train.paths import check_leaves
from train.trees import Batch, Tree, is_key

AXIS = DATA
Compiled = Callable[[Any, Any], Any]
Backend = Literal["jit", "pmap", "shard_map"]
NUMBERS = (jnp.number, jnp.bool_, jax.dtypes.prng_key)
"""The dtypes allowed in a batch."""


@dataclasses.dataclass(frozen=True)
class Sync:
    """Communication of one device's part of a step with the others.

    Args:
        axis_name: The mapped device axis; None on one device and in the global view of `jit`, where sums are already
            global.
    """

    axis_name: str | None = None

    def local(self, tree: Tree) -> Any:
        """Marks arrays as device-local.

        Under `shard_map` with `check_vma=True` the gradient of a replicated array is already summed over the devices,
        and a second sum would silently make it n times too large. The gradient of a marked array is local.
        """
        name = self.axis_name
        return tree if name is None else jax.tree.map(lambda x: _vary(jnp.asarray(x), name), tree)

    def sum(self, tree: Tree) -> Any:
        """Sums over the devices."""
        return tree if self.axis_name is None else jax.lax.psum(self.local(tree), self.axis_name)

    def agree(self, tree: Tree) -> Any:
        """Makes mutable collections equal on all devices: real numbers by their mean, others by their maximum."""
        return tree if self.axis_name is None else jax.tree.map(self._agree_leaf, self.local(tree))

    def _agree_leaf(self, leaf: jax.Array) -> jax.Array:
        agreed: jax.Array
        if is_key(leaf):
            data = jax.lax.pmax(jax.random.key_data(leaf), self.axis_name)
            agreed = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        elif jnp.issubdtype(leaf.dtype, jnp.inexact):
            agreed = jax.lax.pmean(leaf, self.axis_name)
        elif leaf.dtype == bool:
            agreed = jax.lax.pmax(leaf.astype(jnp.int32), self.axis_name).astype(bool)
        else:
            agreed = jax.lax.pmax(leaf, self.axis_name)
        return agreed

    def fold(self, key: jax.Array) -> jax.Array:
        """Derives a different key for each device."""
        return jax.random.fold_in(key, 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name))


@dataclasses.dataclass(frozen=True)
class Step:
    """A step not yet placed on devices: call it, or give it to `data_parallel`.

    Args:
        body: `(state, batch, sync) -> (state, metrics)`, or `-> metrics` for an evaluation step.
        trains: Whether it returns a new state.
        accumulate: Number of micro-batches.
        checks: Whether the step checks its values. Under a plain `jax.jit` it must then be wrapped in `chex.chexify`,
            as `data_parallel` does.
    """

    body: Callable[[Any, Any, Sync], Any]
    trains: bool
    accumulate: int = 1
    checks: bool = False

    def __call__(self, state: Any, batch: Batch) -> Any:
        """Runs the step on the whole batch, in one program."""
        return self.body(state, batch, Sync())

    def on(self, sync: Sync) -> Compiled:
        """One device's part of the step, as a function of state and batch."""

        def step(state: Any, batch: Batch) -> Any:
            return self.body(state, batch, sync)

        return step


def data_parallel(
    step: Step,
    backend: Backend = "jit",
    devices: Sequence[jax.Device] | None = None,
    donate: bool = True,
    *,
    mesh: Mesh | None = None,
    check_vma: bool = True,
) -> Callable[[Any, Any], Any]:
    """Compiles a step for a batch split over devices.

    The three backends give the same numbers. Each takes and returns the plain state of the step, and takes a batch of
    global size, which is split along its leading axis; each of several processes gives its own part of the batch.

    Args:
        step: What `build_train_step` or `build_eval_step` returned.
        backend: `"jit"` for the global view (the compiler places the collectives, and a state sharded over the same
            devices stays sharded), `"pmap"` or `"shard_map"` for one program per device. With micro-batches these two
            sum gradients over the devices once a step. The global view knows only gradients of whole micro-batches, so
            it sums after each of them, unless XLA moves the sum out of the loop (not on CPUs). If that is slow and the
            state fits on a device, use `"shard_map"`.
        devices: The devices, all by default.
        donate: Let a train step reuse the memory of its input state, which is deleted.
        mesh: For `"jit"`, in place of the devices; see `train.make_mesh` and `train.shard_state`.
        check_vma: For `shard_map`: let JAX check which values are equal on all devices. Turn it off if the objective
            uses an operation without a rule for that.

    Returns:
        The compiled step, called like the step. Its method `lower(state, batch)` returns the program
        (`jax.stages.Lowered`).

    Raises:
        RunFailed: When called, a check of a step built with `checks=True` failed. The input state is intact, because
            such a step donates nothing. Checks cost a few milliseconds a step.

    >>> import optax, train
    >>> objective = lambda params, batch, ctx: {"square": train.Term((params - batch["x"]) ** 2, weights=1)}
    >>> step = train.build_train_step(objective, optax.sgd(0.5), loss_weights={"square": 1.0})
    >>> step = data_parallel(step, backend="shard_map", devices=jax.devices()[:1])
    >>> state, metrics = step(train.create_state(jnp.zeros(()), optax.sgd(0.5), key=0), {"x": np.array([1.0, 3.0])})
    >>> print(state.params, train.means(metrics)["loss"])  # the mean, and (1 + 9) / 2
    2.0 5.0
    """
    if backend not in _BACKENDS:
        raise UsageError(f"backend {backend!r} is unknown: choose one of {', '.join(map(repr, _BACKENDS))}.")
    if mesh is not None and (backend != "jit" or devices is not None):
        raise UsageError(f"a mesh says which devices there are and needs backend 'jit', got {backend!r}, {devices}.")
    where: Any = {"mesh": mesh, "check_vma": check_vma}
    mesh = mesh or line_mesh(devices)
    parts = local_parts(mesh)
    # A step that may fail a check must not delete its input state.
    donated = (0,) if donate and step.trains and not step.checks else ()
    compiled: dict[Any, Compiled] = {}
    # Inspecting every array of the state takes longer than a small step, so the state that the last call returned is
    # not inspected again.
    latest: tuple[weakref.ref[Any], Compiled] | None = None

    # Places a state that comes from outside, and compiles the step for its structure and shardings.
    def prepare(state: Any) -> tuple[Any, Compiled]:
        state = jax.tree.map(lambda x: _place(x, mesh, keep=backend == "jit"), state)
        shardings = jax.tree.map(lambda x: x.sharding, state)
        layout = jax.tree.structure(state), tuple(jax.tree.leaves(shardings))
        if layout not in compiled:
            function = _BACKENDS[backend](step, mesh, shardings, donated, check_vma)
            compiled[layout] = checked(function) if step.checks else function
        return state, compiled[layout]

    def call(state: Any, batch: Batch) -> Any:
        nonlocal latest
        check_batch(batch, devices=parts, accumulate=step.accumulate)
        batch = (_stack if backend == "pmap" else _split)(batch, mesh)
        if latest is not None and latest[0]() is state:
            function = latest[1]
        else:
            state, function = prepare(state)
        result = function(state, batch)
        latest = weakref.ref(result[0] if step.trains else state), function
        return result

    def lower(state: Any, batch: Batch) -> jax.stages.Lowered:
        batch = (_stack if backend == "pmap" else _split)(batch, mesh)
        state = jax.tree.map(lambda x: _shape(x, mesh, keep=backend == "jit"), state)
        shardings = jax.tree.map(lambda x: x.sharding, state)
        function: Any = _BACKENDS[backend](step, mesh, shardings, donated, check_vma)
        return (jax.jit(checkify.checkify(function)) if step.checks else function).lower(state, batch)

    # Like the method of `jax.jit`: shows the program without running it. The state may consist of shapes.
    call.lower, call.step, call.parts = lower, step, parts  # type: ignore[attr-defined]
    call.scanned = lambda: data_parallel(scanned(step), backend, devices, donate, **where)  # type: ignore[attr-defined]
    return call


def scanned(step: Step) -> Step:
    """A step that makes several steps, on batches stacked along their second axis: `[B, steps, ...]`.

    Devices and micro-batches still split the first axis, the examples. Each metric gets a new first axis of steps.
    """

    def body(state: Any, batches: Any, sync: Sync) -> tuple[Any, Any]:
        each = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batches)
        return jax.lax.scan(lambda state, batch: step.body(state, batch, sync), state, each)

    return dataclasses.replace(step, body=body)


def check_batch(batch: Batch, *, devices: int = 1, accumulate: int = 1) -> None:
    """Checks that a batch of numbers splits evenly over devices, and each part over micro-batches."""
    check_leaves(
        batch,
        "the batch",
        NUMBERS,
        "A step computes with numbers: encode text, dates and objects as integers, or leave them out of the batch.",
    )
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes == {()}:
        shapes = jax.tree.map(lambda leaf: np.shape(leaf), batch)
        raise UsageError(f"every array of a batch needs the same leading axis, but the shapes are {shapes}.")
    size = sizes.pop()[0]
    if size == 0:
        raise UsageError("the batch is empty: its arrays need at least one row.")
    if size % (devices * accumulate):
        parts = f"{devices} devices" if devices > 1 else ""
        parts += " x " if devices > 1 and accumulate > 1 else ""
        parts += f"{accumulate} micro-batches" if accumulate > 1 else ""
        raise UsageError(
            f"a batch of {size} does not divide evenly into {parts}: use a batch size that is a multiple of "
            f"{devices * accumulate}, or change the number of {'devices or ' if devices > 1 else ''}micro-batches."
        )


def micro_batches(batch: Batch, count: int) -> Any:
    """Splits `[B, ...]` into `[count, B / count, ...]`. Micro-batch j has the rows j, j + count, j + 2 count, ...

    So each micro-batch of a sharded batch is spread over the same devices, and its rows do not depend on their number.
    """

    def split(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, batch)


def _vary(leaf: jax.Array, axis_name: str) -> jax.Array:
    try:
        varying: jax.Array = jax.lax.pcast(leaf, axis_name, to="varying")
    except ValueError:  # already device-local
        return leaf
    return varying


def _jit(step: Step, mesh: Mesh, shardings: Any, donate: tuple[int, ...], check_vma: bool) -> Compiled:
    # Without fixed output shardings the compiler might change the layout of the state, and the next call would
    # recompile.
    replicated, split = NamedSharding(mesh, P()), batch_sharding(mesh)
    outputs = (shardings, replicated) if step.trains else replicated
    body = step.on(Sync())
    return jax.jit(body, in_shardings=(shardings, split), out_shardings=outputs, donate_argnums=donate)


def _shard_map(step: Step, mesh: Mesh, shardings: Any, donate: tuple[int, ...], check_vma: bool) -> Compiled:
    body = jax.shard_map(step.on(Sync(AXIS)), mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=check_vma)
    return jax.jit(body, in_shardings=(shardings, NamedSharding(mesh, P(AXIS))), donate_argnums=donate)


def _pmap(step: Step, mesh: Mesh, shardings: Any, donate: tuple[int, ...], check_vma: bool) -> Compiled:
    devices = list(mesh.devices.flat)
    body = step.on(Sync(AXIS))
    mapped: Compiled = jax.pmap(body, AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=donate)
    return mapped


_BACKENDS: dict[str, Callable[..., Compiled]] = {"jit": _jit, "pmap": _pmap, "shard_map": _shard_map}


def _sharding(leaf: Any, mesh: Mesh, keep: bool) -> NamedSharding:
    """The sharding of a leaf of the state: on every device, or (if `keep`) as it was.

    Always on the mesh, because the type of a returned array contains the mesh: a single-device sharding would make the
    second call trace and compile again.
    """
    replicated = NamedSharding(mesh, P())
    sharding = getattr(leaf, "sharding", None)
    if keep and isinstance(sharding, NamedSharding) and sharding.device_set == replicated.device_set:
        return sharding
    return replicated


def _place(leaf: Any, mesh: Mesh, keep: bool) -> jax.Array:
    sharding = _sharding(leaf, mesh, keep)
    return leaf if getattr(leaf, "sharding", None) == sharding else place(leaf, sharding)


def _shape(leaf: Any, mesh: Mesh, keep: bool) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=_sharding(leaf, mesh, keep))


def _split(batch: Batch, mesh: Mesh) -> Any:
    """Spreads a batch over the devices. Arrays not yet placed are left to the compiled call, which is faster.

    An array on a mesh has another type than an unplaced one and would need another compiled program.
    """
    sharding = batch_sharding(mesh)

    def split(x: Any) -> Any:
        if jax.process_count() > 1:
            return jax.make_array_from_process_local_data(sharding, np.asarray(x))
        return jax.device_put(x, sharding) if isinstance(x, jax.Array) and x.committed else x

    return jax.tree.map(split, batch)


def _stack(batch: Batch, mesh: Mesh) -> Any:
    count = len(mesh.local_devices)

    def stack(x: Any) -> Any:
        shape = count, np.shape(x)[0] // count, *np.shape(x)[1:]
        return jax.ShapeDtypeStruct(shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else np.reshape(x, shape)

    return jax.tree.map(stack, batch)
