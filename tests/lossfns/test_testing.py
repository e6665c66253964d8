"""The suite passes an honest loss and catches broken ones: for each property a mutant that it must fail."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns._contract import loss, positive
from lossfns.testing import PROPERTIES, BadCall, LossCase, check_loss, check_property


def _valid(logits, labels, where):
    """The checks that an honest loss makes; returns the mask."""
    if logits.ndim != 2:
        raise ValueError(f"expected logits of shape (n, 4), got {logits.shape}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"expected labels of shape {logits.shape[:1]}, got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"expected int labels, got {labels.dtype}")
    where = jnp.ones(labels.shape, bool) if where is None else jnp.asarray(where)
    if where.shape != labels.shape or where.dtype != bool:
        raise ValueError(f"expected a bool mask of shape {labels.shape}, got {where.dtype} of shape {where.shape}")
    return where


def honest(logits, labels, *, temperature=1.0, where=None):
    """Cross-entropy with everything that the contract asks for."""
    mask = _valid(logits, labels, where)
    logits = jnp.where(mask[:, None], logits, 0).astype(jnp.promote_types(logits.dtype, jnp.float32))
    labels = jnp.where(mask, labels, 0)
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True, initial=-jnp.inf))
    exists = shifted != -jnp.inf
    shifted = jnp.where(exists, jnp.where(exists, shifted, 0) / temperature, -jnp.inf)
    # A gather and not a one-hot product, which would be NaN at infinite logits.
    chosen = jnp.take_along_axis(shifted, labels[:, None], -1, mode="fill", fill_value=jnp.nan)[:, 0]
    chosen = jnp.where((labels >= 0) & (labels < logits.shape[-1]), chosen, jnp.nan)
    return jnp.where(mask, jax.nn.logsumexp(shifted, -1) - chosen, 0)


def spread(values, *, where=None, axis_name=None):
    """Squared distance from the mean of the batch: the simplest batch-coupled loss."""
    where = jnp.ones(values.shape, bool) if where is None else where
    if where.shape != values.shape or where.dtype != bool:
        raise ValueError(f"expected a bool mask of shape {values.shape}, got {where.dtype} of shape {where.shape}")
    values = jnp.where(where, values, 0).astype(jnp.promote_types(values.dtype, jnp.float32))
    total, count = values.sum(), where.sum()
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return jnp.where(where, (values - total / jnp.maximum(count, 1)) ** 2, 0)


def make_inputs(rng, rows):
    return rng.normal(size=(rows, 4)), rng.integers(0, 4, rows).astype(np.int32)


def oracle(logits, labels, *, temperature=1.0):
    values = []
    for row, label in zip(logits / temperature, labels, strict=True):
        row = row - row.max()
        values.append(np.log(sum(np.exp(x) for x in row)) - row[label])
    return np.array(values)


def naive(logits, labels, *, temperature=1.0):
    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(logits / temperature, -1)), labels[:, None], -1)[:, 0]


def _hot(loss, inputs):
    return loss(*inputs, temperature=1e9)


CROSS_ENTROPY = LossCase(
    honest,
    make_inputs,
    oracle,
    naive,
    variants=({}, {"temperature": 0.5}),
    sweep={"temperature": (0.5, 0.7, 0.9)},
    labels=1,
    condition=lambda kwargs: 1 / kwargs.get("temperature", 1.0),
    hostile=lambda rng: {
        "logits + 1e4": ((make_inputs(rng, 3)[0] + 1e4, np.array([0, 1, 2])), {}),
        "-inf logits": ((np.array([[0.0, -np.inf, 1.0]]), np.array([2])), {}),
    },
    bad_calls=(BadCall((np.zeros(3, np.float32), np.zeros(3, np.int32)), ("(n, 4)", "(3,)")),),
    shift_invariant=(0,),
    non_negative=True,
    limits={"without temperature": lambda inputs: (_hot(honest, inputs), np.full(len(inputs[1]), np.log(4)))},
)
SPREAD = LossCase(
    spread,
    lambda rng, rows: (rng.normal(size=rows),),
    lambda values: (values - values.sum() / max(len(values), 1)) ** 2,
    batch_coupled=True,
)


def cosine_distance(a, b, *, where=None):
    """One minus the cosine: any scale, either order."""
    return 1 - (a * b).sum(-1) / jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))


COSINE = LossCase(
    cosine_distance,
    lambda rng, rows: (*_rows(rng, rows), *_rows(rng, rows)),
    scale_invariant=(0, 1),
    symmetric=((0, 1),),
)


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("case", [CROSS_ENTROPY, SPREAD], ids=str)
def test_an_honest_loss_passes(case, name):
    result = check_property(case, name)
    assert result.status != "failed", result.detail


@pytest.mark.parametrize("name", ["values out of range", "hyper-parameters out of range"])
def test_an_honest_range_passes(name):
    assert check_property(WEIGHED, name).status == "passed"


@pytest.mark.parametrize("name", ["scale of embeddings", "symmetry"])
def test_an_honest_distance_passes(name):
    assert check_property(COSINE, name).status == "passed"


# ---- mutants ---------------------------------------------------------------------------------------------------------


def scaled(*args, **kwargs):
    return honest(*args, **kwargs) * (1 + 1e-5)


def ignores_temperature(logits, labels, *, temperature=1.0, where=None):
    return honest(logits, labels, where=where)


def wrong_gradient(logits, labels, **kwargs):
    extra = 1e-4 * logits.astype(jnp.promote_types(logits.dtype, jnp.float32)).sum(-1)
    return honest(logits, labels, **kwargs) + extra - jax.lax.stop_gradient(extra)


def wrong_second_derivative(logits, labels, **kwargs):
    mean = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)).mean(-1)
    # Adds nothing to the value and nothing to the gradient, and 2 / d^2 to the curvature.
    return honest(logits, labels, **kwargs) + (mean - jax.lax.stop_gradient(mean)) ** 2


def clipped_probability(logits, labels, *, temperature=1.0, where=None):
    mask = _valid(logits, labels, where)
    p = jax.nn.softmax(
        jnp.where(mask[:, None], logits, 0).astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    )
    return jnp.where(mask, -jnp.log(p + 1e-12)[jnp.arange(len(labels)), jnp.where(mask, labels, 0)], 0)


def unshifted(logits, labels, *, temperature=1.0, where=None):
    mask = _valid(logits, labels, where)
    logits = jnp.where(mask[:, None], logits, 0).astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    chosen = jnp.take_along_axis(logits, jnp.where(mask, labels, 0)[:, None], -1)[:, 0]
    return jnp.where(mask, jax.nn.logsumexp(logits, -1) - chosen, 0)


def infinite_slope_at_zero(values, *, where=None):
    return jnp.sqrt(spread(values, where=where))


def epsilon_in_the_norm(values, *, where=None):
    """A cosine that is 0 at the zero vector, with a gradient of 1e6 there."""
    mask = jnp.ones(values.shape[:1], bool) if where is None else where
    values = jnp.where(mask[:, None], values, 0).astype(jnp.promote_types(values.dtype, jnp.float32))
    norm = jnp.sqrt((values**2).sum(-1) + 1e-12)
    return jnp.where(mask, values.sum(-1) / norm, 0)


def computes_low(logits, labels, *, temperature=1.0, where=None):
    mask = _valid(logits, labels, where)
    logits = jnp.where(mask[:, None], logits, 0)
    values = naive(logits, jnp.where(mask, labels, 0), temperature=jnp.asarray(temperature, logits.dtype))
    return jnp.where(mask, values, 0).astype(jnp.promote_types(logits.dtype, jnp.float32))


@jax.custom_vjp
def _rounded_softmax(logits):
    """The identity; its gradient passes through a softmax's dtype twice."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _round_twice(logits, slope):
    coarse = (slope + 1).astype(logits.dtype)
    return ((coarse - 1).astype(logits.dtype),)


