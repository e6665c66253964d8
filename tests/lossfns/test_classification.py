"""Cross-entropies: conventions, the ends of the number line, labels that do not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import sigmoid_cross_entropy, soft_cross_entropy, softmax_cross_entropy

INF = np.inf


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 5)).astype(np.float32) * 3, rng.integers(0, 5, 6)


@pytest.mark.parametrize(("over", "others"), [("all", 0.1 / 5), ("others", 0.1 / 4)])
def test_smoothing_mass_over_all_classes_or_the_others(batch, over, others):
    logits, labels = batch
    at_label = 0.9 + others if over == "all" else 0.9
    targets = np.where(np.arange(5) == labels[:, None], at_label, others)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-12)
    values = softmax_cross_entropy(logits, labels, label_smoothing=0.1, smoothing_over=over)
    np.testing.assert_allclose(values, -(targets * log_softmax(logits)).sum(-1), rtol=1e-5)


def test_smoothing_never_reaches_a_masked_class():
    # Three classes left of four: 0.7 + 0.1 for the label, 0.1 each for the two others; all at odds of one.
    logits, label = jnp.array([0.0, -INF, 0.0, 0.0]), jnp.array(0)
    for over in ("all", "others"):
        value, slope = jax.value_and_grad(softmax_cross_entropy)(
            logits, label, label_smoothing=0.3, smoothing_over=over
        )
        at_label = 0.7 + 0.1 if over == "all" else 0.7
        other = 0.1 if over == "all" else 0.15
        np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
        np.testing.assert_allclose(slope, [1 / 3 - at_label, 0, 1 / 3 - other, 1 / 3 - other], rtol=1e-5, atol=1e-7)


def test_smoothing_over_others_with_one_class_left_is_the_plain_loss():
    value = softmax_cross_entropy(jnp.array([2.0, -INF]), jnp.array(0), label_smoothing=0.3, smoothing_over="others")
    assert float(value) == 0.0


def test_z_loss_value_and_gradient():
    # Both logits 0: log-normaliser log 2, softmax 1/2 each.
    value, slope = jax.value_and_grad(softmax_cross_entropy)(jnp.zeros(2), jnp.array(0), z_loss=0.5)
    np.testing.assert_allclose(value, np.log(2) + 0.5 * np.log(2) ** 2, rtol=1e-6)
    np.testing.assert_allclose(slope, np.array([-0.5, 0.5]) + 0.5 * 2 * np.log(2) * 0.5, rtol=1e-6)


def test_soft_cap_is_in_value_and_gradient_and_keeps_masked_classes(batch):
    logits, labels = batch
    values = softmax_cross_entropy(logits, labels, soft_cap=2.0)
    log_p = log_softmax(2 * np.tanh(logits / 2.0))
    np.testing.assert_allclose(values, -log_p[np.arange(6), labels], rtol=1e-5)
    slope = jax.grad(lambda x: softmax_cross_entropy(x, labels, soft_cap=2.0).sum())(logits)
    expected = (np.exp(log_p) - (np.arange(5) == labels[:, None])) * (1 - np.tanh(logits / 2.0) ** 2)
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
    capped = softmax_cross_entropy(jnp.array([0.0, -INF]), jnp.array(0), soft_cap=2.0)
    assert float(capped) == 0.0


@pytest.mark.parametrize("label", [-1, -2, 3, 100, -100])
def test_label_out_of_range_is_nan_in_value_and_gradient_of_its_row_only(label):
    logits = jnp.zeros((2, 3))
    labels = jnp.array([label, 0])
    values = softmax_cross_entropy(logits, labels)
    slopes = jax.grad(lambda x: softmax_cross_entropy(x, labels).sum())(logits)
    assert np.isnan(values[0])
    assert np.isnan(slopes[0]).all()
    np.testing.assert_allclose(values[1], np.log(3), rtol=1e-6)
    assert np.isfinite(slopes[1]).all()
    assert not np.any(softmax_cross_entropy(logits, labels, where=jnp.zeros(2, bool)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_labels_of_any_integer_dtype(dtype):
    # 300 classes are more than 8 bits hold.
    values = softmax_cross_entropy(jnp.zeros((2, 300)), jnp.array([0, 100], dtype))
    np.testing.assert_allclose(values, np.full(2, np.log(300)), rtol=1e-6)


def test_logits_far_from_zero_lose_no_digits(batch):
    logits, labels = batch
    far = (np.asarray(logits, np.float64) * 64).round() / 64 + 10_000  # exact in float32
    expected = -log_softmax(far)[np.arange(6), labels]
    np.testing.assert_allclose(softmax_cross_entropy(jnp.float32(far), labels), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([1e4, -1e4, 0.0], 0.0),
        ([-1e4, 1e4, 0.0], 2e4),
        ([INF, 0.0, 0.0], 0.0),
        ([0.0, INF, 0.0], INF),
        ([-INF, 0.0, 0.0], INF),
        ([0.0, -INF, -INF], 0.0),
        ([-INF, -INF, -INF], INF),
        ([np.nan, 0.0, 0.0], np.nan),
    ],
)
def test_ends_of_the_number_line(logits, expected):
    dense = jnp.array([1.0, 0.0, 0.0])
    for loss, target in ((softmax_cross_entropy, jnp.array(0)), (soft_cross_entropy, dense)):
        value, slope = jax.value_and_grad(loss)(jnp.array(logits), target)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.isfinite(slope).all() == (not np.isnan(expected))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-3}, {"soft_cap": 5.0}])
def test_nan_under_the_mask_reaches_neither_value_nor_first_nor_second_derivative(batch, options):
    logits, labels = batch
    where = np.arange(6) < 4
    poisoned = np.where(where[:, None], logits, np.nan)

    def total(x):
        return softmax_cross_entropy(x, labels, where=jnp.asarray(where), **options).sum()

    def kept(x):
        return softmax_cross_entropy(x, labels[:4], **options).sum()

    np.testing.assert_allclose(total(poisoned), kept(logits[:4]), rtol=1e-6)
    slope = jax.grad(total)(poisoned)
    np.testing.assert_array_equal(slope[4:], 0)
    np.testing.assert_allclose(slope[:4], jax.grad(kept)(logits[:4]), rtol=1e-6)
    curve = jax.grad(lambda x: jnp.sum(jax.grad(total)(x) ** 2))(poisoned)
    np.testing.assert_array_equal(curve[4:], 0)
    assert np.isfinite(curve[:4]).all()


def test_bfloat16_gradient_near_certainty_is_rounded_once():
    # p(label) is 1 - 2e-4: the label's entry is p - 1, and rounding p to bfloat16 first would make it 0 or 4e-3.
    logits = jnp.array([8.5, 0.0], jnp.bfloat16)
    slope = jax.grad(softmax_cross_entropy)(logits, jnp.array(0))
    exact = np.exp(log_softmax([8.5, 0.0])) - np.array([1.0, 0.0])
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(slope), exact, rtol=2**-8)


def test_soft_targets_need_not_sum_to_one(batch):
    logits, _ = batch
    targets = np.random.default_rng(1).random((6, 5)).astype(np.float32)
    values = soft_cross_entropy(logits, targets)
    np.testing.assert_allclose(values, -(targets * log_softmax(logits)).sum(-1), rtol=1e-5)
    slope = jax.grad(lambda x: soft_cross_entropy(x, targets).sum())(logits)
    expected = np.exp(log_softmax(logits)) * targets.sum(-1, keepdims=True) - targets
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
    by_target = jax.grad(lambda t: soft_cross_entropy(logits, t).sum())(targets)
    np.testing.assert_allclose(by_target, -log_softmax(logits), rtol=1e-5, atol=1e-6)


def test_soft_target_on_a_masked_class_is_free_only_at_zero():
    logits = jnp.array([0.0, 0.0, -INF])
    value, slope = jax.value_and_grad(soft_cross_entropy)(logits, jnp.array([0.25, 0.75, 0.0]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, [0.25, -0.25, 0.0], rtol=1e-6)
    assert float(soft_cross_entropy(logits, jnp.array([0.5, 0.25, 0.25]))) == INF


def test_sigmoid_values_weight_and_smoothing_by_hand():
    # sigmoid(log 3) = 3/4.
    logits = jnp.full(2, np.log(3.0))
    targets = jnp.array([1, 0])
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, targets), [np.log(4 / 3), np.log(4)], rtol=1e-6)
    weighted = sigmoid_cross_entropy(logits, targets, positive_weight=5.0)
    np.testing.assert_allclose(weighted, [5 * np.log(4 / 3), np.log(4)], rtol=1e-6)
    smooth = sigmoid_cross_entropy(logits, targets, label_smoothing=0.2)
    expected = [0.9 * np.log(4 / 3) + 0.1 * np.log(4), 0.1 * np.log(4 / 3) + 0.9 * np.log(4)]
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)


def test_sigmoid_weights_for_each_class():
    values = sigmoid_cross_entropy(
        jnp.zeros((2, 3)), jnp.ones((2, 3), bool), positive_weight=jnp.array([1.0, 2.0, 3.0])
    )
    np.testing.assert_allclose(values, np.log(2) * np.array([[1, 2, 3], [1, 2, 3]]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"positive_weight must be .* broadcast to the shape \(2, 3\) .*, got \(2,\)"):
        sigmoid_cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3)), positive_weight=jnp.ones(2))


@pytest.mark.parametrize(
    ("logit", "target", "expected", "slope"),
    [
        (INF, 1.0, 0.0, 0.0),
        (-INF, 0.0, 0.0, 0.0),
        (INF, 0.0, INF, 0.0),
        (-INF, 1.0, INF, 0.0),
        (1e4, 0.0, 1e4, 1.0),
        (-1e4, 1.0, 1e4, -1.0),
        (1e4, 1.0, 0.0, 0.0),
        (-50.0, 0.0, np.exp(-50), np.exp(-50)),
    ],
)
def test_sigmoid_at_the_ends_of_the_number_line(logit, target, expected, slope):
    actual = jax.value_and_grad(sigmoid_cross_entropy)(jnp.array(logit), jnp.array(target))
    np.testing.assert_allclose(actual, [expected, slope], rtol=1e-5)


def test_sigmoid_curvature_at_zero_is_a_quarter():
    assert float(jax.grad(jax.grad(sigmoid_cross_entropy))(jnp.array(0.0), jnp.array(1.0))) == 0.25


def test_errors_name_both_sides():
    logits = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"labels must have the shape \(4,\) of logits \(4, 3\).*got \(4, 3\)"):
        softmax_cross_entropy(logits, jnp.zeros((4, 3), int))
    with pytest.raises(TypeError, match=r"labels must have an integer dtype, got float32 \(shape \(4,\)\)"):
        softmax_cross_entropy(logits, jnp.zeros(4))
    with pytest.raises(TypeError, match="logits must have a floating dtype, got int32"):
        softmax_cross_entropy(jnp.zeros((4, 3), int), jnp.zeros(4, int))
    with pytest.raises(TypeError, match="where must have a boolean dtype, got float32"):
        softmax_cross_entropy(logits, jnp.zeros(4, int), where=jnp.ones(4))
    with pytest.raises(ValueError, match=r"where must have the shape \(4,\) of the result, got \(4, 1\)"):
        softmax_cross_entropy(logits, jnp.zeros(4, int), where=jnp.ones((4, 1), bool))
    with pytest.raises(ValueError, match=r"at least one class, got shape \(4, 0\)"):
        softmax_cross_entropy(jnp.zeros((4, 0)), jnp.zeros(4, int))
    with pytest.raises(ValueError, match=r"label_smoothing must be between 0 and 1, got 1\.5"):
        softmax_cross_entropy(logits, jnp.zeros(4, int), label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"smoothing_over must be one of 'all', 'others', got 'rest'"):
        softmax_cross_entropy(logits, jnp.zeros(4, int), smoothing_over="rest")
    with pytest.raises(ValueError, match=r"targets must have the shape \(4, 3\) of logits, got \(4,\)"):
        soft_cross_entropy(logits, jnp.zeros(4))
    with pytest.raises(ValueError, match=r"targets must have the shape \(4,\) of logits, got \(4, 1\)"):
        sigmoid_cross_entropy(jnp.zeros(4), jnp.zeros((4, 1)))
