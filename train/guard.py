"""Steps with NaN or infinite numbers change nothing, and after several in a row training returns to a checkpoint.

    step = data_parallel(skip_nonfinite(build_train_step(...)))
    state = fit(state, step, data, steps=1000, hooks=[checkpointer], bad_steps=BadSteps())

`skip_nonfinite` is compiled into the step and decides by the sums over all devices, so all replicas decide the same.
`BadSteps` counts skipped steps on the host, writes them to the metrics, and returns to the last checkpoint after too
many consecutive ones.

The step counter never decreases: neither for a skipped step nor at the return to a checkpoint. So step n always takes
the n-th batch and the keys of n, skipped data are not repeated, and a run ends at the requested step. The optimizer
counts effective updates only: its learning rate pauses while steps are skipped, and is restored with the state.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train.console import warn
from train.errors import RunFailed, UsageError
from train.files import is_writer
from train.hooks import Hook, last_good
from train.metrics import Metrics, means
from train.parallel import Step, Sync
from train.paths import path_of
from train.records.metrics_log import MetricsWriter
from train.trees import Batch

KEPT = ("params", "opt_state", "ema", "state")
"""The fields of a state that a skipped step does not change; the step counter increases."""


def skip_nonfinite(step: Step) -> Step:
    """Lets a train step with numbers that are not finite change only the step counter.

    A step is skipped if its loss or gradient is NaN or infinite on any device in any micro-batch, or if an entry of a
    mutable collection becomes NaN or infinite. The updated parameters are not checked here, because that would cost
    another pass over all of them; `fit` checks them before it saves a state.

    Args:
        step: A step from `build_train_step`, not yet placed on devices.

    Returns:
        The step with a further metric `"skipped"`, 1 or 0. The loss and the other metrics are reported unchanged.

    >>> import optax, train
    >>> objective = lambda params, batch, ctx: {"product": train.Term(params * batch, weights=1)}
    >>> step = skip_nonfinite(train.build_train_step(objective, optax.sgd(1.0), loss_weights={"product": 1.0}))
    >>> state = train.create_state(jnp.array(2.0), optax.sgd(1.0), key=0)
    >>> for value in (jnp.nan, 1.0):
    ...     state, metrics = step(state, jnp.array([value]))
    ...     print(state.step, state.params, metrics["loss"][0], metrics["skipped"][0])
    1 2.0 nan 1.0
    2 1.0 2.0 0.0
    """
    if not step.trains:
        raise UsageError("skip_nonfinite is for a train step: an evaluation step changes nothing anyway.")

    def body(state: Any, batch: Batch, sync: Sync) -> tuple[Any, Any]:
        new, metrics = step.body(state, batch, sync)
        if not {"loss", "grad_norm"} <= set(metrics):
            raise UsageError(
                f"skip_nonfinite looks at the metrics 'loss' and 'grad_norm' of a step, but it has {sorted(metrics)}."
            )
        good = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(metrics["grad_norm"][0])
        good = good & ~_broke(state.state, new.state)
        kept = {name: _choose(good, getattr(new, name), getattr(state, name)) for name in KEPT}
        skipped = jnp.where(good, 0.0, 1.0), jnp.ones(())
        return new.replace(**kept), metrics | {"skipped": skipped}

    return dataclasses.replace(step, body=body)


def _broke(old: Any, new: Any) -> jax.Array:
    """Whether any entry became NaN or infinite."""
    found = [
        jnp.any(~jnp.isfinite(y) & jnp.isfinite(x))
        for x, y in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        if jnp.issubdtype(jnp.result_type(y), jnp.inexact)
    ]
    return jnp.any(jnp.stack(found)) if found else jnp.zeros((), bool)


def _choose(good: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, old)


def outcome(metrics: Metrics) -> Literal["done", "skipped", "overflow"]:
    """Outcome of a step, by its metrics.

    Returns:
        `"skipped"` for bad numbers, `"overflow"` for a step skipped because the loss scale of float16 was too large
        (the search for that scale causes such steps), `"done"` otherwise.
    """
    if "skipped" not in metrics or float(metrics["skipped"][0]) == 0:
        return "done"
    overflow = "overflow" in metrics and float(metrics["overflow"][0]) == 1
    return "overflow" if overflow else "skipped"


class BadSteps:
    """Counts skipped steps for `fit`, writes them, and returns to a checkpoint.

    Each skipped step gets a line in the metrics with the split "skipped", each return to a checkpoint one with the
    split "rollback". Give it to the `Checkpointer` in `extras`: a resumed run then restores the counts.

    Args:
        max_consecutive_bad: Number of consecutive bad steps after which training returns to the last checkpoint. The
            batches drawn since then are not repeated.
        max_rollbacks: Maximum number of such returns before the run fails.
        writer: Writes the lines.

    Attributes:
        consecutive: Consecutive bad steps so far.
        total: Bad steps of the run so far.
        rollbacks: Returns to a checkpoint so far.
    """

    def __init__(
        self, *, max_consecutive_bad: int = 10, max_rollbacks: int = 3, writer: MetricsWriter | None = None
    ) -> None:
        limits = max_consecutive_bad, max_rollbacks
        whole = all(isinstance(limit, int) and not isinstance(limit, bool) for limit in limits)
        if not whole or max_consecutive_bad < 1 or max_rollbacks < 0:
            raise UsageError(
                "expected max_consecutive_bad of at least 1 and max_rollbacks of at least 0, as whole numbers, "
                f"got {max_consecutive_bad!r} and {max_rollbacks!r}"
            )
        self.max_consecutive_bad, self.max_rollbacks = limits
        self.consecutive = self.total = self.rollbacks = 0
        self._writer = writer

    def count(self, step: int, metrics: Metrics) -> bool:
        """Counts one step.

        Returns:
            Whether there were too many in a row, so that `roll_back` must follow.
        """
        became = outcome(metrics)
        if became == "done":
            self.consecutive = 0
        if became != "skipped":
            return False
        self.consecutive += 1
        self.total += 1
        values = means(metrics)
        if self._writer is not None:
            self._writer.write(step, "skipped", values)
        if self.consecutive == 1:
            bad = ", ".join(f"{name} = {value:g}" for name, value in values.items() if not math.isfinite(value))
            limit = f"after {self.max_consecutive_bad} in a row training returns to the last checkpoint"
            _warn(f"step {step} is skipped, because {bad or 'a mutable collection is not finite'}; {limit}")
        return self.consecutive >= self.max_consecutive_bad

    def roll_back(self, step: int, state: Any, hooks: Sequence[Hook], broken: Sequence[str] = ()) -> Any:
        """The state of the last good checkpoint with the current step counter.

        Args:
            step: The current step.
            state: The current state, which determines the layout of the result.
            hooks: Hooks of the training; the first that can read a checkpoint is used.
            broken: The parts of the state that are not finite (see `find_nonfinite`), if they are the reason instead of
                bad steps.

        Raises:
            RunFailed: There is no checkpoint, it is not finite either, or there were too many returns.
        """
        count = "1 step" if self.consecutive == 1 else f"{self.consecutive} steps in a row"
        row = f"{count}, up to step {step}, had a loss or gradient that is not finite"
        advice = "lower the learning rate, clip the gradients, or look at the batches; checks=True names the bad term"
        if broken:
            row = f"{not_finite(broken, step)}, though its loss and gradient were"
            advice = f"lower the learning rate, clip the gradients, or look at what changes {broken[0]}"
        if self.rollbacks >= self.max_rollbacks:
            times = f"{self.rollbacks} return(s) to a checkpoint did not help"
            times = times if self.rollbacks else "no return to a checkpoint is allowed"
            raise RunFailed(f"{row}; {times}; {last_good(hooks)}; {advice}")
        readers = (hook for hook in hooks if hasattr(hook, "read_latest"))
        old = next((found for hook in readers if (found := hook.read_latest(state)) is not None), None)
        if old is None:
            raise RunFailed(f"{row}, and there is no checkpoint to go back to; {advice}")
        saved = int(jax.device_get(old.step))
        if bad := find_nonfinite(old):
            raise RunFailed(
                f"{row}, and the checkpoint of step {saved} does not help: {not_finite(bad, saved)}; {advice}"
            )
        self.rollbacks += 1
        self.consecutive = 0
        if self._writer is not None:
            self._writer.write(step, "rollback", {"to_step": saved, "rollbacks": self.rollbacks})
        _warn(f"{row}; continuing with the state of step {saved} and fresh data")
        return old.replace(step=jax.device_put(np.asarray(step, old.step.dtype), old.step.sharding))

    def get_state(self) -> dict[str, int]:
        """The state that a resumed run restores."""
        return {"consecutive": self.consecutive, "total": self.total, "rollbacks": self.rollbacks}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Restores a state from `get_state`."""
        self.consecutive, self.total, self.rollbacks = state["consecutive"], state["total"], state["rollbacks"]