_rounded_softmax.defvjp(lambda logits: (_rounded_softmax(logits), logits), _round_twice)


def coarse_gradient(logits, labels, **kwargs):
    return honest(_rounded_softmax(logits), labels, **kwargs)


def hides_nan(logits, labels, **kwargs):
    return honest(jnp.where(logits > -jnp.inf, logits, -jnp.inf), labels, **kwargs)


def nan_everywhere(logits, labels, *, where=None, **kwargs):
    kept = logits if where is None else jnp.where(where[:, None], logits, 0)
    finite = jnp.where(jnp.isinf(kept), 0, kept).astype(jnp.promote_types(logits.dtype, jnp.float32))
    return honest(logits, labels, where=where, **kwargs) + 0 * finite.sum()


def constant_temperature(logits, labels, *, temperature=1.0, where=None):
    return honest(logits, labels, temperature=jax.lax.stop_gradient(temperature), where=where)


def divides_infinity(logits, labels, *, temperature=1.0, where=None):
    return honest(logits / temperature, labels, where=where)


def eager_differs(logits, labels, **kwargs):
    return honest(logits, labels, **kwargs) * (1.0 if isinstance(logits, jax.core.Tracer) else 1.001)


@jax.custom_batching.custom_vmap
def _half(x):
    return x * 0.5


