"""Binary and multi-class hinge losses."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_labels,
    check_shape,
    check_where,
    keep_rows,
    loss,
    nan_where_invalid,
    one_of,
    positive,
    zero_masked,
)
from lossfns._numerics import at_label


def _shortfall(
    predictions: jax.Array, targets: jax.Array, margin: float | jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns max(0, margin - t x) with gradient 0 at the corner, whether each target is -1 or 1, and the mask."""
    check_array("predictions", predictions)
    check_array("targets", targets, "real")
    check_shape("targets", targets, predictions.shape, "of predictions")
    where = check_where(where, predictions.shape)
    dtype = accumulation_dtype(predictions, targets)
    x, t = keep_rows(where, predictions).astype(dtype), keep_rows(where, targets, 1).astype(dtype)
    missing = as_scalar(margin, dtype) - t * x
    return jnp.where(missing <= 0, 0, missing), (t == 1) | (t == -1), where


@loss(margin=positive)
def hinge(
    predictions: jax.Array, targets: jax.Array, *, margin: float | jax.Array = 1.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Hinge loss, $\max(0, m - t x)$ with $t = \pm 1$.

    Args:
        predictions: [...], scores; positive predicts target 1.
        targets: [...], the same shape, -1 or 1; any real dtype.
        margin: m, the score at which a right prediction costs nothing.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], units of the scores. A target other than -1 and 1 gives NaN: map 0 and 1 by `2 * targets - 1`. At the
        corner the gradient is 0.

    Example:
        >>> print(hinge(jnp.array([0.25, -0.5, 2.0]), jnp.array([1, 1, 1])))
        [0.75 1.5  0.  ]

    Conventions:
        Optax and scikit-learn have the same; Keras silently converts targets of 0 to -1.

    References:
        Cortes and Vapnik 1995, doi:10.1007/BF00994018.
    """
    missing, valid, where = _shortfall(predictions, targets, margin, where)
    return zero_masked(where, nan_where_invalid(valid, missing))


@loss(margin=positive)
def squared_hinge(
    predictions: jax.Array, targets: jax.Array, *, margin: float | jax.Array = 1.0, where: jax.Array | None = None
) -> jax.Array:
    r"""Squared hinge loss, $\max(0, m - t x)^2$ with $t = \pm 1$.

    Args:
        predictions: [...], scores; positive predicts target 1.
        targets: [...], the same shape, -1 or 1; any real dtype.
        margin: m, the score at which a right prediction costs nothing.
        where: [...], boolean; False excludes the entry.

    Returns:
        [...], squared units of the scores. A target other than -1 and 1 gives NaN: map 0 and 1 by `2 * targets - 1`.

    Example:
        >>> print(squared_hinge(jnp.array([0.5, -0.5, 2.0]), jnp.array([1, 1, 1])))
        [0.25 2.25 0.  ]

    Conventions:
        Some texts halve it. Keras silently converts targets of 0 to -1.

    References:
        Tang 2013, arXiv:1306.0239.
    """
    missing, valid, where = _shortfall(predictions, targets, margin, where)
    return zero_masked(where, nan_where_invalid(valid, jnp.square(missing)))


@loss(static=("form",), form=one_of("crammer_singer", "weston_watkins"), margin=positive)
def multiclass_hinge(
    logits: jax.Array,
    labels: jax.Array,
    *,
    form: str = "crammer_singer",
    margin: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Hinge loss over exclusive classes.

    $$\max_{k \ne y} \max(0, m + x_k - x_y) \quad \text{or} \quad \sum_{k \ne y} \max(0, m + x_k - x_y)$$

    Args:
        logits: [..., V], scores; a class at -inf is masked.
        labels: [...], integers in 0 .. V-1.
        form: "crammer_singer" takes the maximum over the other classes, "weston_watkins" the sum.
        margin: m, the lead that the label's score needs.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], units of the scores. A label of a masked class gives inf. The gradient is 0 at a corner and is
        shared evenly by ties.

    Example:
        The label leads one class by 0.5 and trails the other by 1.

        >>> logits = jnp.array([[1.0, 0.5, 2.0]])
        >>> print(multiclass_hinge(logits, jnp.array([0])))
        [2.]
        >>> print(multiclass_hinge(logits, jnp.array([0]), form="weston_watkins"))
        [2.5]

    Conventions:
        Optax has the Crammer-Singer form. torch's `MultiMarginLoss` is Weston-Watkins divided by V.

    References:
        Crammer and Singer 2001, JMLR 2:265-292. Weston and Watkins 1999, ESANN.
    """
    labels, in_range, where = check_labels(logits, labels, where)
    x = keep_rows(where, logits).astype(accumulation_dtype(logits))
    is_label = at_label(labels, x.shape[-1])
    label = jnp.sum(jnp.where(is_label, x, 0), axis=-1, keepdims=True)
    rival = ~is_label & (x > -jnp.inf) | jnp.isnan(x)
    missing = as_scalar(margin, x.dtype) + jnp.where(rival, x, 0) - label
    missing = jnp.where(rival & ~(missing <= 0), missing, 0)
    values = jnp.max(missing, axis=-1) if form == "crammer_singer" else jnp.sum(missing, axis=-1)
    return zero_masked(where, nan_where_invalid(in_range, values))
