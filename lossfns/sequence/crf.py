"""Linear-chain conditional random field: loss, best path and marginals."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_shape,
    check_where,
    keep_rows,
    loss,
    nan_where_invalid,
    zero_masked,
)
from lossfns._numerics import row_shift, vary_like
from lossfns._padding import check_present, positions
from lossfns.sequence._chain import log_partition, posterior


@loss()
def linear_chain_crf(
    emissions: jax.Array,
    transitions: jax.Array,
    tags: jax.Array,
    steps_where: jax.Array | None = None,
    *,
    start: jax.Array | None = None,
    end: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Linear-chain conditional random field: negative log-likelihood of a sequence of tags.

    $$\log \sum_{y'} e^{s(y')} - s(y), \quad s(y) = \sum_t x_{t, y_t} + \sum_{t > 1} A_{y_{t-1}, y_t}$$

    Args:
        emissions: $x$, [..., T, K], scores of the K tags at each step, in nats; -inf forbids a tag.
        transitions: $A$, [K, K], scores from the row's tag to the column's, unnormalised; -inf forbids. [..., K, K] for
            one per sequence.
        tags: $y$, [..., T], integers in 0 .. K-1.
        steps_where: The present steps: boolean [..., T], or integer lengths [...]; None for all. An absent step
            is skipped, wherever it is.
        start: [K], scores of the first tag; None for none.
        end: [K], scores of the last tag; None for none.
        where: [...], boolean; False excludes the sequence.

    Returns:
        [...], nats per sequence, at least 0; 0 without present steps and inf for a forbidden path. A present tag or a
        length out of range gives NaN.

    Example:
        Two tags and two steps, all scores 0: four equal paths. If tag 0 may not follow itself, three are left.

        >>> print(linear_chain_crf(jnp.zeros((2, 2)), jnp.zeros((2, 2)), jnp.array([0, 1])).round(4))
        1.3863
        >>> print(linear_chain_crf(jnp.zeros((2, 2)), jnp.array([[-jnp.inf, 0], [0, 0]]), jnp.array([0, 1])).round(4))
        1.0986

    Conventions:
        - torchcrf and AllenNLP return the log-likelihood, minus this; torchcrf always has start and end scores. In
          both, `transitions[i, j]` goes from i to j; some code has the transpose.
        - A step costs one [batch, K] x [K, K] product. Inputs that would underflow are detected and computed by
          log-sum-exp, at ten times the time (under `vmap` both forms run: use leading batch axes instead).

    References:
        Lafferty et al. 2001, ICML (Conditional random fields).
    """
    chain = _check(emissions, transitions, steps_where, start, end, where)
    check_array("tags", tags, "integer")
    check_shape("tags", tags, emissions.shape[:-1], f"of emissions {emissions.shape} without the tag axis")
    tags = keep_rows(chain.present, keep_rows(where, tags.astype(jnp.promote_types(tags.dtype, jnp.int32))))
    states = emissions.shape[-1]
    valid = chain.valid & jnp.all((tags >= 0) & (tags < states), axis=-1)
    score = _path_score(chain, jnp.clip(tags, 0, states - 1))
    log_z = log_partition(*_time_first(chain))
    values = jnp.where(score == -jnp.inf, jnp.inf, log_z - score)
    # Rounding may make a value negative; its gradient is right and kept.
    values += jax.lax.stop_gradient(jnp.maximum(-values, 0))
    return zero_masked(where, nan_where_invalid(valid, values))


class ViterbiPath(NamedTuple):
    """Result of `crf_viterbi`.

    Attributes:
        tags: [..., T], integers, the best path; -1 at absent steps.
        score: [...], its score; differentiable.
    """

    tags: jax.Array
    score: jax.Array


