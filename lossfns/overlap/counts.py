"""Losses from soft counts of true positives, false positives and false negatives."""

import jax
import jax.numpy as jnp

from lossfns._contract import AxisName, as_scalar, flag, loss, non_negative, one_of, positive
from lossfns.overlap._shared import Memberships, mean_over_classes, memberships, per_row, ratio, total


@loss(
    static=("average", "absent", "axis_name"),
    average=one_of("macro", "micro"),
    absent=one_of("skip", "keep"),
    smooth=non_negative,
)
def soft_f1(
    logits: jax.Array,
    labels: jax.Array,
    *,
    average: str = "macro",
    smooth: float | jax.Array = 0.0,
    absent: str = "skip",
    valid: jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""1 - F1 of the batch, with probabilities instead of counts.

    $$1 - \frac{2\,TP}{2\,TP + FP + FN}$$

    with $TP = \sum p\, y$, $FP = \sum p\,(1 - y)$ and $FN = \sum (1 - p)\, y$ over the (global) batch, not a mean over
    examples.

    Args:
        logits: [N, ..., C], unnormalised; axes of positions, such as tokens or pixels, may lie in between.
        labels: [N, ...], integers in 0 .. C-1, for a softmax; or [N, ..., C], memberships from 0 to 1 (any real
            dtype), for sigmoids.
        average: "macro" averages the scores of the classes; "micro" is one score of all counts.
        smooth: Added to numerator and denominator of a score.
        absent: "skip" excludes classes without true positions from the macro average; "keep" includes them, at cost 1
            up to smoothing, or 0 if the prediction is empty too.
        valid: [N, ...], boolean; False excludes the position (padding, void pixels).
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], from 0 to 1, the batch's value at every present example; 0 without any true position. A label out of range
        makes it NaN.

    Example:
        Two positives, predicted at 1/2: TP 1, FP 0, FN 1, so the score is 2/3.

        >>> print(soft_f1(jnp.zeros((2, 1)), jnp.ones((2, 1))).round(4))
        [0.3333 0.3333]

    Conventions:
        Micro over single labels is a soft error rate. The mean of per-batch scores is not the score of the data set,
        but approaches it for larger batches. Some code averages over all classes ("keep"): an absent class then adds a
        constant with almost no gradient.

    References:
        Van Rijsbergen 1979 (the measure). Pastor-Pellicer et al. 2013, doi:10.1007/978-3-642-38679-4_37. Benedict et
        al. 2021, arXiv:2108.10566 (with sigmoids).
    """
    given = memberships(logits, labels, valid, where)
    wrong, sizes = _disagreement(given, "batch", axis_name)
    there = total(given.true, "batch", axis_name)
    if average == "micro":
        wrong, sizes = (jnp.sum(x, axis=-1, keepdims=True) for x in (wrong, sizes))
        there = jnp.sum(there, axis=-1, keepdims=True)
    costs = ratio(wrong, sizes + as_scalar(smooth, wrong.dtype))
    return per_row(mean_over_classes(costs, there, absent), given)


@loss(
    static=("squared", "over", "absent", "axis_name"),
    squared=flag,
    over=one_of("example", "batch"),
    absent=one_of("skip", "keep"),
    smooth=non_negative,
)
def dice(
    logits: jax.Array,
    labels: jax.Array,
    *,
    squared: bool = True,
    smooth: float | jax.Array = 0.0,
    absent: str = "skip",
    over: str = "example",
    valid: jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""1 - Dice coefficient of predicted and true regions, averaged over classes.

    $$1 - \frac{2 \sum p\, y}{\sum p^2 + \sum y^2}$$

    Args:
        logits: [N, ..., C], unnormalised, class logits of each position.
        labels: [N, ...], integers for a softmax, or [N, ..., C] for sigmoids; as for `soft_f1`.
        squared: Whether the denominator has squares, as in the paper, or plain probabilities.
        smooth: Added to numerator and denominator.
        absent: "skip" or "keep" for classes without true positions, as for `soft_f1`.
        over: "example" sums over the positions of an example; "batch" over the (global) batch, with one value for
            all present examples.
        valid: [N, ...], boolean; False excludes the position.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1; 0 without any true position.

    Example:
        Four positions, two true, all predicted at 1/2: 1 - 2 * 1 / (4/4 + 2).

        >>> labels = jnp.array([[[1], [1], [0], [0]]])
        >>> print(dice(jnp.zeros((1, 4, 1)), labels).round(4))
        [0.3333]

    Conventions:
        MONAI, nnU-Net and Optax default to `squared=False` (here 1/2) and add a little to both parts: `smooth`; with
        `absent="keep"` a class absent from both then costs little. MONAI and nnU-Net add about 1e-5. Optax halves both
        parts before adding 1, which is `smooth=2` here: in the example 1 - 4/6, not 1 - 3/5. nnU-Net's `batch_dice` is
        `over="batch"`.

    References:
        Milletari et al. 2016, arXiv:1606.04797 (V-Net). Drozdzal et al. 2016, arXiv:1608.04117.
    """
    given = memberships(logits, labels, valid, where)
    if squared:
        wrong = total(jnp.square(given.predicted - given.true), over, axis_name)
        sizes = total(jnp.square(given.predicted) + jnp.square(given.true), over, axis_name)
    else:
        wrong, sizes = _disagreement(given, over, axis_name)
    costs = ratio(wrong, sizes + as_scalar(smooth, wrong.dtype))
    return per_row(mean_over_classes(costs, total(given.true, over, axis_name), absent), given)