@_half.def_vmap
def _half_of_many(axis_size, in_batched, x):
    return x * 0.5 / axis_size, True


def vmap_differs(logits, labels, *, where=None):
    values = honest(logits, labels, where=where)
    return values + _half(jax.lax.stop_gradient(values))


def masks_the_result_only(logits, labels, *, temperature=1.0, where=None):
    mask = _valid(logits, labels, where)
    return jnp.where(mask, honest(logits, labels, temperature=temperature), 0)


def multiplies_by_the_mask(logits, labels, *, temperature=1.0, where=None):
    return honest(logits, labels, temperature=temperature) * _valid(logits, labels, where)


def masked_rows_still_count(values, *, where=None, axis_name=None):
    where = jnp.ones(values.shape, bool) if where is None else where
    values = jnp.where(where, values, 0)
    return jnp.where(where, (values - values.mean()) ** 2, 0)


def divides_by_the_count(values, *, where=None, axis_name=None):
    where = jnp.ones(values.shape, bool) if where is None else where
    values = jnp.where(where, values, 0)
    return values**2 / where.sum()


def position_matters(logits, labels, **kwargs):
    return honest(logits, labels, **kwargs) * (1 + 1e-3 * jnp.arange(len(labels)))


def local_statistics(values, *, where=None, axis_name=None):
    return spread(values, where=where)


def local_count(values, *, where=None, axis_name=None):
    where = jnp.ones(values.shape, bool) if where is None else where
    values = jnp.where(where, values, 0)
    total = values.sum() if axis_name is None else jax.lax.psum(values.sum(), axis_name)
    return jnp.where(where, (values - total / jnp.maximum(where.sum(), 1)) ** 2, 0)


def gradient_not_shared(values, *, where=None, axis_name=None):
    where = jnp.ones(values.shape, bool) if where is None else where
    values = jnp.where(where, values, 0)
    total, count = values.sum(), where.sum()
    if axis_name is not None:
        others = jax.lax.stop_gradient(jax.lax.psum(total, axis_name) - total)
        total, count = total + others, jax.lax.psum(count, axis_name)
    return jnp.where(where, (values - total / jnp.maximum(count, 1)) ** 2, 0)


def unchecked(values, targets, *, where=None):
    where = jnp.ones(values.shape, bool) if where is None else where
    return jnp.where(where, (jnp.where(where, values, 0) - jnp.where(where, targets, 0)) ** 2, 0)


def says_little(logits, labels, **kwargs):
    try:
        return honest(logits, labels, **kwargs)
    except (TypeError, ValueError):
        raise ValueError("bad shapes") from None


def raises_assertion(logits, labels, **kwargs):
    try:
        return honest(logits, labels, **kwargs)
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from None


def narrow_result(logits, labels, **kwargs):
    return honest(logits, labels, **kwargs).astype(logits.dtype)


def never_wider(logits, labels, **kwargs):
    return honest(logits, labels, **kwargs).astype(jnp.float32)


def wraps_labels(logits, labels, **kwargs):
    return honest(logits, jnp.where(labels < 0, labels + logits.shape[-1], labels), **kwargs)


def clamps_labels(logits, labels, **kwargs):
    return honest(logits, jnp.minimum(labels, logits.shape[-1] - 1), **kwargs)


def spreads_nan(logits, labels, **kwargs):
    values = honest(logits, labels, **kwargs)
    return values + 0 * values.sum()


@jax.custom_vjp
def _forgets_weights(values):
    return values


_forgets_weights.defvjp(lambda values: (values, None), lambda _, slope: (jnp.sign(slope),))