@loss()
def crf_viterbi(
    emissions: jax.Array,
    transitions: jax.Array,
    steps_where: jax.Array | None = None,
    *,
    start: jax.Array | None = None,
    end: jax.Array | None = None,
) -> ViterbiPath:
    r"""The best path of a linear-chain conditional random field, $\arg\max_y s(y)$, and its score.

    Args:
        emissions: [..., T, K], as in `linear_chain_crf`.
        transitions: [K, K] or [..., K, K].
        steps_where: Boolean [..., T], or integer lengths [...]; None for all.
        start: [K] or None.
        end: [K] or None.

    Returns:
        The tags [..., T], -1 at absent steps, and the score [...], -inf if every path is forbidden and NaN for a length
        out of range. Of tied paths, the one with lower tags from the end on.

    Example:
        Tag 1 scores higher at each step but may not follow itself.

        >>> path = crf_viterbi(jnp.array([[0.0, 2.0], [0.0, 3.0]]), jnp.array([[0, 0], [0, -jnp.inf]]))
        >>> print(path.tags, path.score)
        [0 1] 3.0

    References:
        Viterbi 1967, doi:10.1109/TIT.1967.1054010.
    """
    chain = _check(emissions, transitions, steps_where, start, end)
    states = emissions.shape[-1]
    across = jnp.broadcast_to(jnp.swapaxes(chain.transitions, -1, -2), (*emissions.shape[:-2], states, states))
    scores = jax.lax.stop_gradient(chain.scores)
    same = positions(states, scores.ndim - 1)

    def step(best, inputs):  # type: ignore[no-untyped-def]
        score, first, present = inputs
        ways = best[..., None, :] + jax.lax.stop_gradient(across)
        entered = (present & ~first)[..., None]
        # An absent step keeps each state, and so does the first.
        back = jnp.where(entered, jnp.argmax(ways, axis=-1), same)
        moved = jnp.where(entered, jnp.max(ways, axis=-1), 0) + score
        return jnp.where(present[..., None], moved, best), back

    by_time = jnp.moveaxis(scores, -2, 0), jnp.moveaxis(chain.first, -1, 0), jnp.moveaxis(chain.present, -1, 0)
    start_scores = vary_like(jnp.zeros(scores.shape[:-2] + scores.shape[-1:], scores.dtype), *by_time, across)
    last, back = jax.lax.scan(step, start_scores, by_time)

    def follow(tag, pointers):  # type: ignore[no-untyped-def]
        return jnp.take_along_axis(pointers, tag[..., None], axis=-1)[..., 0], tag

    _, tags = jax.lax.scan(follow, jnp.argmax(last, axis=-1), back, reverse=True)
    tags = jnp.moveaxis(tags, 0, -1)
    score = _path_score(chain, tags) + chain.shift
    return ViterbiPath(jnp.where(chain.present, tags, -1), nan_where_invalid(chain.valid, score))


@loss()
def crf_marginals(
    emissions: jax.Array,
    transitions: jax.Array,
    steps_where: jax.Array | None = None,
    *,
    start: jax.Array | None = None,
    end: jax.Array | None = None,
) -> jax.Array:
    r"""Probability of each tag at each step under a linear-chain conditional random field (forward-backward).

    Args:
        emissions: [..., T, K], as in `linear_chain_crf`.
        transitions: [K, K] or [..., K, K].
        steps_where: Boolean [..., T], or integer lengths [...]; None for all.
        start: [K] or None.
        end: [K] or None.

    Returns:
        [..., T, K], summing to one over tags at present steps; 0 at absent steps and if every path is forbidden. A
        length out of range gives NaN. Differentiable.

    Example:
        Tag 0 may not follow itself: of the three remaining paths, two begin with tag 1.

        >>> print(crf_marginals(jnp.zeros((2, 2)), jnp.array([[-jnp.inf, 0], [0, 0]]))[0].round(4))
        [0.3333 0.6667]

    References:
        Rabiner 1989, doi:10.1109/5.18626.
    """
    chain = _check(emissions, transitions, steps_where, start, end)
    out = posterior(*_time_first(chain))
    return nan_where_invalid(chain.valid[..., None, None], jnp.moveaxis(out.states, 0, -2))


