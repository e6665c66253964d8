"""Penalties on parameters: functions of parameter trees that return a scalar, a term of weight 1."""

from typing import Any

import jax
import jax.numpy as jnp

from lossfns._contract import accumulation_dtype, as_scalar, check_array, check_shape, flag, loss, non_negative, one_of
from lossfns._numerics import magnitude

PyTree = Any


def _leaves(name: str, params: PyTree) -> list[tuple[str, jax.Array]]:
    """The floating arrays of a pytree with their paths."""
    named = [(name + jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    return [(path, check_array(path, leaf)) for path, leaf in named]


def _pairs(name: str, params: PyTree, other_name: str, other: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """The leaves of two pytrees of the same structure and shapes, in float32 or wider."""
    ours, theirs = str(jax.tree.structure(params)), str(jax.tree.structure(other))
    if ours != theirs:
        raise ValueError(f"{other_name} must have the structure of {name}, {ours}, got {theirs}")
    pairs = []
    for (path, x), (other_path, y) in zip(_leaves(name, params), _leaves(other_name, other), strict=True):
        check_shape(other_path, y, x.shape, f"of {path}")
        dtype = accumulation_dtype(x, y)
        pairs.append((x.astype(dtype), y.astype(dtype)))
    return pairs


def _differences(name: str, params: PyTree, other_name: str, other: PyTree) -> list[jax.Array]:
    return [x - y for x, y in _pairs(name, params, other_name, other)]


def _weighted_total(weight: float | jax.Array, parts: list[jax.Array]) -> jax.Array:
    """Weight times the sum of scalars, 0 for none."""
    dtype = accumulation_dtype(*parts)
    return as_scalar(weight, dtype) * sum((part.astype(dtype) for part in parts), jnp.zeros((), dtype))


def _sum_of_squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.astype(accumulation_dtype(x))))


@loss(weight=non_negative)
def l1(params: PyTree, *, weight: float | jax.Array = 1.0) -> jax.Array:
    r"""L1 penalty, $\lambda \sum_i |\theta_i|$, with gradient 0 at 0.

    Args:
        params: Any pytree of floating arrays.
        weight: $\lambda$.

    Returns:
        A scalar; 0 for an empty pytree.

    Example:
        >>> float(l1({"w": jnp.array([3.0, -4.0]), "b": jnp.array(1.0)}, weight=0.5))
        4.0

    References:
        Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x.
    """
    return _weighted_total(
        weight, [jnp.sum(magnitude(x.astype(accumulation_dtype(x)))) for _, x in _leaves("params", params)]
    )


@loss(static=("half",), weight=non_negative, half=flag)
def l2(params: PyTree, *, weight: float | jax.Array = 1.0, half: bool = False) -> jax.Array:
    r"""Squared L2 penalty, $\lambda \sum_i \theta_i^2$.

    Args:
        params: Any pytree of floating arrays.
        weight: $\lambda$.
        half: Whether to multiply by 1/2, so that the gradient is $\lambda \theta$.

    Returns:
        A scalar; 0 for an empty pytree.

    Example:
        >>> float(l2({"w": jnp.array([3.0, -4.0])}))
        25.0
        >>> float(l2({"w": jnp.array([3.0, -4.0])}, half=True))
        12.5

    Conventions:
        With `half=True` the weight is the `weight_decay` of plain gradient descent and torch's SGD; Keras's `L2` and
        this default have no half. Under Adam neither is AdamW's decoupled decay (Loshchilov and Hutter 2019,
        arXiv:1711.05101).
    """
    total = _weighted_total(weight, [_sum_of_squares(x) for _, x in _leaves("params", params)])
    return total / 2 if half else total


@loss(static=("half",), weight=non_negative, half=flag)
def proximal(params: PyTree, anchor: PyTree, *, weight: float | jax.Array = 1.0, half: bool = False) -> jax.Array:
    r"""Squared distance to anchor parameters, $\lambda \lVert \theta - \theta_0 \rVert^2$.

    The anchor gets a gradient too, for meta-learning; apply `stop_gradient` to a constant anchor.

    Args:
        params: $\theta$, any pytree of floating arrays.
        anchor: $\theta_0$, a pytree of the same structure and shapes.
        weight: $\lambda$.
        half: Whether to multiply by 1/2.

    Returns:
        A scalar; 0 for an empty pytree.

    Example:
        >>> float(proximal({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 0.0])}, weight=2.0))
        50.0

    Conventions:
        iMAML writes $\tfrac{\lambda}{2}$ and FedProx $\tfrac{\mu}{2}$: `half=True`.

    References:
        Rajeswaran et al. 2019, arXiv:1909.04630 (iMAML). Li et al. 2018, arXiv:1812.06127 (FedProx).
    """
    total = _weighted_total(weight, [_sum_of_squares(d) for d in _differences("params", params, "anchor", anchor)])
    return total / 2 if half else total


@loss(l1_weight=non_negative, l2_weight=non_negative)
def elastic_net(params: PyTree, *, l1_weight: float | jax.Array = 1.0, l2_weight: float | jax.Array = 1.0) -> jax.Array:
    r"""Elastic net, $\lambda_1 \sum_i |\theta_i| + \lambda_2 \sum_i \theta_i^2$.

    Args:
        params: Any pytree of floating arrays.
        l1_weight: $\lambda_1$.
        l2_weight: $\lambda_2$.

    Returns:
        A scalar; 0 for an empty pytree. The gradient of the first term is 0 at 0.

    Example:
        >>> float(elastic_net({"w": jnp.array([3.0, -4.0])}, l1_weight=2.0, l2_weight=0.5))
        26.5

    Conventions:
        This is the paper's "naive" elastic net. scikit-learn's and glmnet's `alpha` and `l1_ratio` are
        `l1_weight = alpha * l1_ratio` and `l2_weight = alpha * (1 - l1_ratio) / 2`.

    References:
        Zou and Hastie 2005, doi:10.1111/j.1467-9868.2005.00503.x.
    """
    leaves = [x.astype(accumulation_dtype(x)) for _, x in _leaves("params", params)]
    first = _weighted_total(l1_weight, [jnp.sum(magnitude(x)) for x in leaves])
    return first + _weighted_total(l2_weight, [_sum_of_squares(x) for x in leaves])


@loss(start_weight=non_negative, new_weight=non_negative)
def l2_sp(
    params: PyTree,
    start: PyTree,
    new: PyTree,
    *,
    start_weight: float | jax.Array = 0.1,
    new_weight: float | jax.Array = 0.01,
) -> jax.Array:
    r"""L2 penalty towards the starting point of fine-tuning (L2-SP).

    $$\tfrac{\alpha}{2} \lVert \theta - \theta_0 \rVert^2 + \tfrac{\beta}{2} \lVert \nu \rVert^2$$

    Args:
        params: $\theta$, the parameters that the pretrained model has too; any pytree of floating arrays.
        start: $\theta_0$, their pretrained values, a pytree of the same structure and shapes.
        new: $\nu$, the new parameters, such as the head's; any pytree, `{}` for none.
        start_weight: $\alpha$.
        new_weight: $\beta$.

    Returns:
        A scalar.

    Example:
        >>> float(l2_sp(jnp.array([5.0]), jnp.array([3.0]), jnp.array([4.0]), start_weight=1.0, new_weight=0.5))
        6.0

    Conventions:
        The paper searches both weights (0.001 to 0.1 and more); 0.01 is usual for the new parameters. Both terms have
        the half, unlike `proximal`.

    References:
        Li et al. 2018, arXiv:1802.01483.
    """
    differences = _differences("params", params, "start", start)
    moved = _weighted_total(start_weight, [_sum_of_squares(d) for d in differences])
    return (moved + _weighted_total(new_weight, [_sum_of_squares(x) for _, x in _leaves("new", new)])) / 2


@loss(weight=non_negative)
def ewc(params: PyTree, anchor: PyTree, fisher: PyTree, *, weight: float | jax.Array = 1.0) -> jax.Array:
    r"""Elastic weight consolidation, $\tfrac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2$.

    Args:
        params: $\theta$, any pytree of floating arrays.
        anchor: $\theta^*$, the parameters after the old task, a pytree of the same structure and shapes.
        fisher: $F$, the diagonal of the Fisher information there (see `fisher_diagonal`), a pytree of the same
            structure and shapes.
        weight: $\lambda$, importance of the old task.

    Returns:
        A scalar. A negative Fisher information gives NaN.

    Example:
        >>> float(ewc(jnp.array([3.0, 1.0]), jnp.array([1.0, 0.0]), jnp.array([0.5, 4.0])))
        3.0

    Conventions:
        With the paper's half, which much code omits. For several old tasks add one term each, or sum the Fisher
        information.

    References:
        Kirkpatrick et al. 2017, arXiv:1612.00796.
    """
    differences = _differences("params", params, "anchor", anchor)
    informations = [f for _, f in _pairs("params", params, "fisher", fisher)]
    parts = []
    for d, f in zip(differences, informations, strict=True):
        dtype = accumulation_dtype(d, f)
        parts.append(jnp.sum(jnp.where(f >= 0, f, jnp.nan).astype(dtype) * jnp.square(d.astype(dtype))))
    return _weighted_total(weight, parts) / 2


@loss(static=("side",), weight=non_negative, side=one_of("columns", "rows", "both"))
def orthogonality(params: PyTree, *, weight: float | jax.Array = 1.0, side: str = "columns") -> jax.Array:
    r"""Soft orthogonality of matrices, $\lambda \sum_W \lVert W^\top W - I \rVert_F^2$.

    Args:
        params: Any pytree of floating matrices [inputs, outputs]; in kernels of convolutions, [..., inputs, outputs],
            all axes but the last count as inputs.
        weight: $\lambda$.
        side: "columns" for the penalty above, towards orthonormal columns; "rows" for $W W^\top$; "both" for the sum.

    Returns:
        A scalar; 0 for an empty pytree.

    Example:
        Orthogonal columns of length 1 cost nothing; at length 2 each costs (4 - 1) squared.

        >>> float(orthogonality(jnp.eye(2))), float(orthogonality(2 * jnp.eye(2)))
        (0.0, 18.0)

    Conventions:
        "columns" is the paper's SO, "both" its double DSO. With more columns than rows only rows can be orthonormal.
        BigGAN's penalty omits the diagonal; the paper's SRIP uses the spectral norm.

    References:
        Bansal et al. 2018, arXiv:1810.09102. Brock et al. 2017, arXiv:1609.07093.
    """
    parts = []
    for path, x in _leaves("params", params):
        if x.ndim < 2:
            raise ValueError(f"{path} must have at least two axes, [inputs, outputs], got shape {x.shape}")
        matrix = x.astype(accumulation_dtype(x)).reshape(-1, x.shape[-1])
        for m in [matrix] * (side != "rows") + [matrix.T] * (side != "columns"):
            parts.append(_sum_of_squares(_gram(m) - jnp.eye(m.shape[1], dtype=m.dtype)))
    return _weighted_total(weight, parts)


def _gram(matrix: jax.Array) -> jax.Array:
    return jnp.matmul(matrix.T, matrix, precision=jax.lax.Precision.HIGHEST)
