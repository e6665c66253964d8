"""Weights of tasks from the Gram matrix of their gradients, G[i, j] = g_i . g_j.

What a multi-task method makes of T gradients is a combination of them, and its weights depend on G alone. So each
method is a pure function of a [T, T] matrix: jit-able, without a solver on the host, and finite where gradients are
zero, parallel or opposed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Weights = jax.Array


def gram_matrix(gradients: Any) -> jax.Array:
    """Inner products of gradients that are stacked along the leading axis of each leaf.

    >>> gram_matrix({"w": jnp.array([[3.0, 4.0], [0.0, 1.0]])}).tolist()
    [[25.0, 4.0], [4.0, 1.0]]
    """

    def of_leaf(x: jax.Array) -> jax.Array:
        rows = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(x.shape[0], -1)
        return jnp.einsum("ik,jk->ij", rows, rows, precision=jax.lax.Precision.HIGHEST)

    leaves = [of_leaf(x) for x in jax.tree.leaves(gradients)]
    return sum(leaves[1:], leaves[0])


def _scaled(gram: jax.Array) -> jax.Array:
    """G over its mean diagonal, so that tolerances mean the same for gradients of any size."""
    mean = jnp.trace(gram) / gram.shape[0]
    return gram / jnp.where(mean > 0, mean, 1)


def _minimize(
    function: Callable[[jax.Array], jax.Array],
    project: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    steps: int = 1_000,
) -> jax.Array:
    """A convex function's minimum over a convex set: accelerated projected gradients with backtracking and restarts."""
    slope = jax.value_and_grad(function)
    tiny = jnp.finfo(start.dtype).eps

    def advance(carry: Any) -> Any:
        count, x, previous, momentum, curvature, _ = carry
        following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        y = x + (momentum - 1) / following * (x - previous)
        value, gradient = slope(y)
        z = project(y - gradient / curvature)
        way = z - y
        model = value + gradient @ way + curvature / 2 * (way @ way)
        accepted = function(z) <= model + 4 * tiny * (1 + jnp.abs(value))
        restart = (y - z) @ (z - x) > 0
        moved = jnp.where(accepted, jnp.max(jnp.abs(z - x)) + jnp.max(jnp.abs(x - previous)), jnp.inf)
        return (
            count + 1,
            jnp.where(accepted, z, x),
            jnp.where(accepted, jnp.where(restart, z, x), previous),
            jnp.where(accepted, jnp.where(restart, 1.0, following), momentum),
            curvature * jnp.where(accepted, 0.95, 2.0),
            moved,
        )

    def going(carry: Any) -> jax.Array:
        return (carry[0] < steps) & (carry[-1] > tiny)

    one = jnp.ones((), start.dtype)
    start = project(start)
    return jax.lax.while_loop(going, advance, (0, start, start, one, one, jnp.inf * one))[1]


def _equal(gram: jax.Array) -> jax.Array:
    return jnp.full(gram.shape[0], 1 / gram.shape[0], gram.dtype)


def min_norm(gram: jax.Array) -> Weights:
    r"""Weights of the shortest convex combination (MGDA): $\min_{w \in \Delta} \lVert \sum_i w_i g_i \rVert$.

    Args:
      gram: [T, T].

    Returns:
      [T], at least 0, of sum 1. The combination is 0 where no direction improves all tasks.

    References:
      Desideri 2012, doi:10.1016/j.crma.2012.03.014. Sener and Koltun 2018, arXiv:1810.04650.

    >>> print(min_norm(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(3))  # the foot of the height on the hypotenuse
    [0.8 0.2]
    """
    g = _scaled(gram)
    return _minimize(lambda w: w @ g @ w / 2, optax.projections.projection_simplex, _equal(g))


