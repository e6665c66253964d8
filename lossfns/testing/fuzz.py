"""Random examples: any mask, extreme magnitudes and entries, ties, permuted rows."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossfns.testing.case import (
    Inputs,
    LossCase,
    Skip,
    all_rows,
    assert_close,
    count_rows,
    described,
    evaluate,
    expected_values,
    is_floating,
    largest,
    result_shape,
    row_mask,
    take,
)
from lossfns.testing.invariances import poison

ENTRIES = (0.0, 1.0, -1.0, 1e2, -1e2, 1e4, -1e4, 1e8, -1e8, 1e-8, 1e-30, 1e30, -1e30)
"""What single entries may become; 1e30 and the like only as far as `LossCase.magnitudes` goes."""
SCALES = (1.0, 1e-4, 1e4, 1e-12, 1e12, 1e-30, 1e30)
EXAMPLES = 25
_SANE = 1e4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one example differs from an ordinary batch. Failures shrink to the defaults, the simplest."""

    masked: tuple[int, ...] = ()
    entries: tuple[tuple[int, float], ...] = ()
    """Positions in the free inputs, counted over all of them modulo their size, and the new entries."""
    tied: tuple[tuple[int, int], ...] = ()
    """Pairs of positions: the first gets the value of the second."""
    scale: float = 1.0
    coarse: bool = False
    """Whether the free inputs are rounded to bfloat16."""
    order: int = 0
    """Seed of the permutation of rows; 0 for none."""
    under_the_mask: float = float("nan")


class Failing(AssertionError):
    """An example that fails, with the inputs."""

    def __init__(self, message: str, inputs: Inputs):
        super().__init__(message)
        self.inputs = inputs


def free_positions(case: LossCase, inputs: Inputs) -> tuple[int, ...]:
    """Positions of the arrays that may hold any number."""
    pairs = [i for pair in case.symmetric for i in pair]
    free = {0, *case.shift_invariant, *case.scale_invariant, *pairs} if case.free is None else {*case.free}
    return tuple(i for i in sorted(free) if all(map(is_floating, jax.tree.leaves(inputs[i]))))


def example(case: LossCase, recipe: Recipe) -> tuple[Inputs, np.ndarray]:
    """Inputs and the mask of kept rows."""
    inputs, (low, high) = case.inputs(), case.magnitudes
    free = free_positions(case, inputs)
    leaves, structure = jax.tree.flatten([inputs[i] for i in free])
    flat = np.concatenate([np.ravel(x) for x in leaves] or [np.zeros(0, np.float32)])
    flat = flat * np.float32(np.clip(recipe.scale, low, high))
    for place, value in recipe.entries if flat.size else ():
        flat[place % flat.size] = np.clip(abs(value), low, high) * np.sign(value)
    for to, of in recipe.tied if flat.size else ():
        flat[to % flat.size] = flat[of % flat.size]
    if recipe.coarse:
        flat = flat.astype(jnp.bfloat16).astype(np.float32)
    ends = np.cumsum([np.size(x) for x in leaves])
    parts = [part.reshape(np.shape(x)) for part, x in zip(np.split(flat, ends), leaves, strict=False)]
    full = list(inputs)
    for i, x in zip(free, jax.tree.unflatten(structure, parts), strict=True):
        full[i] = x
    inputs = tuple(full)
    if not case.batched:
        return inputs, np.ones(1, bool)
    rows = count_rows(inputs)
    if recipe.order:
        inputs = take(inputs, np.random.default_rng(recipe.order).permutation(rows))
    keep = np.ones(rows, bool)
    keep[[row % rows for row in recipe.masked]] = False
    return inputs, keep


