import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import Context, Term, UsageError
from train.objective import check_loss_weights, evaluate


def context(**fields):
    return Context(key=jax.random.key(0), step=jnp.zeros((), jnp.int32), **fields)


def test_sums_by_hand():
    total, weight = Term(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.5], [2.0]])).sums()
    assert (float(total), float(weight)) == (0.5 * 3 + 2 * 7, 0.5 * 2 + 2 * 2)


def test_without_weights_each_value_weighs_one():
    assert [float(x) for x in Term(jnp.arange(6.0).reshape(2, 3)).sums()] == [15.0, 6.0]


def test_scalar_is_one_value():
    assert [float(x) for x in Term(jnp.float32(7.0)).sums()] == [7.0, 1.0]


def test_scalar_weight_counts_for_each_value():
    assert [float(x) for x in Term(jnp.ones((2, 3)), 0.5).sums()] == [3.0, 3.0]


def test_booleans_and_integers_are_counted():
    assert [float(x) for x in Term(jnp.array([True, False, True]), jnp.array([1, 1, 0])).sums()] == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, bool])
def test_low_precision_is_summed_in_float32(dtype):
    total, weight = Term(jnp.ones(3001, dtype), jnp.ones(3001, dtype)).sums()  # bfloat16 alone stops at 256
    assert (float(total), float(weight)) == (3001.0, 3001.0)
    assert total.dtype == weight.dtype == jnp.float32


def test_float64_stays():
    with jax.enable_x64(True):
        assert Term(jnp.ones(2, jnp.float64)).sums()[0].dtype == jnp.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_at_weight_zero_never_counts(bad):
    weights = jnp.array([1.0, 0.0, 2.0])

    def mean(values):
        total, weight = Term(values, weights).sums()
        return total / weight

    value, grad = jax.value_and_grad(mean)(jnp.array([1.0, bad, 4.0]))
    assert float(value) == 3.0
    np.testing.assert_allclose(grad, [1 / 3, 0, 2 / 3], rtol=1e-6)


def test_weights_carry_no_gradient():
    grad = jax.grad(lambda w: Term(jnp.ones(2), w).sums()[0] + Term(jnp.ones(2), w).sums()[1])(jnp.ones(2))
    np.testing.assert_array_equal(grad, [0.0, 0.0])


def test_nothing_sums_to_zero():
    assert [float(x) for x in Term(jnp.zeros((0,))).sums()] == [0.0, 0.0]


def test_kept_axes_are_not_summed():
    total, weight = Term(jnp.arange(6.0).reshape(2, 3), jnp.array([[1.0], [3.0]]), keep=1).sums()
    assert total.tolist() == [0 + 3 * 3, 1 + 3 * 4, 2 + 3 * 5]
    assert weight.tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize("shape", [(3,), (2,), (2, 2), (1, 2, 3)])
def test_weights_that_do_not_fit(shape):
    with pytest.raises(UsageError, match=r"weights of shape .* do not fit values of shape \(2, 3\)"):
        Term(jnp.ones((2, 3)), jnp.ones(shape)).sums()


def test_weights_of_a_square_are_not_lined_up_with_the_wrong_axis():
    with pytest.raises(UsageError, match="rank"):
        Term(jnp.ones((3, 3)), jnp.ones(3)).sums()


def test_term_and_context_are_pytrees_with_static_fields():
    term = jax.jit(lambda t: jax.tree.map(lambda x: 2 * x, t))(Term(jnp.ones(2), jnp.ones(2), keep=1))
    assert term.keep == 1
    assert term.values.tolist() == [2.0, 2.0]
    ctx = jax.jit(lambda c: c)(context(axis_name="data", train=False, state={"n": jnp.ones(())}))
    assert (ctx.axis_name, ctx.train, float(ctx.state["n"])) == ("data", False, 1.0)


def test_evaluate_passes_the_state_on_unless_a_new_one_comes():
    terms = {"a": Term(jnp.ones(2))}
    ctx = context(state={"n": jnp.zeros(())})
    assert evaluate(lambda p, b, c: terms, {}, {}, ctx) == (terms, ctx.state)
    _, new = evaluate(lambda p, b, c: (terms, {"n": c.state["n"] + 1}), {}, {}, ctx)
    assert float(new["n"]) == 1.0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (jnp.ones(2), "dict of Term"),
        ({}, "dict of Term"),
        ({"a": jnp.ones(2)}, "'a': "),
        ([Term(jnp.ones(2))], "not list"),
        ({"loss": Term(jnp.ones(2))}, "'loss' has the name of a metric"),
        ({"grad_norm": Term(jnp.ones(2))}, "'grad_norm' has the name of a metric"),
        ({"mlm": Term(jnp.ones((2, 3)), jnp.ones(2))}, r"'mlm': weights of shape \(2,\)"),
        (({"a": Term(jnp.ones(2))}, {"n": jnp.zeros(2)}), r"float32\[\].*float32\[2\]"),
        (({"a": Term(jnp.ones(2))}, {"m": jnp.zeros(())}), "create_state"),
        (({"a": Term(jnp.ones(2))}, {"n": jnp.zeros((), jnp.int32)}), "int32"),
    ],
)
def test_evaluate_refuses(result, message):
    with pytest.raises(UsageError, match=message):
        evaluate(lambda p, b, c: result, {}, {}, context(state={"n": jnp.zeros(())}))


def test_loss_weights_must_name_terms():
    terms = {"mlm": Term(jnp.ones(2), weights=1), "nsp": Term(jnp.ones(2)), "counts": Term(jnp.ones((2, 2)), keep=2)}
    check_loss_weights({"mlm": 1.0}, terms)
    with pytest.raises(UsageError, match="'mlmm', but the objective's terms are 'counts', 'mlm', 'nsp'"):
        check_loss_weights({"mlmm": 1.0}, terms)
    with pytest.raises(UsageError, match="'counts', but their Terms keep axes"):
        check_loss_weights({"counts": 1.0}, terms)


def test_what_is_trained_on_says_how_much_it_counts():
    terms = {"several": Term(jnp.ones(1)), "single": Term(jnp.ones(()))}
    for single in (False, True):
        with pytest.raises(UsageError, match="'several' is trained on, but its values of shape"):
            check_loss_weights({"several": 1.0}, terms, single=single)
    with pytest.raises(UsageError, match="'single' is trained on, but is a single number"):
        check_loss_weights({"single": 1.0}, terms)
    check_loss_weights({"single": 1.0}, terms, single=True)
