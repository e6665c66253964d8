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
    r"""1 - F1 of the batch, with probabilities in place of counts.

    $$1 - \frac{2\,TP}{2\,TP + FP + FN}$$

    with $TP = \sum p\, y$, $FP = \sum p\,(1 - y)$ and $FN = \sum (1 - p)\, y$ over the (global) batch. A score is not a
    mean of scores of examples, so this is one number of the batch: every present example carries it, and the weighted
    mean over examples is the number itself.

    Args:
        logits: [N, ..., C], unnormalised; places such as tokens or pixels may lie between examples and classes.
        labels: [N, ...], integers in 0 .. C-1, one class for each place: the probabilities are a softmax. Or
            [N, ..., C], memberships from 0 to 1 (any real dtype) of classes that exclude nothing: they are sigmoids.
        average: "macro" has a score for each class and averages them; "micro" one score of all counts together.
        smooth: Added to numerator and denominator of a score.
        absent: "skip" leaves classes without any true place out of the macro average; "keep" includes them, at cost 1
            but for the smoothing, or 0 if the prediction is empty too.
        valid: [N, ...], boolean; False leaves the place out of all counts (padding, void pixels).
        where: [N], boolean; False deletes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], from 0 to 1, the batch's value at every present example and 0 at masked ones; 0 if no class has a true
        place. A label out of range makes the batch's value NaN.

    Example:
        Two positives found to 1/2 and no other example: TP 1, FP 0, FN 1, so the score is 2/3.

        >>> print(soft_f1(jnp.zeros((2, 1)), jnp.ones((2, 1))).round(4))
        [0.3333 0.3333]

    Conventions:
        Micro over single labels is a soft error rate. Optimising the mean of per-batch scores is not optimising the
        score of the data set: the larger the batch, the closer. Some code averages over all classes; a class that is
        absent then adds a constant with hardly any gradient ("keep").

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
    r"""1 - Dice coefficient of soft and true regions, averaged over classes.

    $$1 - \frac{2 \sum p\, y}{\sum p^2 + \sum y^2}$$

    Args:
        logits: [N, ..., C], unnormalised, one row of classes for each place.
        labels: [N, ...], integers in 0 .. C-1, for a softmax; or [N, ..., C], memberships from 0 to 1 (any real
            dtype), for sigmoids.
        squared: Whether the denominator has squares, as in the paper, or the probabilities themselves.
        smooth: Added to numerator and denominator.
        absent: "skip" leaves classes without any true place out of the average; "keep" includes them, at cost 1 but
            for the smoothing, or 0 if the prediction is empty too.
        over: "example" sums over the places of an example; "batch" over the (global) batch, and gives its value to
            every present example.
        valid: [N, ...], boolean; False leaves the place out of all sums.
        where: [N], boolean; False deletes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1, and 0 if no class has a true place. A label out of range gives NaN.

    Example:
        Four places, two of them true, all predicted at 1/2: 1 - 2 * 1 / (4/4 + 2).

        >>> labels = jnp.array([[[1], [1], [0], [0]]])
        >>> print(dice(jnp.zeros((1, 4, 1)), labels).round(4))
        [0.3333]

    Conventions:
        MONAI, nnU-Net and Optax default to `squared=False` (here 1/2) and add a little to both parts; that is `smooth`,
        and with `absent="keep"` a class absent from both then costs little. MONAI and nnU-Net add about 1e-5. Optax
        halves both parts before it adds its 1, which is `smooth=2` here: in the example 1 - 4/6, not 1 - 3/5.
        nnU-Net's `batch_dice` is `over="batch"`.

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
        logits: [N, ..., C], unnormalised, one row of classes for each place.
        labels: [N, ...], integers in 0 .. C-1, for a softmax; or [N, ..., C], memberships from 0 to 1 (any real
            dtype), for sigmoids.
        class_weights: "square" is the paper's; "simple" the inverse of the size; "uniform" one.
        smooth: Added to numerator and denominator.
        absent: A class without any true place would have infinite weight: "skip" gives it none, "largest" the weight of
            the smallest present class.
        over: "example" sums over the places of an example; "batch" over the (global) batch, and gives its value to
            every present example.
        valid: [N, ...], boolean; False leaves the place out of all sums.
        where: [N], boolean; False deletes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1, and 0 if no class has a true place. A label out of range gives NaN.

    Example:
        Sizes 1 and 2, so weights 1 and 1/4; every place predicted at 1/2: 1 - 2 * 3/4 / (5/2 + 7/8).

        >>> print(generalized_dice(jnp.zeros((1, 3, 2)), jnp.array([[0, 1, 1]])).round(4))
        [0.5556]

    Conventions:
        MONAI gives absent classes the largest weight; Optax's `multiclass_generalized_dice_loss` and NiftyNet add small
        numbers to sizes, by which an absent class has nearly all of the weight; Optax's is a weighted mean of the
        scores of the classes, not one ratio.

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
    # Only their ratios matter; of large regions the weights alone would vanish.
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
        logits: [N, ..., C], unnormalised, one row of classes for each place.
        labels: [N, ...], integers in 0 .. C-1, for a softmax; or [N, ..., C], memberships from 0 to 1 (any real
            dtype), for sigmoids.
        alpha: Weight of false positives.
        beta: Weight of false negatives; more of it finds more of a small region.
        smooth: Added to numerator and denominator.
        absent: "skip" leaves classes without any true place out of the average; "keep" includes them, at cost 1 but
            for the smoothing, or 0 if the prediction is empty too.
        over: "example" sums over the places of an example; "batch" over the (global) batch, and gives its value to
            every present example.
        valid: [N, ...], boolean; False leaves the place out of all sums.
        where: [N], boolean; False deletes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1, and 0 if no class has a true place. A label out of range gives NaN.

    Example:
        Four places, two of them true, all predicted at 1/2: TP, FP and FN are 1 each, so the index is 1/2.

        >>> print(tversky(jnp.zeros((1, 4, 1)), jnp.array([[[1], [1], [0], [0]]])))
        [0.5]

    Conventions:
        The index at 1/2 and 1/2 is Dice's without squares, at 1 and 1 Jaccard's. In the paper and in MONAI alpha weighs
        the false positives; in the focal Tversky paper (and Keras's `Tversky`) it weighs the false negatives.

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
        logits: [N, ..., C], unnormalised, one row of classes for each place.
        labels: [N, ...], integers in 0 .. C-1, for a softmax; or [N, ..., C], memberships from 0 to 1 (any real
            dtype), for sigmoids.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        gamma: Above 1 the gradient grows as a class gets better; below 1 it fades.
        smooth: Added to numerator and denominator of the index.
        absent: "skip" leaves classes without any true place out of the average; "keep" includes them, at cost 1 but
            for the smoothing, or 0 if the prediction is empty too.
        over: "example" sums over the places of an example; "batch" over the (global) batch, and gives its value to
            every present example.
        valid: [N, ...], boolean; False leaves the place out of all sums.
        where: [N], boolean; False deletes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1, and 0 if no class has a true place. A label out of range gives NaN. A class without
        error has gradient 0, where the power alone would have an infinite one.

    Example:
        An index of 1/2 (see `tversky`), at gamma 1/2.

        >>> print(focal_tversky(jnp.zeros((1, 4, 1)), jnp.array([[[1], [1], [0], [0]]]), gamma=0.5))
        [0.25]

    Conventions:
        The paper's exponent is $1/\gamma$ with gamma 4/3, and its authors' code takes the power 0.75; code with a power
        of gamma = 4/3 does the opposite. The paper writes alpha for false negatives (0.7) and beta for false positives;
        here the names are those of `tversky`. It sums over classes; here they are averaged. The power is taken for each
        class before the average; segmentation_models.pytorch takes it after.

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
    """FP + FN, and both regions' sizes together, 2 TP + FP + FN."""
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