def gradient_without_weights(logits, labels, **kwargs):
    return _forgets_weights(honest(logits, labels, **kwargs))


def knows_the_length(a, b, *, where=None):
    return cosine_distance(a, b) + 1e-5 * jnp.sqrt((a**2).sum(-1))


def gradient_of_the_direction(a, b, *, where=None):
    return cosine_distance(a / jax.lax.stop_gradient(jnp.sqrt((a**2).sum(-1, keepdims=True))), b) + 1e-7 * a.sum(-1)


def prefers_the_first(a, b, *, where=None):
    return cosine_distance(a, b) + 1e-5 * a[:, 0]


def below_its_minimum(logits, labels, **kwargs):
    return honest(logits, labels, **kwargs) - 0.1


@loss(scale=positive)
def weighed(values, shares, *, scale=1.0, where=None):
    """Squares with shares of 0 to 1 as weights: hyper-parameters and an array of a range."""
    mask = jnp.ones(values.shape, bool) if where is None else where
    values, shares = (jnp.where(mask, x, 0).astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (values, shares))
    sound = jnp.where((shares >= 0) & (shares <= 1), 1, jnp.nan)
    return jnp.where(mask, scale * shares * values**2 * sound, 0)


WEIGHED = LossCase(weighed, lambda rng, rows: (rng.normal(size=rows), rng.uniform(size=rows)), outside={1: (-0.5, 1.5)})


def takes_any_scale(values, shares, *, scale=1.0, where=None):
    return weighed.compiled(values, shares, scale=jnp.asarray(scale), where=where)


def looks_at_numbers_only(values, shares, *, scale=1.0, where=None):
    if not isinstance(scale, jax.core.Tracer):
        positive("scale", scale)
    return weighed.compiled(values, shares, scale=scale, where=where)


def spoils_masked_rows(values, shares, *, scale=1.0, where=None):
    bad = isinstance(scale, jax.core.Tracer)
    values = looks_at_numbers_only(values, shares, scale=scale, where=where)
    return values * jnp.where(scale > 0, 1, jnp.nan) if bad else values


for _mutant in (takes_any_scale, looks_at_numbers_only, spoils_masked_rows):
    _mutant.checks = {"scale": positive}


def takes_any_share(values, shares, **kwargs):
    return weighed(values, jnp.ones_like(shares), **kwargs) * shares.astype(jnp.float32)


def spoils_all_rows(values, shares, **kwargs):
    result = weighed(values, shares, **kwargs)
    return result * jnp.where(jnp.isnan(result).any(), jnp.nan, 1)


def change(case, loss, **fields):
    return dataclasses.replace(case, loss=loss, **fields)


def mutant(case, loss, **fields):
    return change(case, loss, rows=3, **fields)


def _values(rng, rows):
    return (rng.normal(size=rows),)


def _rows(rng, rows):
    return (rng.normal(size=(rows, 3)),)


def shifted(logits, tokens, *, where=None):
    """Each token's surprise given the one before; 0 for the first, which its mask counts."""
    values = honest(logits[:, :-1].reshape(-1, 4), tokens[:, 1:].reshape(-1)).reshape(len(tokens), -1)
    values = jnp.concatenate([jnp.zeros((len(tokens), 1)), values], axis=1)
    return values if where is None else jnp.where(where, values, 0)


def counts_masked_rows(logits, labels, **kwargs):
    return honest(logits, labels, **kwargs)


counts_masked_rows.term_weights = lambda logits, labels, **kwargs: jnp.ones(labels.shape)


def make_tokens(rng, rows):
    return rng.normal(size=(rows, 3, 4)), rng.integers(0, 4, (rows, 3)).astype(np.int32)