def pcgrad(gram: jax.Array, key: jax.Array) -> Weights:
    """Each gradient loses its part against each other one that it conflicts with, in a random order; then the sum.

    Args:
      gram: [T, T].
      key: of the order, drawn for each task.

    Returns:
      [T], weights of the original gradients; at least 1 each, since only opposed parts are taken away.

    References:
      Yu et al. 2020, arXiv:2001.06782.

    >>> pcgrad(jnp.array([[1.0, -1.0], [-1.0, 2.0]]), jax.random.key(0)).tolist()  # g1 + g2 / 2, and g2 + g1
    [2.0, 1.5]
    """
    tasks = gram.shape[0]

    def one(task: jax.Array, order: jax.Array) -> jax.Array:
        def project(weights: jax.Array, other: jax.Array) -> tuple[jax.Array, None]:
            conflict = jnp.minimum(weights @ gram[:, other], 0)
            length = gram[other, other]
            share = jnp.where((other == task) | (length <= 0), 0, conflict / jnp.where(length > 0, length, 1))
            return weights.at[other].add(-share), None

        return jax.lax.scan(project, jax.nn.one_hot(task, tasks, dtype=gram.dtype), order)[0]

    orders = jax.vmap(lambda k: jax.random.permutation(k, tasks))(jax.random.split(key, tasks))
    return jnp.sum(jax.vmap(one)(jnp.arange(tasks), orders), axis=0)


def cagrad(gram: jax.Array, *, c: float = 0.4, rescale: bool = False) -> Weights:
    r"""The best worst-case improvement within a ball of $c \lVert g_0 \rVert$ around the mean gradient $g_0$.

    $$d = g_0 + \frac{\sqrt\phi}{\lVert g_w \rVert} g_w, \quad
    w = \arg\min_{w \in \Delta} g_w \cdot g_0 + \sqrt\phi \lVert g_w \rVert, \; \phi = c^2 \lVert g_0 \rVert^2$$

    Args:
      gram: [T, T].
      c: radius in 0 .. 1; 0 is the mean gradient.
      rescale: divide by 1 + c^2, as the authors' code does by default.

    Returns:
      [T], at least 0.

    References:
      Liu et al. 2021, arXiv:2110.14048.

    >>> cagrad(jnp.eye(2), c=0.5).round(4).tolist()  # by symmetry (1 + c) times the mean
    [0.75, 0.75]
    """
    g = _scaled(gram)
    mean = _equal(g)
    radius = c * jnp.sqrt(jnp.maximum(mean @ g @ mean, 0))

    def length(w: jax.Array) -> jax.Array:
        square = w @ g @ w
        return jnp.where(square > 1e-12, jnp.sqrt(jnp.where(square > 1e-12, square, 1)), 0)

    w = _minimize(lambda w: w @ g @ mean + radius * length(w), optax.projections.projection_simplex, mean)
    norm = length(w)
    weights = mean + jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0) * w
    return weights / (1 + c**2) if rescale else weights


