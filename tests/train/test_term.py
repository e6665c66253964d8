"""The mask given once: a term weighs the values of its loss by what the loss counts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossfns
from lossfns.testing.case import result_shape, row_mask, some_rows
from lossfns.testing.weighing import _shares
from tests.cases import CASES
from train import Term, UsageError, build_train_step, create_state, data_parallel, maml, penalty, reptile, term

LOG4 = math.log(4)  # what a guess among four classes costs
FLAT = jnp.zeros((2, 4, 4))
TOKENS = jnp.array([[0, 1, 2, 3], [3, 2, 1, 0]])
SGD = optax.sgd(1.0)


def mean(made):
    total, weight = made.sums()
    return float(total / weight)


def test_a_mask_that_is_given_once_is_the_weight_as_well():
    logits, labels, where = jnp.zeros((4, 4)), jnp.arange(4), jnp.array([True, False, False, False])
    forgotten = Term(lossfns.softmax_cross_entropy(logits, labels, where=where))
    assert mean(forgotten) == pytest.approx(LOG4 / 4)  # 0.347
    assert mean(term(lossfns.softmax_cross_entropy, logits, labels, where=where)) == pytest.approx(LOG4)  # 1.386


def test_the_first_of_two_tokens_does_not_count():
    logits, tokens, where = jnp.zeros((1, 2, 4)), jnp.array([[1, 2]]), jnp.ones((1, 2), bool)
    assert mean(Term(lossfns.next_token(logits, tokens, where=where), where)) == pytest.approx(LOG4 / 2)  # 0.693
    assert mean(term(lossfns.next_token, logits, tokens, where=where)) == pytest.approx(LOG4)
    assert mean(term(lossfns.next_token, logits, tokens)) == pytest.approx(LOG4)


SHIFTED = {
    "next_token": (lossfns.next_token, (FLAT, TOKENS), {}),
    "next_token of segments": (lossfns.next_token, (FLAT, TOKENS), {"segment_ids": jnp.array([[0, 0, 1, 1]] * 2)}),
    "prefix_lm": (lossfns.prefix_lm, (FLAT, TOKENS, jnp.array([2, 0])), {}),
    "multi_token_prediction": (lossfns.multi_token_prediction, (jnp.zeros((2, 2, 4, 4)), TOKENS), {}),
    "arc_cross_entropy": (lossfns.arc_cross_entropy, (jnp.zeros((2, 3, 4)), TOKENS[:, :3], jnp.array([3, 3])), {}),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_the_mean_of_a_flat_guess_is_its_logarithm(name):
    loss, args, options = SHIFTED[name]
    shape = loss(*args, **options).shape
    for where in (None, np.ones(shape, bool), np.arange(math.prod(shape)).reshape(shape) % 3 > 0):
        made = term(loss, *args, where=where, **options)
        assert made.weights.shape == shape
        assert mean(made) == pytest.approx(LOG4)


def test_absent_words_do_not_count():
    where = jnp.ones((1, 3), bool)
    made = term(lossfns.arc_cross_entropy, jnp.zeros((1, 3, 4)), jnp.zeros((1, 3), int), np.array([1]), where=where)
    assert made.weights.tolist() == [[True, False, False]]
    assert mean(made) == pytest.approx(math.log(2))  # one word: the root or itself


def test_a_length_that_does_not_exist_is_not_hidden_by_the_weights():
    assert math.isnan(mean(term(lossfns.prefix_lm, FLAT, TOKENS, jnp.array([9, 0]))))
    bad = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int), jnp.array([5, 3])
    assert math.isnan(mean(term(lossfns.arc_cross_entropy, *bad)))
    where = jnp.array([[False] * 3, [True] * 3])
    assert mean(term(lossfns.arc_cross_entropy, *bad, where=where)) == pytest.approx(LOG4)


# An answer of one token and one of three, with rewards 1 and 0: advantages 1/2 and -1/2 without a deviation.
ANSWERS = jnp.log(jnp.full((2, 3), 0.5)), jnp.log(jnp.full((2, 3), 0.5)), jnp.array([1.0, 0.0])
SPOKEN = jnp.array([[True, False, False], [True, True, True]])


@pytest.mark.parametrize(
    ("loss", "options", "expected"),
    [
        (lossfns.grpo, {}, (-0.5 + 0.5) / 2),
        (lossfns.grpo, {"normalizer": "group_tokens"}, (-0.5 + 3 * 0.5) / 4),
        (lossfns.grpo, {"normalizer": "global_tokens"}, (-0.5 + 3 * 0.5) / 4),
        (lossfns.grpo, {"normalizer": "constant", "length": 6.0}, (-0.5 + 3 * 0.5) / 6 / 2),
        (lossfns.dr_grpo, {"length": 6.0}, (-0.5 + 3 * 0.5) / 6 / 2),
        (lossfns.dapo, {"ddof": 0, "epsilon": 0.0}, 2 * (-0.5 + 3 * 0.5) / 4),
        (lossfns.gspo, {"ddof": 0, "epsilon": 0.0}, 2 * (-0.5 + 0.5) / 2),
        (lossfns.cispo, {"ddof": 0, "epsilon": 0.0}, 2 * (-0.5 + 3 * 0.5) * math.log(0.5) / 4),
    ],
)
def test_answers_weigh_by_their_tokens_as_in_the_papers(loss, options, expected):
    options = {"advantages": "centred"} | options if loss is lossfns.grpo else options
    made = term(loss, *ANSWERS, where=SPOKEN, **options)
    assert mean(made) == pytest.approx(expected, abs=1e-6)


# Losses in other guises


class Packed:
    """A loss that belongs to an object."""

    def __init__(self, segment_ids):
        self.segment_ids = segment_ids

    def loss(self, logits, tokens, *, where=None):
        return lossfns.next_token(logits, tokens, where=where, segment_ids=self.segment_ids)

    loss.term_weights = lambda self, logits, tokens, *, where=None: lossfns.next_token_where(
        tokens, where=where, segment_ids=self.segment_ids
    )


SEGMENTS = jnp.array([[0, 0, 1, 1], [0, 0, 0, 0]])
GUISES = {
    "partial": functools.partial(lossfns.next_token, segment_ids=SEGMENTS),
    "partial of a partial": functools.partial(functools.partial(lossfns.next_token), segment_ids=SEGMENTS),
    "pytree partial": jax.tree_util.Partial(lossfns.next_token, segment_ids=SEGMENTS),
    "bound": Packed(SEGMENTS).loss,
    "jitted": jax.jit(functools.partial(lossfns.next_token, segment_ids=SEGMENTS)),
    "jitted bound": jax.jit(Packed(SEGMENTS).loss),
    "rematerialised": jax.checkpoint(functools.partial(lossfns.next_token, segment_ids=SEGMENTS)),
    "compiled": functools.partial(lossfns.next_token.compiled, segment_ids=SEGMENTS),
}


@pytest.mark.parametrize("name", GUISES)
def test_a_loss_is_known_in_every_guise(name):
    where = jnp.ones((2, 4), bool).at[1, 3].set(False)
    made = term(GUISES[name], FLAT, TOKENS, where=where)
    assert made.weights.astype(int).tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]
    assert mean(made) == pytest.approx(LOG4)


def test_a_mask_in_a_partial_counts_as_well():
    where = jnp.array([True, False])
    masked = functools.partial(lossfns.masked_lm, where=where)
    for loss in (masked, jax.jit(masked)):
        assert mean(term(loss, jnp.zeros((2, 4)), jnp.zeros(2, int))) == pytest.approx(LOG4)
    assert mean(term(masked, jnp.zeros((2, 4)), jnp.zeros(2, int), where=~where)) == pytest.approx(LOG4)


def test_mapped_over_documents_a_loss_counts_the_same():
    made = term(jax.vmap(lossfns.next_token), FLAT, TOKENS)
    assert mean(made) == pytest.approx(LOG4)


# Weights


def test_weights_multiply_what_counts():
    where = jnp.array([[True, True, False, True], [True, False, True, True]])
    weights = jnp.array([[1.0, 3.0, jnp.nan, 2.0], [1.0, jnp.nan, 0.0, 0.5]])  # of NaN where nothing counts
    made = term(lossfns.next_token, FLAT, TOKENS, where=where, weights=weights)
    assert made.weights.tolist() == [[0, 3, 0, 2], [0, 0, 0, 0.5]]
    by_row = term(lossfns.next_token, FLAT, TOKENS, where=where, weights=jnp.array([[2.0], [1.0]]))
    assert by_row.weights.tolist() == [[0, 2, 0, 2], [0, 0, 1, 1]]
    assert term(lossfns.next_token, FLAT, TOKENS, weights=3).weights.tolist() == [[0, 3, 3, 3]] * 2


def optax_loss(predictions, targets):
    return optax.l2_loss(predictions, targets)


def test_a_loss_without_a_mask_counts_everywhere():
    made = term(optax_loss, jnp.array([2.0, 4.0]), jnp.zeros(2))
    assert made.weights.tolist() == [True, True]
    assert mean(made) == (2 + 8) / 2


TWO = jnp.zeros((2, 4)), jnp.zeros(2, int)
MASK = jnp.ones(2, bool)
LEVELS = {"words": TWO[0]}, {"words": TWO[1]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: term(lossfns.hierarchical_cross_entropy, *LEVELS, where={"words": MASK}),
            r"returns a mapping of 'words': .*Term\(values\[name\], where\[name\]\) for name",
        ),
        (
            lambda: term(lossfns.early_learning, *TWO, jnp.zeros((2, 4)), where=MASK),
            r"returns 2 parts \(values, targets\): .*Term\(out.values, weights\)",
        ),
        (
            lambda: term(lossfns.linear_cross_entropy, TWO[0], jnp.zeros((3, 4)), TWO[1], return_lse=True),
            r"returns 2 parts \(0, 1\): .*Term\(out\[0\], weights\)",
        ),
        (
            lambda: term(lossfns.sequence_log_probs, FLAT, TOKENS, where=TOKENS > 0),
            r"returns values of shape \(2,\), but what counts has the shape \(2, 4\): .*weights of the shape \(2,\)",
        ),
        (lambda: term(lambda x, where: jnp.mean(x), jnp.ones(2), where=MASK), r"shape \(\), but what counts .*\(2,\)"),
        (lambda: term(optax_loss, jnp.ones(2), jnp.ones(2), where=MASK), "optax_loss takes no where"),
        (lambda: term(lossfns.masked_lm, *TWO, where=jnp.ones(2)), "boolean, not float32: .*weights="),
        (lambda: term(lossfns.masked_lm, *TWO, where="all"), "where must be an array of booleans.*not str"),
        (
            lambda: term(lossfns.masked_lm, *TWO, weights=jnp.ones((2, 1))),
            r"\(2, 1\) do not fit values of shape \(2,\)",
        ),
        (lambda: term(lossfns.next_token, FLAT, TOKENS, weights=jnp.ones(4)), r"give the weights the rank"),
        (lambda: term(lossfns.masked_lm, *TWO, weights="heavy"), "weights must be an array .* not str"),
        (lambda: term(lambda: None), "what <lambda> returns must be an array .* not NoneType"),
        (lambda: term(lambda: "nought"), "not str"),
        (lambda: term(lambda: jnp.ones(2) * 1j), "not complex64"),
        (lambda: penalty(jnp.ones(1)), r"one number, got the shape \(1,\)"),
        (lambda: penalty(None), "not NoneType"),
    ],
)
def test_what_has_no_such_mean_is_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()


# Steps


def take_step(made, batch, **options):
    step = build_train_step(lambda p, b, ctx: {"loss_": made(p, b)}, SGD, loss_weights={"loss_": 1.0}, **options)
    return step(create_state({"w": jnp.float32(0.5)}, SGD, key=0), batch)


BATCH = {"x": np.float32([[1.0], [2.0], [3.0], [4.0]]), "row": np.array([True, False, False, False])}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda p, b: Term(p["w"] * b["x"]), r"'loss_' is trained on, but its values of shape \(4, 1\) .*weights=1"),
        (lambda p, b: Term(p["w"] * b["x"][:1, 0]), r"values of shape \(1,\)"),  # one value here, more elsewhere
        (
            lambda p, b: Term(jnp.mean(p["w"] * b["x"])),
            r"'loss_' .*a single number .*mean taken too early.*penalty\(x\)",
        ),
        (lambda p, b: term(lambda x: jnp.mean(x), p["w"] * b["x"]), "mean taken too early"),
        (lambda p, b: term(lossfns.l2, p), r"penalty\(x\)"),
        (lambda p, b: Term(None), "'loss_': values must be an array .*not NoneType"),
        (lambda p, b: Term("text"), "'loss_': values must be an array .*not str"),
        (lambda p, b: Term(p["w"] * b["x"], "text"), "'loss_': weights must be an array .*not str"),
        (lambda p, b: Term(np.array("2024-01-01", "datetime64[D]")), "datetime64"),
        (lambda p, b: Term(jax.random.key(0)), "not key<"),
    ],
)
def test_a_step_refuses_terms_that_cannot_be_trained_on(made, message):
    with pytest.raises(UsageError, match=message):
        take_step(made, BATCH)


def test_a_step_on_one_row_refuses_as_one_on_many():
    one = {name: x[:1] for name, x in BATCH.items()}
    with pytest.raises(UsageError, match="weights=1"):
        take_step(lambda p, b: Term(p["w"] * b["x"][:, 0]), one)


@pytest.mark.parametrize(
    ("made", "slope"),
    [
        (lambda p, b: Term(p["w"] * b["x"], weights=1), (1 + 2 + 3 + 4) / 4),
        (lambda p, b: Term(jnp.mean(p["w"] * b["x"]), weights=b["x"].size), (1 + 2 + 3 + 4) / 4),
        (lambda p, b: term(lossfns.squared_error, b["x"][:, 0] * p["w"], 0 * b["x"][:, 0], where=b["row"]), 2 * 0.5),
        (lambda p, b: penalty(lossfns.l2(p)), 2 * 0.5),
        (lambda p, b: term(lossfns.l2, p, weights=1), 2 * 0.5),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_trains_on_what_says_how_much_it_counts(made, slope, accumulate):
    state, _ = take_step(made, BATCH, accumulate=accumulate)
    assert float(state.params["w"]) == pytest.approx(0.5 - slope)


def test_reported_terms_need_no_weights():
    def objective(params, batch, ctx):
        return {"loss_": penalty(params["w"]), "scalar": Term(params["w"]), "several": Term(batch["x"])}

    step = build_train_step(objective, SGD, loss_weights={"loss_": 1.0}, accumulate=2)
    _, metrics = step(create_state({"w": jnp.float32(0.5)}, SGD, key=0), BATCH)
    assert [float(x) for x in metrics["several"]] == [10.0, 4.0]


TASKS = {"support": jnp.array([[1.0], [3.0]]), "query": jnp.array([[1.0], [3.0]])}


@pytest.mark.parametrize(
    ("method", "slope"),
    [
        (lambda objective, **inner: maml(objective, inner_rate=0.0, **inner), (0.5 - 1 + 0.5 - 3) / 2),
        (lambda objective, **inner: reptile(objective, inner_rate=1.0, steps=1, **inner), (0.5 - 1 + 0.5 - 3) / 2),
    ],
)
def test_a_scalar_of_a_task_is_a_value_among_others(method, slope):
    def objective(params, rows, ctx):
        return {"half": Term(jnp.sum((params - rows) ** 2) / 2)}

    inner = method(objective, loss_weights={"half": 1.0})
    name = "reptile" if method.__code__.co_names == ("reptile",) else "half"
    step = build_train_step(inner, SGD, loss_weights={name: 1.0})
    state, _ = step(create_state(jnp.float32(0.5), SGD, key=0), TASKS)
    assert float(state.params) == pytest.approx(0.5 - slope)


def test_several_values_of_a_task_need_weights():
    method = maml(lambda p, rows, ctx: {"half": Term((p - rows) ** 2)}, inner_rate=0.1, loss_weights={"half": 1.0})
    step = build_train_step(method, SGD, loss_weights={"half": 1.0})
    with pytest.raises(UsageError, match=r"values of shape \(1,\) .*weights=1"):
        step(create_state(jnp.float32(0.5), SGD, key=0), TASKS)


ROWS = 16
TEXT = np.random.default_rng(0).integers(0, 4, (ROWS, 5)).astype(np.int32)
READ = np.random.default_rng(1).random((ROWS, 5)) < np.linspace(0.1, 1, ROWS)[:, None]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("backend", ["jit", "pmap", "shard_map"])
def test_the_mean_is_that_of_all_tokens_however_the_batch_is_split(backend, accumulate):
    def objective(params, batch, ctx):
        logits = params["table"][batch["tokens"]]
        return {"next": term(lossfns.next_token, logits, batch["tokens"], where=batch["where"])}

    table = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
    probabilities = np.exp(table) / np.exp(table).sum(-1, keepdims=True)
    slopes, losses = np.zeros((4, 4)), []
    for row, read in zip(TEXT, READ, strict=True):
        for i in range(1, 5):
            if read[i]:
                losses.append(-np.log(probabilities[row[i - 1], row[i]]))
                slopes[row[i - 1]] += probabilities[row[i - 1]] - np.eye(4)[row[i]]
    step = build_train_step(objective, SGD, loss_weights={"next": 1.0}, accumulate=accumulate)
    step = data_parallel(step, backend, jax.devices()[:4])
    state, metrics = step(create_state({"table": table}, SGD, key=0), {"tokens": TEXT, "where": READ})
    assert float(metrics["loss"][0]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(metrics["next"][1]) == len(losses)
    np.testing.assert_allclose(table - state.params["table"], slopes / len(losses), rtol=1e-4, atol=1e-6)


# Every loss


LOSSES = [name for name, case in CASES.items() if case.batched and "the mask given once" not in case.skip]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_weighs_its_values_as_the_property_of_the_matrix_does(name):
    case = CASES[name]
    inputs, kwargs = case.inputs(), case.variants[0]
    where = row_mask(some_rows(case.rows), result_shape(case, inputs, kwargs))
    seen = {}

    def weigh(*arrays):
        made = term(case.loss, *arrays, where=jnp.asarray(where), **kwargs)
        seen["values"] = made.values.shape
        return made.broadcast()[1]

    # The weights alone are computed: of the values the compiler keeps nothing.
    weights = np.asarray(jax.jit(weigh)(*inputs))
    assert weights.shape == seen["values"]
    np.testing.assert_allclose(weights / weights.sum(), _shares(case, inputs, where, kwargs), rtol=1e-6)


@pytest.mark.parametrize("loss", [None, "mse", 3])
def test_what_is_no_loss_is_refused(loss):
    with pytest.raises(UsageError, match="term calls a loss, as in"):
        term(loss, jnp.ones(3))