MUTANTS = [
    ("oracle", mutant(CROSS_ENTROPY, scaled)),
    ("oracle", mutant(CROSS_ENTROPY, ignores_temperature)),
    ("gradients", mutant(CROSS_ENTROPY, wrong_gradient)),
    ("gradients", mutant(CROSS_ENTROPY, wrong_second_derivative)),
    ("hostile inputs", mutant(CROSS_ENTROPY, clipped_probability)),
    ("hostile inputs", mutant(CROSS_ENTROPY, unshifted)),
    ("hostile inputs", mutant(SPREAD, infinite_slope_at_zero, oracle=None)),
    ("hostile inputs", LossCase(epsilon_in_the_norm, _rows)),
    ("low precision", mutant(CROSS_ENTROPY, computes_low)),
    ("low precision", mutant(CROSS_ENTROPY, coarse_gradient, naive=honest)),
    ("a NaN shows", mutant(CROSS_ENTROPY, hides_nan)),
    ("a NaN shows", mutant(CROSS_ENTROPY, nan_everywhere)),
    ("a NaN shows", mutant(CROSS_ENTROPY, honest, batch_coupled=True)),
    ("hyper-parameters", mutant(CROSS_ENTROPY, constant_temperature)),
    ("hyper-parameters", mutant(CROSS_ENTROPY, divides_infinity)),
    ("eager = jit", mutant(CROSS_ENTROPY, eager_differs)),
    ("vmap = loop", LossCase(vmap_differs, make_inputs)),
    ("masked = deleted", mutant(CROSS_ENTROPY, masks_the_result_only)),
    ("masked = deleted", mutant(CROSS_ENTROPY, multiplies_by_the_mask)),
    ("masked = deleted", mutant(SPREAD, masked_rows_still_count)),
    ("all masked = 0", mutant(SPREAD, divides_by_the_count)),
    ("the mask given once", mutant(CROSS_ENTROPY, counts_masked_rows)),
    ("the mask given once", LossCase(shifted, make_tokens)),
    ("micro-batches = whole", change(SPREAD, spread, batch_coupled=False)),
    ("micro-batches = whole", mutant(CROSS_ENTROPY, gradient_without_weights)),
    ("permutation", mutant(CROSS_ENTROPY, position_matters)),
    ("devices = one device", mutant(SPREAD, local_statistics)),
    ("devices = one device", mutant(SPREAD, local_count)),
    ("devices = one device", mutant(SPREAD, gradient_not_shared)),
    ("errors name both sides", LossCase(unchecked, lambda rng, rows: (*_rows(rng, rows), *_rows(rng, rows)))),
    ("errors name both sides", mutant(CROSS_ENTROPY, says_little)),
    ("errors name both sides", mutant(CROSS_ENTROPY, raises_assertion)),
    ("result dtype", mutant(CROSS_ENTROPY, narrow_result)),
    ("result dtype", mutant(CROSS_ENTROPY, never_wider)),
    ("labels out of range", mutant(CROSS_ENTROPY, wraps_labels)),
    ("labels out of range", mutant(CROSS_ENTROPY, clamps_labels)),
    ("labels out of range", mutant(CROSS_ENTROPY, spreads_nan)),
    ("values out of range", change(WEIGHED, takes_any_share)),
    ("values out of range", change(WEIGHED, spoils_all_rows)),
    ("hyper-parameters out of range", change(WEIGHED, takes_any_scale)),
    ("hyper-parameters out of range", change(WEIGHED, looks_at_numbers_only)),
    ("hyper-parameters out of range", change(WEIGHED, spoils_masked_rows)),
    ("no recompilation", mutant(CROSS_ENTROPY, jax.jit(honest, static_argnames="temperature"))),
    ("shift of logits", mutant(CROSS_ENTROPY, unshifted)),
    ("scale of embeddings", mutant(COSINE, knows_the_length)),
    ("scale of embeddings", mutant(COSINE, gradient_of_the_direction)),
    ("fuzz", mutant(CROSS_ENTROPY, clipped_probability)),
    ("fuzz", mutant(CROSS_ENTROPY, masks_the_result_only)),
    ("fuzz", mutant(SPREAD, infinite_slope_at_zero, oracle=None)),
    ("symmetry", mutant(COSINE, prefers_the_first)),
    ("non-negative", mutant(CROSS_ENTROPY, below_its_minimum)),
    (
        "limits",
        mutant(CROSS_ENTROPY, honest, limits={"wrong": lambda inputs: (_hot(ignores_temperature, inputs), 1.4)}),
    ),
]


@pytest.mark.parametrize(("name", "mutant"), MUTANTS, ids=lambda x: str(x))
def test_a_mutant_fails_the_property_that_it_breaks(name, mutant):
    result = check_property(mutant, name)
    assert result.status == "failed"
    assert "Error: " not in result.detail


