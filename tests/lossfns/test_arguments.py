"""What every public function says of arguments that are none of its own, or of no kind that it takes."""

import inspect
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import lossfns
from lossfns._catalogue import functions
from lossfns._contract import Number

FUNCTIONS = functions()
ARRAYS = (jax.Array, jax.Array | None)
NEEDED = {"bits": 4, "parents": (2, 2, -1), "where": jnp.zeros(())}
OPTIONS_LOOKED_AT_INSIDE = {
    "where": "a mask, with shape and dtype checked while tracing; a mapping in hierarchical_cross_entropy",
    "special": "token numbers, checked together with the vocabulary",
}


def parameters(function, *kinds):
    return [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def by_position(function):
    return parameters(function, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def by_name(function):
    return parameters(function, inspect.Parameter.KEYWORD_ONLY)


def dummies(function):
    """Something of the kind for each argument: enough for all that is looked at before tracing."""
    needed = {p.name: NEEDED.get(p.name, 1) for p in by_name(function) if p.default is p.empty}
    return [jnp.zeros(()) for _ in by_position(function)], needed


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_option_is_checked(name):
    checks = FUNCTIONS[name].checks
    for option in by_name(FUNCTIONS[name]):
        known = option.name in checks or option.name in OPTIONS_LOOKED_AT_INSIDE or option.annotation in ARRAYS
        assert known, f"{name}: {option}"
        if float in get_args(option.annotation):
            assert option.name in checks, f"{name}: {option}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_array_is_refused_by_name(name):
    function = FUNCTIONS[name]
    args, needed = dummies(function)
    for place, parameter in enumerate(by_position(function)):
        if parameter.annotation not in ARRAYS:
            continue
        for wrong in (None, [1.0], (1.0,), 1.0, 1, True, "a", np.array(["a"]), np.array([None]), object()):
            if wrong is None and parameter.annotation is not jax.Array:
                continue
            with pytest.raises(TypeError, match=rf"^{parameter.name} must be an array") as caught:
                function(*args[:place], wrong, *args[place + 1 :], **needed)
            if isinstance(wrong, list | tuple | int | float):
                assert ("jax.random.key" if parameter.name == "key" else "jnp.asarray(") in str(caught.value)
                assert type(wrong).__name__ in str(caught.value)
            by_names = {p.name: x for p, x in zip(by_position(function), args, strict=True)}
            with pytest.raises(TypeError, match=rf"^{parameter.name} must be an array"):
                function(**by_names | needed | {parameter.name: wrong})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_array_by_name_that_is_none_is_refused_as_well(name):
    function = FUNCTIONS[name]
    args, needed = dummies(function)
    for option in by_name(function):
        if option.annotation in ARRAYS:
            with pytest.raises(TypeError, match=rf"^{option.name} must be an array, got list; convert it with jnp.as"):
                function(*args, **{**needed, option.name: [True]})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_number_out_of_range_is_refused_by_name(name):
    function = FUNCTIONS[name]
    args, needed = dummies(function)
    for option, check in function.checks.items():
        if not isinstance(check, Number):
            continue
        bad = [x for x in (np.nan, -1.0, 2.0, 0.0, np.inf, -np.inf) if not check.holds(x)][:2]
        for value in bad:
            for form in (float, np.float32, np.array, jnp.asarray, jnp.bfloat16):
                with pytest.raises(ValueError, match=rf"^{option} must be ") as caught:
                    function(*args, **{**needed, option: form(value)})
                assert check.meaning in str(caught.value)
        for wrong in ("1", True, [1.0], 1j, jnp.array(True), np.array("a"), jnp.array(1j)):
            with pytest.raises(TypeError, match=rf"^{option} must be "):
                function(*args, **{**needed, option: wrong})
        if not check.by_entry:
            with pytest.raises(ValueError, match=rf"^{option} must be a scalar, got shape \(3,\)"):
                function(*args, **{**needed, option: jnp.ones(3)})
            with pytest.raises(ValueError, match=rf"^{option} must be a scalar, got shape \(3,\)"):
                jax.eval_shape(lambda x, option=option: function(*args, **{**needed, option: x}), jnp.ones(3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_word_of_another_library_is_explained(name):
    function = FUNCTIONS[name]
    args, needed = dummies(function)
    own = inspect.signature(function).parameters
    words = {
        "reduction": "lossfns.weighted_mean(values, where)",
        "size_average": "lossfns.weighted_mean(values, where)",
        "axis": "jnp.moveaxis(x, axis, -1)",
        "dim": "jnp.moveaxis(x, axis, -1)",
        "weight": "lossfns.weighted_mean(values, weights)",
        "ignore_index": "where=labels != ignore_index",
        "qqqq": "it takes " if len(own) else "",
    }
    for word, hint in words.items():
        if word not in own:
            with pytest.raises(TypeError) as caught:
                function(*args, **needed, **{word: None})
            assert str(caught.value).startswith(f"{name}() has no argument {word!r}; ")
            assert hint in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("name", "word", "hint"),
    [
        ("sigmoid_cross_entropy", "pos_weight", "it is positive_weight= here"),
        ("softmax_cross_entropy", "pos_weight", "lossfns.sigmoid_cross_entropy has positive_weight="),
        ("info_nce", "tau", "it is temperature= here"),
        ("softmax_cross_entropy", "smoothing", "it is label_smoothing= here"),
        ("softmax_cross_entropy", "label_smothing", "did you mean label_smoothing="),
        ("ctc", "blank", "it is blank_id= here"),
        ("ctc", "input_lengths", "it is logits_where= here"),
        ("nt_xent", "axis_names", "it is axis_name= here"),
        ("huber", "mask", "where=mask"),
        ("ppo_clip", "clip_range", "it is clip_low= here"),
        ("soft_cross_entropy", "from_logits", "jnp.log(p)"),
        ("hierarchical_cross_entropy", "reduction", "lossfns.weighted_mean"),
    ],
)
def test_words_that_have_a_name_here(name, word, hint):
    args, needed = dummies(FUNCTIONS[name])
    with pytest.raises(TypeError, match=rf"^{name}\(\) has no argument '{word}'; ") as caught:
        FUNCTIONS[name](*args, **needed, **{word: None})
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "fisher_diagonal"])  # takes any number
def test_options_are_given_by_name(name):
    args, needed = dummies(FUNCTIONS[name])
    with pytest.raises(TypeError, match=rf"^{name}\(\) takes {len(args)} by position, .*, got {len(args) + 1}"):
        FUNCTIONS[name](*args, jnp.zeros(()), **needed)


def test_numpy_arrays_and_their_scalars_are_arrays():
    for kind in (np.array, np.float32):
        np.testing.assert_allclose(lossfns.squared_error(kind(3.0), kind(1.0)), 4.0)
    assert lossfns.weighted_mean(jnp.array([1.0, 3.0]), 2.0) == 2.0


def test_an_integer_beyond_all_floats_is_out_of_range():
    with pytest.raises(ValueError, match="delta must be positive and finite"):
        lossfns.huber(jnp.zeros(2), jnp.zeros(2), delta=10**400)


# ---- traced hyper-parameters -----------------------------------------------------------------------------------------

A = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
B = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32))
KEEP = jnp.array([True, False, True, True])


