"""Cases of `lossfns.sequence.crf`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import INTS, padded, zeros
from tests.oracles.sequence import crf as oracles

STATES = 3


def chains(rng, rows):
    emissions, transitions = rng.normal(size=(rows, 4, STATES)) * 2, rng.normal(size=(rows, STATES, STATES))
    lengths = np.array([4, 3, 1, 4, 0, 2])[np.arange(rows) % 6].astype(np.int32)
    return emissions, transitions, rng.integers(0, STATES, (rows, 4)).astype(np.int32), lengths


def naive_crf(emissions, transitions, tags, lengths):
    a, zero = emissions[:, 0], jnp.zeros((), emissions.dtype)
    at = jnp.take_along_axis(emissions, tags[..., None], -1)[..., 0]
    score = jnp.where(lengths > 0, at[:, 0], zero)
    rows = jnp.arange(len(tags))
    for t in range(1, emissions.shape[1]):
        moved = jnp.log(jnp.exp(a[:, :, None] + transitions).sum(1)) + emissions[:, t]
        a = jnp.where((t < lengths)[:, None], moved, a)
        score += jnp.where(t < lengths, at[:, t] + transitions[rows, tags[:, t - 1], tags[:, t]], zero)
    return jnp.where(lengths > 0, jnp.log(jnp.exp(a).sum(-1)) - score, zero)


def hostile_chains(rng):
    inf = np.inf
    emissions, transitions, tags, lengths = chains(rng, 6)
    full = np.full(6, 4, np.int32)
    holes = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    forbidden, bars, masked = transitions.copy(), np.zeros_like(transitions), emissions.copy()
    forbidden[:, 0, 0] = forbidden[:, 1, 2] = -inf
    # State 2 is reached from state 0 alone, which is 200 nats less likely than the others until the last step.
    bars[:, 1:, 2] = -inf
    far = np.zeros_like(emissions)
    far[:, :3, 0], far[:, 3, 2] = -200, 1000
    masked[:, 1, 0], masked[0, 2], masked[3, 0, 1:] = -inf, -inf, -inf
    closed = np.full_like(transitions, -inf)
    closed[:, [0, 1], [1, 2]] = 0
    huge = np.where(rng.random(transitions.shape) < 0.5, -1e4, 1e4) + transitions
    wide = np.where(rng.random(transitions.shape) < 0.5, -300.0, 0.0) + transitions
    column = transitions.copy()
    column[:, :, 1] = -1e4
    return {
        "forbidden transitions": ((emissions, forbidden, tags, full), {}),
        "forbidden tags": ((masked, transitions, tags, full), {}),
        "no path": ((emissions, closed, tags, full), {}),
        "only a very unlikely state leads on": ((far, bars, tags * 0 + [0, 0, 0, 2], full), {}),
        "transitions of +-1e4": ((emissions, huge, tags, full), {}),
        "transitions over 300 nats": ((emissions, wide, tags, full), {}),
        "a column at -1e4": ((emissions, column, tags, full), {}),
        "emissions over 300 nats": ((100 * emissions, forbidden, tags, full), {}),
        "steps with holes": ((emissions, transitions, tags, holes), {}),
        "lengths out of range": ((emissions, transitions, tags, lengths + 1), {}),
        "tags out of range where absent": (
            (emissions, transitions, np.where(np.arange(4) < 2, tags, -1), full // 2),
            {},
        ),
        "one state": ((emissions[..., :1], transitions[:, :1, :1], 0 * tags, full), {}),
    }


def path_shares(inputs):
    """The gradients plus the path are shares of all paths: of each state, and summed over all pairs of states."""
    emissions, transitions, tags, lengths = inputs
    slopes = jax.grad(lambda x, a: lossfns.linear_chain_crf(x, a, tags, lengths).sum(), (0, 1))
    states, pairs = slopes(jnp.asarray(emissions), jnp.asarray(transitions))
    there = np.arange(4) < lengths[:, None]
    shares = states + np.eye(STATES)[tags] * there[..., None]
    expected = oracles.crf_marginals(emissions, transitions, lengths)
    return (shares, pairs.sum((1, 2))), (expected, np.zeros(len(tags)))


def more_steps(inputs):
    emissions, transitions, tags, lengths = inputs
    more = padded(emissions, 1, np.nan), transitions, padded(tags, 1, -100), lengths
    return lossfns.linear_chain_crf(*more), lossfns.linear_chain_crf(*inputs)


def shared_is_own(inputs):
    emissions, transitions, tags, lengths = inputs
    own = lossfns.linear_chain_crf(emissions, np.broadcast_to(transitions[0], transitions.shape), tags, lengths)
    return lossfns.linear_chain_crf(emissions, transitions[0], tags, lengths), own


def with_ends(inputs):
    emissions, transitions, tags, lengths = inputs
    ends = {"start": np.float32([0.5, -np.inf, 1]), "end": np.float32([-1, 2, 0])}
    doubles = [np.asarray(x, np.float64) for x in (emissions, transitions)]
    return lossfns.linear_chain_crf(*inputs, **ends), oracles.linear_chain_crf(*doubles, tags, lengths, **ends)


WRONG_CHAINS = (
    BadCall((zeros(3), zeros(3, 3), zeros(**INTS)), ("emissions", "[..., steps, tags]", "(3,)")),
    BadCall((zeros(2, 4, 3), zeros(3, 4), zeros(2, 4, **INTS)), ("transitions", "(3, 3)", "(3, 4)")),
    BadCall((zeros(2, 4, 3), zeros(1, 3, 3), zeros(2, 4, **INTS)), ("transitions", "(2, 3, 3)", "(1, 3, 3)")),
    BadCall((zeros(2, 4, 3), zeros(3, 3, **INTS), zeros(2, 4, **INTS)), ("transitions", "floating", "int32")),
    BadCall((zeros(2, 4, 3), zeros(3, 3), zeros(2, 3, **INTS)), ("tags", "(2, 4)", "(2, 3)")),
    BadCall((zeros(2, 4, 3), zeros(3, 3), zeros(2, 4, **INTS), zeros(2, 4)), ("steps_where", "integer", "float32")),
    BadCall((zeros(2, 4, 3), zeros(3, 3), zeros(2, 4, **INTS)), ("start", "(3,)", "(4,)"), {"start": zeros(4)}),
    BadCall((zeros(2, 4, 0), zeros(0, 0), zeros(2, 4, **INTS)), ("at least one tag", "(2, 4, 0)")),
)
LINEAR_CHAIN_CRF = LossCase(
    lossfns.linear_chain_crf,
    chains,
    oracles.linear_chain_crf,
    naive_crf,
    labels=2,
    hostile=hostile_chains,
    shift_invariant=(0,),
    non_negative=True,
    enumerated=True,
    limits={
        "crf_marginals": path_shares,
        "padding is deleted": more_steps,
        "shared transitions": shared_is_own,
        "start and end scores": with_ends,
    },
    bad_calls=WRONG_CHAINS,
)


def best_scores(emissions, transitions, steps):
    return lossfns.crf_viterbi(emissions, transitions, steps).score


NO_WHERE = "it has no where: a sequence of no step is 0"
NOT_MASKED = dict.fromkeys(
    (
        "vmap = loop",
        "masked = deleted",
        "all masked = 0",
        "the mask given once",
        "devices = one device",
        "errors name both sides",
    ),
    NO_WHERE,
)


def decoded(rng, rows):
    emissions, transitions, _, lengths = chains(rng, rows)
    return emissions, transitions, lengths


def path_scores(inputs):
    """The score belongs to the returned tags."""
    emissions, transitions, lengths = inputs
    path = lossfns.crf_viterbi(*inputs)
    at = np.take_along_axis(emissions, np.maximum(path.tags, 0)[..., None], -1)[..., 0]
    there = np.arange(4) < lengths[:, None]
    scores = (at * there).sum(-1)
    for b, tags in enumerate(np.asarray(path.tags)):
        assert (tags[~there[b]] == -1).all()
        scores[b] += sum(transitions[b, i, j] for i, j in itertools.pairwise(tags[: lengths[b]]))
    return path.score, scores


VITERBI = LossCase(
    best_scores,
    decoded,
    oracles.viterbi_score,
    name="crf_viterbi",
    flat="a score that no best path has",
    smooth=False,
    enumerated=True,
    limits={"the path has the score": path_scores},
    skip=NOT_MASKED,
)

# The shares of a step sum to one, so equal weights of them have no gradient: here they are unlike.
UNLIKE = np.float32([1, -2, 4]).reshape(1, 1, STATES)


def shares(emissions, transitions, steps):
    return UNLIKE * lossfns.crf_marginals(emissions, transitions, steps)


def share_oracle(emissions, transitions, steps):
    return UNLIKE * oracles.crf_marginals(emissions, transitions, steps)


def sum_to_one(inputs):
    return lossfns.crf_marginals(*inputs).sum(-1), (np.arange(4) < inputs[2][:, None]).astype(float)


MARGINALS = LossCase(
    shares,
    decoded,
    share_oracle,
    name="crf_marginals",
    smooth=False,  # it is; these derivatives are the second ones of the loss, and it takes long to compile more
    enumerated=True,
    shift_invariant=(0,),
    limits={"they sum to one": sum_to_one},
    skip=NOT_MASKED,
)


CASES = {
    "crf_marginals": MARGINALS,
    "crf_viterbi": VITERBI,
    "linear_chain_crf": LINEAR_CHAIN_CRF,
}