def test_every_property_has_a_mutant():
    assert {name for name, _ in MUTANTS} == set(PROPERTIES)


# ---- the report ------------------------------------------------------------------------------------------------------


def wrong_for_label_3(logits, labels, *, where=None):
    return honest(logits, labels, where=where) + (labels == 3)


def test_the_error_names_the_property_and_shows_one_row():
    inputs = CROSS_ENTROPY.inputs()
    assert 1 <= (inputs[1] == 3).sum() < len(inputs[1])
    result = check_property(change(CROSS_ENTROPY, wrong_for_label_3, variants=({},)), "oracle")
    assert result.inputs[1].tolist() == [3]
    with pytest.raises(
        AssertionError, match=r"wrong_for_label_3 fails 'oracle': float32 .* at \[0\]: expected .*, got"
    ) as caught:
        check_loss(wrong_for_label_3, make_inputs=make_inputs, oracle=oracle, properties=["oracle"], verbose=False)
    assert "[1] [3]" in str(caught.value)


def test_the_error_lists_the_failed_properties_alone():
    with pytest.raises(AssertionError) as caught:
        check_loss(
            wrong_for_label_3,
            make_inputs=make_inputs,
            oracle=oracle,
            labels=1,
            properties=["oracle", "permutation", "symmetry", "labels out of range", "result dtype"],
            num_classes=lambda *_: 3,  # one too few, so that label 3 is taken for one that is out of range
            verbose=False,
        )
    first, second = str(caught.value).split("\n\n")
    assert re.fullmatch(
        r"wrong_for_label_3 fails 'oracle': float32 with default arguments at \[0\]: expected \S+, got \S+ "
        r"\(1 of 1 differ\)\nsmallest failing inputs:\n  \[0\] \[\[.*\]\]\n  \[1\] \[3\]",
        first,
    )
    assert second.startswith("wrong_for_label_3 fails 'labels out of range': 3 in array 1 with default arguments: ")
    assert second.count("\n  [") == 2


def test_a_loss_that_raises_fails_with_its_own_error():
    def broken(logits, labels):
        raise RuntimeError("no such thing")

    result = check_property(LossCase(broken, make_inputs, oracle), "oracle")
    assert (result.status, result.detail) == ("failed", "RuntimeError: no such thing")


def test_the_report_lists_every_property_and_every_reason(capsys):
    report = check_loss(
        honest,
        make_inputs=make_inputs,
        properties=["oracle", "gradients", "no recompilation"],
        skip={"gradients": "too slow here"},
    )
    lines = str(report).splitlines()
    assert lines == [
        "honest",
        "oracle            skipped  no oracle given",
        "gradients         skipped  too slow here",
        "no recompilation  skipped  no numeric hyper-parameter given",
    ]
    assert capsys.readouterr().out == str(report) + "\n"
    assert report.failed == ()


def test_fuzzing_leaves_out_what_a_failure_does_not_need():
    result = check_property(change(CROSS_ENTROPY, clipped_probability), "fuzz")
    assert "Recipe(masked=(), " in result.detail
    assert np.abs(result.inputs[0]).max() >= 1e3


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="got 'gradient'"):
        check_property(CROSS_ENTROPY, "gradient")
    with pytest.raises(ValueError, match="got 'jit'"):
        check_property(change(CROSS_ENTROPY, honest, skip={"jit": ""}), "oracle")
    with pytest.raises(TypeError, match="batch_copuled"):
        check_loss(honest, make_inputs=make_inputs, batch_copuled=True)


def test_a_function_of_parameters_is_checked_without_rows():
    def half_square(params):
        return 0.5 * sum(
            jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))).sum() for x in jax.tree.leaves(params)
        )

    report = check_loss(
        half_square,
        make_inputs=lambda rng, rows: ({"w": rng.normal(size=(2, 3)), "b": rng.normal(size=3)},),
        oracle=lambda params: 0.5 * ((params["w"] ** 2).sum() + (params["b"] ** 2).sum()),
        batched=False,
        verbose=False,
    )
    status = {result.property: result.status for result in report.results}
    assert {name for name, value in status.items() if value == "passed"} == {
        "oracle", "gradients", "hostile inputs", "low precision", "eager = jit", "vmap = loop", "result dtype", "fuzz",
        "a NaN shows",
    }  # fmt: skip