def _pseudo_inverse(gram: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenvalues, eigenvectors, and which eigenvalues are not rounding."""
    values, vectors = jnp.linalg.eigh(gram)
    real = values > jnp.max(jnp.abs(values)) * gram.shape[0] * 4 * jnp.finfo(gram.dtype).eps
    return values, vectors, real


def imtl_g(gram: jax.Array) -> Weights:
    r"""Weights of sum one under which the combination has the same projection onto each gradient's direction.

    $$\frac{g \cdot g_i}{\lVert g_i \rVert} = \frac{g \cdot g_j}{\lVert g_j \rVert}, \quad \text{so } w \propto
    G^{+} n, \; n_i = \lVert g_i \rVert$$

    Args:
      gram: [T, T].

    Returns:
      [T], of sum 1, possibly negative; equal weights where there is no such combination.

    References:
      Liu et al. 2021, Towards Impartial Multi-task Learning, ICLR.

    >>> print(imtl_g(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(4))  # inversely proportional to the norms
    [0.6667 0.3333]
    """
    g = _scaled(gram)
    values, vectors, real = _pseudo_inverse(g)
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(g), 0))
    w = vectors @ (jnp.where(real, 1 / jnp.where(real, values, 1), 0) * (vectors.T @ norms))
    total = jnp.sum(w)
    exists = jnp.abs(total) > 1e-6 * jnp.maximum(jnp.max(jnp.abs(w)), 1e-6)
    return jnp.where(exists, w / jnp.where(exists, total, 1), _equal(g))


def nash_mtl(gram: jax.Array, *, ridge: float = 1e-6, steps: int = 60) -> Weights:
    r"""Weights of the Nash bargaining solution, $G \alpha = 1 / \alpha$ with $\alpha > 0$.

    It is where $\tfrac12 \alpha^\top G \alpha - \sum_i \log \alpha_i$ is least, found by damped Newton steps.

    Args:
      gram: [T, T].
      ridge: added to the diagonal of G over its mean, for zero and opposed gradients.
      steps: Newton steps.

    Returns:
      [T], positive. The combination has length root of T, whatever the gradients' sizes: scale it outside.

    References:
      Navon et al. 2022, arXiv:2202.01017.

    >>> nash_mtl(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(4).tolist()  # one over the norms
    [1.0, 0.5]
    """
    mean = jnp.trace(gram) / gram.shape[0]
    scale = jnp.where(mean > 0, mean, 1)
    g = gram / scale + ridge * jnp.eye(gram.shape[0], dtype=gram.dtype)

    def newton(alpha: jax.Array, _: None) -> tuple[jax.Array, None]:
        gradient = g @ alpha - 1 / alpha
        # In units of alpha the barrier's curvature is one: well scaled also where the weights differ by thousands.
        hessian = alpha[:, None] * g * alpha[None] + jnp.eye(len(alpha), dtype=alpha.dtype)
        way = jnp.linalg.solve(hessian, -alpha * gradient)
        decrement = jnp.sqrt(jnp.maximum(-way @ (alpha * gradient), 0))
        return alpha * (1 + way / jnp.where(decrement > 0.25, 1 + decrement, 1)), None

    start = 1 / jnp.sqrt(jnp.diagonal(g) * gram.shape[0])
    return jax.lax.scan(newton, start, None, length=steps)[0] / jnp.sqrt(scale)


def aligned_mtl(gram: jax.Array) -> Weights:
    r"""Weights that make the gradients orthogonal and of one length, that of the weakest direction they span.

    $$w = \sqrt{\sigma_{\min}}\, V \Sigma^{-1/2} V^\top \tfrac1T \mathbf 1, \quad G = V \Sigma V^\top$$

    Args:
      gram: [T, T].

    Returns:
      [T]; 1/T each for orthogonal gradients of one length.

    References:
      Senushkin et al. 2023, arXiv:2305.19000.

    >>> aligned_mtl(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(4).tolist()  # both brought to length 1
    [0.5, 0.25]
    """
    values, vectors, real = _pseudo_inverse(_scaled(gram))
    smallest = jnp.min(jnp.where(real, values, jnp.inf))
    root = jnp.where(real, jnp.sqrt(smallest / jnp.where(real, values, 1)), 0)
    return vectors @ (root * (vectors.T @ _equal(gram)))


def upgrad(gram: jax.Array, *, ridge: float = 1e-6) -> Weights:
    r"""Mean of the gradients, each projected onto the cone of directions that harm no task.

    $$\frac1T \sum_i w^{(i)}, \quad w^{(i)} = \arg\min_{w \ge e_i} w^\top G w$$

    Args:
      gram: [T, T].
      ridge: added to the diagonal of G over its mean, so that the solution is unique.

    Returns:
      [T], at least 1/T each.

    References:
      Quinton and Rey 2024, arXiv:2406.16232.

    >>> weights = upgrad(jnp.array([[1.0, -1.0], [-1.0, 2.0]]))  # g1 + g2 / 2, and g2 + g1, over 2
    >>> [round(w, 3) for w in weights.tolist()]
    [1.0, 0.75]
    """
    g = _scaled(gram)
    g += ridge * jnp.eye(g.shape[0], dtype=g.dtype)

    def project(unit: jax.Array) -> jax.Array:
        return _minimize(lambda w: w @ g @ w / 2, lambda w: jnp.maximum(w, unit), unit)

    return jnp.mean(jax.vmap(project)(jnp.eye(g.shape[0], dtype=g.dtype)), axis=0)