def check_example(case: LossCase, recipe: Recipe) -> None:
    """Checks values against the oracle (roughly beyond 1e4), absence of NaN, masked rows and gradients."""
    kwargs = case.variants[0]
    inputs, keep = example(case, recipe)
    if all_rows(case, inputs, kwargs) is None:
        keep, given, where = np.ones_like(keep), inputs, None
    else:
        where = row_mask(keep, result_shape(case, inputs, kwargs))
        given = poison(inputs, ~keep, recipe.under_the_mask)
    try:
        values, grads = evaluate(case, given, kwargs, where=where)
        if where is not None:
            for leaf in jax.tree.leaves((values, grads)):
                assert (take(leaf, ~keep) == 0).all(), "a masked row has a value or a gradient"
            inputs, values, grads = take((inputs, values, grads), keep)
        _check_finite(case, values, grads)
        _check_values(case, inputs, values, grads)
    except AssertionError as error:
        raise Failing(f"{error}\n{recipe} {described(kwargs)}", given) from None


def _check_finite(case: LossCase, values: np.ndarray, grads: Any) -> None:
    finite = np.isfinite(values)
    if case.batched and not case.batch_coupled:
        grads = take(grads, finite.all(axis=tuple(range(1, finite.ndim))))
    elif not finite.all():
        return
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads)), (
        "a finite value has a NaN or infinite gradient"
    )


def _check_values(case: LossCase, inputs: Inputs, values: np.ndarray, grads: Any) -> None:
    kwargs = case.variants[0]
    try:
        expected = expected_values(case, inputs, kwargs)
    except (Skip, ArithmeticError, ValueError):  # no oracle, or one that does not reach that far
        return
    known = np.isfinite(expected) & (np.abs(expected) < np.finfo(np.float32).max)
    lost = known & np.isnan(values)
    assert not lost.any(), f"NaN where {expected[lost][:3]} is right"
    # Rounding an input changes the value by the gradient times it, which no implementation can avoid.
    moving = tuple(inputs[i] for i in case.moving(inputs))
    products = jax.tree.map(lambda g, x: np.abs(np.float64(g) * x).sum(), grads, moving)
    moved = 2 * float(sum(jax.tree.leaves(products)))
    ulps = 4 * case.tolerance(kwargs)
    if largest(inputs) > _SANE:  # a percent of the largest number, and squares may be infinite
        moved += largest(inputs)
        ulps, known = max(ulps, 0.01 / float(np.finfo(np.float32).eps)), known & np.isfinite(values)
    if np.isfinite(moved):
        values, expected = np.where(known, values, 0), np.where(known, expected, 0)
        assert_close(values, expected, "value", ulps=ulps, relative_to=1 + moved)


def recipes(count: int = EXAMPLES, seed: int = 0) -> Iterator[Recipe]:
    """Reproducible random recipes."""
    rng = np.random.default_rng(seed)

    def some(most: int) -> range:
        return range(rng.integers(0, most + 1))

    for _ in range(count):
        yield Recipe(
            masked=tuple(int(rng.integers(16)) for _ in some(3)),
            entries=tuple((int(rng.integers(256)), float(rng.choice(ENTRIES))) for _ in some(4)),
            tied=tuple((int(rng.integers(256)), int(rng.integers(256))) for _ in some(3)),
            scale=float(rng.choice(SCALES)) if rng.random() < 0.5 else 1.0,
            coarse=bool(rng.random() < 0.3),
            order=int(rng.integers(4)),
            under_the_mask=float(rng.choice([np.nan, np.inf, -np.inf, 1e30])),
        )


def fuzz(case: LossCase, inputs: Inputs) -> str | None:
    """Random masks, magnitudes, extreme entries and ties: right where sane, never NaN without cause, masked means 0."""
    for recipe in recipes():
        try:
            check_example(case, recipe)
        except Failing as failure:
            raise _simplest(case, recipe, failure) from None
    return f"{EXAMPLES} examples"


def _simplest(case: LossCase, recipe: Recipe, failure: Failing) -> Failing:
    """Removes everything not needed for the failure."""
    for field in dataclasses.fields(Recipe):
        kept: Any = getattr(recipe, field.name)
        fewer = [kept[:i] + kept[i + 1 :] for i in range(len(kept))] if isinstance(kept, tuple) else []
        for simpler in [field.default, *fewer]:
            changes: dict[str, Any] = {field.name: simpler}
            attempt = dataclasses.replace(recipe, **changes)
            try:
                check_example(case, attempt)
            except Failing as smaller:
                recipe, failure = attempt, smaller
                break
    return failure