@loss(
    static=("class_weights", "absent", "over", "axis_name"),
    class_weights=one_of("square", "simple", "uniform"),
    absent=one_of("skip", "largest"),
    over=one_of("example", "batch"),
    smooth=non_negative,
)
def generalized_dice(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: str = "square",
    smooth: float | jax.Array = 0.0,
    absent: str = "skip",
    over: str = "example",
    valid: jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""1 - generalised Dice score: one ratio for all classes, with larger weights for small regions.

    $$1 - 2\, \frac{\sum_c w_c \sum p_c\, y_c}{\sum_c w_c \sum (p_c + y_c)}, \quad
    w_c = \left(\sum y_c\right)^{-2}$$

    Args:
        logits: [N, ..., C], unnormalised, class logits of each position.
        labels: [N, ...], integers for a softmax, or [N, ..., C] for sigmoids; as for `soft_f1`.
        class_weights: "square" is the paper's, "simple" the inverse size, "uniform" 1.
        smooth: Added to numerator and denominator.
        absent: A class without true positions would have infinite weight: "skip" excludes it, "largest" gives it the
            weight of the smallest present class.
        over: "example" or "batch", the positions to sum over; as for `dice`.
        valid: [N, ...], boolean; False excludes the position.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1; 0 without any true position.

    Example:
        Sizes 1 and 2, so weights 1 and 1/4; all predicted at 1/2: 1 - 2 * 3/4 / (5/2 + 7/8).

        >>> print(generalized_dice(jnp.zeros((1, 3, 2)), jnp.array([[0, 1, 1]])).round(4))
        [0.5556]

    Conventions:
        MONAI gives absent classes the largest weight. Optax's `multiclass_generalized_dice_loss` and NiftyNet add small
        numbers to sizes, so that an absent class has almost all of the weight; Optax averages the classes' scores by
        weight instead of taking one ratio.

    References:
        Sudre et al. 2017, arXiv:1707.03237. Crum et al. 2006, doi:10.1109/TMI.2006.880587.
    """
    given = memberships(logits, labels, valid, where)
    wrong, sizes = _disagreement(given, over, axis_name)
    there = total(given.true, over, axis_name)
    exists = there != 0
    power = {"square": 2, "simple": 1, "uniform": 0}[class_weights]
    weights = jnp.where(exists, 1 / jnp.where(exists, there, 1) ** power, 0)
    if absent == "largest":
        weights = jnp.where(exists, weights, jnp.max(weights, axis=-1, keepdims=True))
    # Only their ratios matter; for large regions the weights alone would underflow.
    largest = jnp.max(weights, axis=-1, keepdims=True)
    weights, scale = ratio(weights, largest), ratio(jnp.ones_like(largest), largest)[..., 0]
    smoothing = as_scalar(smooth, wrong.dtype) * scale
    return per_row(ratio(jnp.sum(weights * wrong, -1), jnp.sum(weights * sizes, -1) + smoothing), given)


@loss(
    static=("absent", "over", "axis_name"),
    alpha=non_negative,
    beta=non_negative,
    absent=one_of("skip", "keep"),
    over=one_of("example", "batch"),
    smooth=non_negative,
)
def tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | jax.Array = 0.3,
    beta: float | jax.Array = 0.7,
    smooth: float | jax.Array = 0.0,
    absent: str = "skip",
    over: str = "example",
    valid: jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""1 - Tversky index, with separate weights for false positives and false negatives, averaged over classes.

    $$1 - \frac{TP}{TP + \alpha\, FP + \beta\, FN}$$

    Args:
        logits: [N, ..., C], unnormalised, class logits of each position.
        labels: [N, ...], integers for a softmax, or [N, ..., C] for sigmoids; as for `soft_f1`.
        alpha: Weight of false positives.
        beta: Weight of false negatives; larger values favour recall of small regions.
        smooth: Added to numerator and denominator.
        absent: "skip" or "keep" for classes without true positions, as for `soft_f1`.
        over: "example" or "batch", the positions to sum over; as for `dice`.
        valid: [N, ...], boolean; False excludes the position.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1; 0 without any true position.

    Example:
        Four positions, two true, all predicted at 1/2: TP, FP and FN are 1 each, so the index is 1/2.

        >>> print(tversky(jnp.zeros((1, 4, 1)), jnp.array([[[1], [1], [0], [0]]])))
        [0.5]

    Conventions:
        With 1/2 and 1/2 the index is Dice's without squares, with 1 and 1 Jaccard's. In the paper and MONAI alpha
        weights the false positives; in the focal Tversky paper (and Keras's `Tversky`) the false negatives.

    References:
        Salehi et al. 2017, arXiv:1706.05721. Tversky 1977, doi:10.1037/0033-295X.84.4.327.
    """
    given = memberships(logits, labels, valid, where)
    costs = _tversky_costs(given, alpha, beta, smooth, over, axis_name)
    return per_row(mean_over_classes(costs, total(given.true, over, axis_name), absent), given)


@loss(
    static=("absent", "over", "axis_name"),
    alpha=non_negative,
    beta=non_negative,
    gamma=positive,
    absent=one_of("skip", "keep"),
    over=one_of("example", "batch"),
    smooth=non_negative,
)
def focal_tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | jax.Array = 0.3,
    beta: float | jax.Array = 0.7,
    gamma: float | jax.Array = 4 / 3,
    smooth: float | jax.Array = 0.0,
    absent: str = "skip",
    over: str = "example",
    valid: jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Focal Tversky loss: the Tversky loss of each class to the power $1 / \gamma$, averaged over classes.

    $$\left(1 - \frac{TP}{TP + \alpha\, FP + \beta\, FN}\right)^{1 / \gamma}$$

    Args:
        logits: [N, ..., C], unnormalised, class logits of each position.
        labels: [N, ...], integers for a softmax, or [N, ..., C] for sigmoids; as for `soft_f1`.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        gamma: Above 1 the gradient grows as a class improves; below 1 it fades.
        smooth: Added to numerator and denominator of the index.
        absent: "skip" or "keep" for classes without true positions, as for `soft_f1`.
        over: "example" or "batch", the positions to sum over; as for `dice`.
        valid: [N, ...], boolean; False excludes the position.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1; 0 without any true position. A class without error has gradient 0, where the power alone would
        have an infinite one.

    Example:
        An index of 1/2 (see `tversky`) at gamma 1/2.

        >>> print(focal_tversky(jnp.zeros((1, 4, 1)), jnp.array([[[1], [1], [0], [0]]]), gamma=0.5))
        [0.25]

    Conventions:
        The paper's exponent is $1/\gamma$ with gamma 4/3, and its authors' code has the power 0.75; code with a power
        of gamma = 4/3 does the opposite. The paper's alpha is for false negatives (0.7), its beta for false positives;
        here they are as in `tversky`. The paper sums over classes; here they are averaged, after taking the power;
        segmentation_models.pytorch averages before.

    References:
        Abraham and Khan 2018, arXiv:1810.07842.
    """
    given = memberships(logits, labels, valid, where)
    costs = _tversky_costs(given, alpha, beta, smooth, over, axis_name)
    none = costs == 0
    powers = jnp.where(none, 0, jnp.where(none, 1, costs) ** (1 / as_scalar(gamma, costs.dtype)))
    return per_row(mean_over_classes(powers, total(given.true, over, axis_name), absent), given)


def _errors(given: Memberships, over: str, axis_name: AxisName) -> tuple[jax.Array, jax.Array]:
    """False positives and false negatives."""
    p, y = given.predicted, given.true
    false_negatives = (1 - p) * y
    return total(p * (1 - y), over, axis_name), total(false_negatives, over, axis_name)


def _disagreement(given: Memberships, over: str, axis_name: AxisName) -> tuple[jax.Array, jax.Array]:
    """FP + FN, and the sum of both regions' sizes, 2 TP + FP + FN."""
    p, y = given.predicted, given.true
    return total(p * (1 - y) + (1 - p) * y, over, axis_name), total(p + y, over, axis_name)


def _tversky_costs(
    given: Memberships,
    alpha: float | jax.Array,
    beta: float | jax.Array,
    smooth: float | jax.Array,
    over: str,
    axis_name: AxisName,
) -> jax.Array:
    dtype = given.predicted.dtype
    false_positives, false_negatives = _errors(given, over, axis_name)
    wrong = as_scalar(alpha, dtype) * false_positives + as_scalar(beta, dtype) * false_negatives
    right = total(given.predicted * given.true, over, axis_name)
    return ratio(wrong, right + wrong + as_scalar(smooth, dtype))
