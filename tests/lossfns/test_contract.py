"""The shared signature: what is compiled, how often, and what is refused before tracing."""

import contextlib

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import lossfns
from lossfns._contract import accumulation_dtype, loss, positive
from lossfns._numerics import log_normalizer, row_shift, unit_vectors

LOGITS, LABELS = jnp.zeros((4, 3)), jnp.zeros(4, int)


@contextlib.contextmanager
def lowerings():
    """Count the programs that are built inside."""
    built = []

    def listen(event, duration_secs, **_):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            built.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield built
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(("name", "option"), [("nt_xent", "temperature"), ("huber", "delta")])
def test_sweeping_a_number_builds_nothing_new(name, option):
    function = getattr(lossfns, name)
    a, b = (jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32))
    function(a, b)
    with lowerings() as built:
        results = [function(a, b, **{option: v}) for v in (1, 0.5, np.float32(0.1), np.float64(2), 0.07)]
    assert not built
    assert len({float(values.sum()) for values in results}) == 5


def test_an_option_left_out_is_the_program_of_its_default():
    lossfns.huber(jnp.zeros(11), jnp.zeros(11))
    with lowerings() as built:
        lossfns.huber(jnp.zeros(11), jnp.zeros(11), delta=1.0)
    assert not built


def test_an_eager_call_is_one_program():
    logits, labels = jnp.zeros((13, 3)), jnp.zeros(13, int)
    with lowerings() as built:
        lossfns.softmax_cross_entropy(logits, labels, label_smoothing=0.1, z_loss=1e-4, soft_cap=30.0)
    assert len(built) == 1


def test_a_zero_coefficient_leaves_its_term_out_of_the_program():
    def program(**options):
        return str(jax.make_jaxpr(lambda x: lossfns.softmax_cross_entropy(x, LABELS, **options))(LOGITS))

    assert program(label_smoothing=0.0, z_loss=0) == program()
    assert program(label_smoothing=0.1) != program()


def test_a_traced_number_is_not_looked_at_and_has_a_gradient():
    slope = jax.grad(lambda delta: lossfns.huber(jnp.array(3.0), jnp.array(0.0), delta=delta))(2.0)
    assert float(slope) == 3.0 - 2.0
    swept = jax.vmap(lambda delta: lossfns.huber(jnp.array(3.0), jnp.array(0.0), delta=delta))(jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(swept, [2.5, 4.0])


@pytest.mark.parametrize("value", ["0.5", True, 0.5j, [0.5]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="temperature must be a number or an array, got"):
        lossfns.nt_xent(jnp.ones((2, 2)), jnp.ones((2, 2)), temperature=value)


def test_an_array_hyper_parameter_must_be_a_scalar():
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(2,\)"):
        lossfns.huber(jnp.zeros(2), jnp.zeros(2), delta=jnp.ones(2))


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match=r"labels must be an array, got list; convert it with jnp\.asarray"):
        lossfns.softmax_cross_entropy(LOGITS, [0, 0, 0, 0])


def test_numpy_arrays_are_arrays():
    value = lossfns.softmax_cross_entropy(np.zeros((4, 3)), np.zeros(4, np.int64), where=np.ones(4, bool))
    np.testing.assert_allclose(value, np.full(4, np.log(3)), rtol=1e-6)


def test_a_check_for_an_unknown_option_is_a_mistake_of_the_author():
    with pytest.raises(TypeError, match=r"f has no keyword arguments \['temperature'\]"):

        @loss(temperature=positive)
        def f(x, *, temparature=1.0):
            return x


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((jnp.bfloat16, jnp.float16), jnp.float32),
        ((jnp.float32, jnp.int32), jnp.float32),
        ((jnp.float16, jnp.float64), jnp.float64),
        ((jnp.float8_e4m3fn,), jnp.float32),
    ],
)
def test_computes_in_float32_or_wider(dtypes, expected):
    with jax.enable_x64(True):
        assert accumulation_dtype(*(jnp.zeros(1, d) for d in dtypes)) == expected


def test_unit_vectors_at_all_scales():
    direction = np.array([3.0, -4.0, 0.0]) / 5
    for scale in (1e-25, 1e-3, 1.0, 1e25):
        np.testing.assert_allclose(unit_vectors(jnp.float32(scale * direction * 5)), direction, rtol=1e-6)
        jacobian = jax.jacobian(unit_vectors)(jnp.float32(scale * direction * 5)) * np.float32(scale * 5)
        np.testing.assert_allclose(jacobian, np.eye(3) - np.outer(direction, direction), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(unit_vectors(jnp.zeros(3)), np.zeros(3))
    np.testing.assert_array_equal(jax.jacobian(unit_vectors)(jnp.zeros(3)), np.eye(3))


def test_log_normalizer_has_the_softmax_as_derivative_to_any_order():
    x = jnp.array([1.0, 2.0, 3.0])
    p = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()

    def f(x):
        return log_normalizer(x, row_shift(x)[1])

    np.testing.assert_allclose(f(x), np.log(np.exp([-2.0, -1.0, 0.0]).sum()), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(f)(x), p, rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(f)(x), np.diag(p) - np.outer(p, p), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(jax.grad(f)(jnp.full(3, -np.inf)), 0)


def test_scan_and_nested_jit_compose():
    def body(total, x):
        return total + lossfns.softmax_cross_entropy(x, jnp.array(0)), None

    total, _ = jax.jit(lambda xs: jax.lax.scan(body, jnp.float32(0), xs))(LOGITS)
    np.testing.assert_allclose(total, 4 * np.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    "value",
    [np.complex64(1), np.str_("a"), np.datetime64(3, "s"), jax.random.key(0)],
    ids=["complex", "text", "date", "key"],
)
def test_a_scalar_that_is_no_real_number_is_refused_with_its_dtype(value):
    with pytest.raises(TypeError, match="delta must be real numbers, got dtype"):
        lossfns.huber(jnp.ones(1), jnp.ones(1), delta=value)


def test_an_array_is_none_of_the_names():
    with pytest.raises(ValueError, match="over must be one of 'example', 'batch'"):
        lossfns.lovasz_softmax(jnp.ones((1, 2, 2)), jnp.ones((1, 2), int), over=np.array(["batch", "example"]))


def test_a_number_at_the_end_of_its_range_has_the_one_sided_slope():
    x, y = jnp.array([[0.3, -1.0, 2.0]]), jnp.zeros((1, 3))
    # Of -p^4 log(1 - p + m) taken at p - m: 4 p^3 log(1 - p) - p^4 / (1 - p) at m = 0.
    p = 1 / (1 + np.exp(-np.float64(x)))
    slope = jax.grad(lambda m: lossfns.asymmetric(x, y, margin=m, gamma_negative=4.0).sum())(0.0)
    np.testing.assert_allclose(slope, (4 * p**3 * np.log1p(-p) - p**4 / (1 - p)).sum(), rtol=1e-5)
    # Of -log(d + eps), two rows at right angles: -1 / sqrt 2 each.
    np.testing.assert_allclose(jax.grad(lambda e: lossfns.koleo(jnp.eye(2), eps=e).sum())(0.0), -(2**0.5), rtol=1e-6)
