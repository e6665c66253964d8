"""Lovasz-Softmax loss, a convex surrogate of the Jaccard index."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import map_rows
from lossfns._contract import AxisName, loss, one_of
from lossfns.overlap._shared import mean_over_classes, memberships, per_row


@loss(
    static=("absent", "over", "axis_name"),
    absent=one_of("skip", "keep"),
    over=one_of("example", "batch"),
)
def lovasz_softmax(
    logits: jax.Array,
    labels: jax.Array,
    *,
    absent: str = "skip",
    over: str = "batch",
    valid: jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Lovasz-Softmax loss: Jaccard loss of each class, extended to soft errors and averaged over classes.

    With the errors $m_i = |y_i - p_i|$ of a class in falling order, $m_1 \ge m_2 \ge \ldots$, it is

    $$\sum_i m_i \left(\Delta(\{1 .. i\}) - \Delta(\{1 .. i-1\})\right), \quad
    \Delta(M) = \frac{|M|}{|\{y = 1\} \cup M|}$$

    where $\Delta(M)$ is 1 minus the Jaccard index of a prediction wrong at exactly the positions $M$.

    Args:
        logits: [N, ..., C], unnormalised; the probabilities are a softmax.
        labels: [N, ...], integers in 0 .. C-1.
        absent: "skip" excludes classes without true positions from the average; "keep" includes them, at the cost of
            their largest probability.
        over: "example" sorts the positions of an example; "batch" all positions of the (global) batch, for one value.
        valid: [N, ...], boolean; False excludes the position (void pixels).
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch, for `over="batch"`.

    Returns:
        [N], from 0 to 1.

    Example:
        Each class has probability 3/4 at its position and 1/4 at the other's: errors of 1/4 and 1/4, with steps of the
        Jaccard loss that add to 1.

        >>> logits = jnp.log(jnp.array([[[3.0, 1.0], [1.0, 3.0]]]))
        >>> print(lovasz_softmax(logits, jnp.array([[0, 1]])).round(4))
        [0.25]

    Conventions:
        The paper's code takes probabilities, and first averaged over all classes (`absent="keep"`), later over present
        ones. Its binary form is a hinge of the logits, not this. Ties have the same value in any order and the
        gradient of one order.

    References:
        Berman et al. 2018, arXiv:1705.08790.
    """
    given = memberships(logits, labels, valid, where, one_class=True)
    errors = jnp.abs(given.true - given.predicted)
    true = given.true
    if over == "batch":
        errors, true = (x.reshape(1, -1, x.shape[-1]) for x in (errors, true))
        if axis_name is not None:
            errors, true = jax.lax.all_gather((errors, true), axis_name, axis=1, tiled=True)
    size = jnp.sum(true, axis=1, keepdims=True)

    def steps(classes: jax.Array) -> jax.Array:
        """For some classes [C, N, positions], the weight of the error at each position."""
        errors, true, size = (jnp.moveaxis(jnp.take(x, classes, axis=-1), -1, 0) for x in fixed)
        # Absent positions have no error and no class: they come last, or among others at no cost.
        order = jnp.argsort(-errors, axis=-1)
        is_true = jnp.take_along_axis(true, order, axis=-1)
        union = size + jnp.cumsum(1 - is_true, axis=-1)
        jaccard = 1 - (size - jnp.cumsum(is_true, axis=-1)) / jnp.where(union == 0, 1, union)
        sorted_steps = jnp.diff(jaccard, axis=-1, prepend=0)
        return jnp.put_along_axis(jnp.zeros_like(errors), order, sorted_steps, axis=-1, inplace=False)

    fixed = jax.lax.stop_gradient((errors, true, size))
    weights = jnp.moveaxis(map_rows(steps, jnp.arange(size.shape[-1]), 8 * errors[..., 0].size), 0, -1)
    values = mean_over_classes(jnp.sum(errors * weights, axis=1), size[:, 0], absent)
    return per_row(values, given)