class _Chain(NamedTuple):
    """Scores [..., T, K] with start and end added and `shift` subtracted; transitions; first and present steps."""

    scores: jax.Array
    transitions: jax.Array
    first: jax.Array
    present: jax.Array
    valid: jax.Array
    shift: jax.Array


def _check(
    emissions: jax.Array,
    transitions: jax.Array,
    steps_where: jax.Array | None,
    start: jax.Array | None,
    end: jax.Array | None,
    where: jax.Array | None = None,
) -> _Chain:
    check_array("emissions", emissions)
    if emissions.ndim < 2 or emissions.shape[-1] == 0:
        raise ValueError(f"emissions must be [..., steps, tags] with at least one tag, got shape {emissions.shape}")
    *batch, _, states = emissions.shape
    check_array("transitions", transitions)
    if transitions.shape not in ((states, states), (*batch, states, states)):
        raise ValueError(
            f"transitions must have the shape {(states, states)} or {(*batch, states, states)} of emissions "
            f"{emissions.shape}, got {transitions.shape}"
        )
    where = check_where(where, tuple(batch))
    present, valid = check_present("steps_where", steps_where, emissions.shape[:-1], where)
    ends = [x for x in (start, end) if x is not None]
    dtype = accumulation_dtype(emissions, transitions, *ends)
    x = keep_rows(present, keep_rows(where, emissions)).astype(dtype)
    if transitions.ndim > 2:
        transitions = keep_rows(where, transitions)
    transitions = transitions.astype(dtype)
    # Constants subtracted from each step's scores and from all transitions cancel exactly in the loss.
    _, top = row_shift(x)
    _, highest = row_shift(transitions.reshape(*transitions.shape[:-2], states * states))
    steps = jnp.sum(present, axis=-1)
    first = present & (jnp.cumsum(present, axis=-1) == 1)
    last = present & (jnp.cumsum(present, axis=-1) == steps[..., None])
    scores = x - top
    for name, extra, place in (("start", start, first), ("end", end, last)):
        if extra is not None:
            check_shape(name, check_array(name, extra), (states,), f"of the tags of emissions {emissions.shape}")
            extra = extra.astype(dtype).reshape((1,) * (scores.ndim - 1) + (states,))
            scores += jnp.where(place[..., None], extra, 0)
    entered = jnp.maximum(steps - 1, 0).astype(dtype)
    shift = (
        jnp.sum(jnp.where(present, top[..., 0], 0), axis=-1) + jnp.broadcast_to(highest[..., 0], steps.shape) * entered
    )
    return _Chain(scores, transitions - highest[..., None], first, present, valid, shift)


def _time_first(chain: _Chain) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    scores = jnp.moveaxis(chain.scores, -2, 0)
    return scores, chain.transitions, jnp.moveaxis(chain.first, -1, 0), jnp.moveaxis(chain.present, -1, 0)


def _path_score(chain: _Chain, tags: jax.Array) -> jax.Array:
    """Score of a path [..., T] over the present steps, minus the shift."""
    at = jnp.take_along_axis(chain.scores, tags[..., None], axis=-1)[..., 0]
    # The previous step is the last present one, not necessarily the neighbour.
    place = jnp.where(chain.present, positions(tags.shape[-1], tags.ndim), -1)
    before = jnp.roll(jax.lax.cummax(place, axis=place.ndim - 1), 1, axis=-1)
    tag_before = jnp.take_along_axis(tags, jnp.maximum(before, 0), axis=-1)
    states = chain.scores.shape[-1]
    flat = chain.transitions.reshape(*chain.transitions.shape[:-2], states * states)
    pair = tag_before * states + tags
    step = jnp.take(flat, pair) if flat.ndim == 1 else jnp.take_along_axis(flat, pair, axis=-1)
    entered = chain.present & ~chain.first
    return jnp.sum(jnp.where(chain.present, at, 0), axis=-1) + jnp.sum(jnp.where(entered, step, 0), axis=-1)