def expected_of(temperature):
    good = lossfns.info_nce(A, B, temperature=0.5, where=KEEP)
    return np.where(KEEP, good if temperature == 0.5 else np.nan, 0)


@pytest.mark.parametrize("temperature", [0.5, 0.0, -1.0, np.nan, np.inf])
def test_a_traced_number_out_of_range_makes_nan_under_every_transformation(temperature):
    def values(t):
        return lossfns.info_nce(A, B, temperature=t, where=KEEP)

    expected = expected_of(temperature)
    np.testing.assert_allclose(jax.jit(values)(temperature), expected, rtol=1e-6)
    batched = jax.vmap(values)(jnp.array([0.5, temperature]))
    np.testing.assert_allclose(batched, np.stack([expected_of(0.5), expected]), rtol=1e-6)
    _, scanned = jax.lax.scan(lambda carry, t: (carry, values(t)), 0, jnp.array([temperature, 0.5]))
    np.testing.assert_allclose(scanned, np.stack([expected, expected_of(0.5)]), rtol=1e-6)
    slope = jax.grad(lambda t: jnp.sum(values(t)))(jnp.float32(temperature))
    assert np.isnan(slope) == (temperature != 0.5)
    of_a = jax.jit(jax.grad(lambda a, t: jnp.sum(lossfns.info_nce(a, B, temperature=t, where=KEEP))))(A, temperature)
    assert (np.isnan(of_a).any(axis=1) == (np.asarray(KEEP) & (temperature != 0.5))).all()