def _warn(text: str) -> None:
    if is_writer():
        warn(text)


def find_nonfinite(state: Any) -> list[str]:
    """The paths of leaves that are not finite and must be for a state to be saved.

    These are parameters and averaged parameters with a NaN or infinite entry, and leaves with a NaN in the optimizer's
    state and in mutable collections, where infinity may mean "none yet".

    >>> import optax, train
    >>> find_nonfinite(train.create_state({"w": jnp.ones(2), "b": jnp.array([0.0, jnp.nan])}, optax.sgd(1.0), key=0))
    ['params/b']
    """
    parts = {name: getattr(state, name, None) for name in KEPT}
    found = jax.tree_util.tree_flatten_with_path(parts)[0]
    paths = [path_of(keys) for keys, leaf in found if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    leaves = [leaf for _, leaf in found if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    strict = tuple(path.partition("/")[0] in ("params", "ema") for path in paths)
    bad = jax.device_get(_bad(leaves, strict))
    broken = [path for path, is_bad in zip(paths, bad, strict=True) if is_bad]
    return sorted(broken, key=lambda path: KEPT.index(path.partition("/")[0]))  # parameters first, averages follow


def not_finite(paths: Sequence[str], step: int) -> str:
    """The result of `find_nonfinite` in words.

    >>> not_finite(["params/w", "params/b"], 7)
    'params/w and 1 more not finite after step 7'
    """
    return f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''} not finite after step {step}"


@functools.partial(jax.jit, static_argnums=1)
def _bad(leaves: list[Any], strict: tuple[bool, ...]) -> list[Any]:
    return [
        jnp.any(~jnp.isfinite(leaf) if finite else jnp.isnan(leaf)) for leaf, finite in zip(leaves, strict, strict=True)
    ]