def test_gradients_in_range_are_those_of_numbers():
    def total(a, t):
        return jnp.sum(lossfns.info_nce(a, B, temperature=t))

    np.testing.assert_allclose(jax.jit(jax.grad(total))(A, 0.5), jax.grad(total)(A, 0.5), rtol=1e-5, atol=1e-7)
    known = jnp.asarray(0.5)
    np.testing.assert_array_equal(jax.grad(lambda a: total(a, known))(A), jax.grad(lambda a: total(a, 0.5))(A))


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_traced_number_out_of_range_makes_nan_under_shard_map(check_vma):
    mesh = jax.make_mesh((2,), ("shards",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def values(a, b, where, t):
        return lossfns.info_nce(a, b, temperature=t, where=where, axis_name="shards")

    rows = P("shards")
    sharded = jax.jit(
        jax.shard_map(values, mesh=mesh, in_specs=(rows, rows, rows, P()), out_specs=rows, check_vma=check_vma)
    )
    for temperature in (0.5, -1.0):
        np.testing.assert_allclose(sharded(A, B, KEEP, temperature), expected_of(temperature), rtol=1e-5)


def test_numbers_add_nothing_to_a_program_and_an_array_is_read_before_tracing():
    def program(**options):
        return str(jax.make_jaxpr(lambda x: lossfns.huber(x, x, **options))(A))

    assert program(delta=2.0).count("nan") == program().count("nan")
    assert program(delta=jnp.asarray(2.0)).count("nan") == program().count("nan")
    known = jnp.asarray(-1.0)
    with pytest.raises(ValueError, match=r"delta must be positive and finite, got -1\.0"):
        jax.jit(lambda x: lossfns.huber(x, x, delta=known))(A)


def test_a_loss_inside_of_a_loss_leaves_its_numbers_to_the_outer_one():
    program = str(jax.make_jaxpr(lambda x: lossfns.span_corruption(x, jnp.zeros(4, int), z_loss=0.1))(A))
    plain = str(jax.make_jaxpr(lambda x: lossfns.softmax_cross_entropy(x, jnp.zeros(4, int), z_loss=0.1))(A))
    assert program.count("nan") == plain.count("nan")


@pytest.mark.parametrize(
    ("call", "good", "bad"),
    [
        (lambda x, q: lossfns.quantile(A, B, quantile=q, where=x), 0.5, 1.0),
        (lambda x, q: lossfns.expectile(A, B, expectile=q, where=x), 0.5, 0.0),
        (lambda x, c: lossfns.barron(A, scale=c, where=x), 1.0, -1.0),
        (lambda x, a: lossfns.adaptive_barron(A, alpha=a, where=x), 1.0, -1.0),
        (lambda x, w: lossfns.sigmoid_cross_entropy(A, jax.nn.sigmoid(B), positive_weight=w, where=x), 2.0, -1.0),
        (lambda x, m: lossfns.bradley_terry(A, B, margin=m, where=x), 1.0, np.inf),
    ],
)
def test_an_array_of_numbers_spoils_its_own_entries(call, good, bad):
    numbers = np.full((4, 3), good, np.float32)
    wrong = numbers.copy()
    wrong[[0, 1], [1, 2]] = bad
    where = np.ones((4, 3), bool)
    where[1, 2] = False  # a masked entry may hold anything
    expected = np.array(call(where, numbers))
    expected[0, 1] = np.nan
    np.testing.assert_allclose(jax.jit(call)(where, wrong), expected, rtol=1e-6)
    np.testing.assert_allclose(call(where, jnp.asarray(wrong)), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r" must be .*, got "):
        call(None, jnp.asarray(wrong))


def test_weights_of_classes_spoil_the_rows_of_their_class():
    logits, labels = jnp.zeros((3, 3)), jnp.array([0, 1, 2])
    with pytest.raises(ValueError, match="alpha must be at least 0 and finite"):
        lossfns.focal(logits, labels, alpha=jnp.array([1.0, -1.0, 1.0]))
    values = jax.jit(lambda alpha: lossfns.focal(logits, labels, alpha=alpha))(jnp.array([1.0, -1.0, 1.0]))
    assert np.isnan(values).tolist() == [False, True, False]
