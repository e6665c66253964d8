"""Weights of tasks from the Gram matrix of their gradients, G[i, j] = g_i . g_j.

A multi-task method replaces T gradients by a combination with weights that depend on G alone. So each method is a
pure function of a [T, T] matrix: it can be compiled, needs no solver on the host, and is finite for zero, parallel and
opposed gradients. Each works on the correlations of the gradients and divides by their norms at the end, so results
stay accurate for gradients a million times smaller than others. In all of them `gram` is G, [T, T].
"""

from typing import Any

import jax
import jax.numpy as jnp

from train.objectives.small_matrices import exact_products, graded_eigh, nonnegative_minimum
from train.optimizers.norms import power_of_two
from train.trees import Tree, widen

Weights = jax.Array
_RIDGE = 1e-6


@exact_products
def gram_matrix(gradients: Tree) -> jax.Array:
    """Inner products of gradients stacked along the leading axis of each leaf.

    >>> gram_matrix({"w": jnp.array([[3.0, 4.0], [0.0, 1.0]])}).tolist()
    [[25.0, 4.0], [4.0, 1.0]]
    """

    def of_leaf(x: jax.Array) -> jax.Array:
        rows = widen(x).reshape(x.shape[0], -1)
        return jnp.einsum("ik,jk->ij", rows, rows)

    leaves = [of_leaf(x) for x in jax.tree.leaves(gradients)]
    return sum(leaves[1:], leaves[0])


def scaled_gram_matrix(gradients: Tree) -> tuple[jax.Array, jax.Array]:
    """Inner products of gradients over a common scale, without overflow for gradients of norm 1e20.

    Returns:
        G / s^2 [T, T] and s, a power of two near the largest entry of all gradients.

    >>> products, scale = scaled_gram_matrix({"w": jnp.array([[3.0, 4.0], [0.0, 1.0]]) * 2.0**70})
    >>> print(products, scale == 2.0**72)
    [[1.5625 0.25  ]
     [0.25   0.0625]] True
    """
    scale = power_of_two(gradients)
    divided = jax.tree.map(lambda x: widen(x) / scale, gradients)
    return gram_matrix(divided), scale


def correlations(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines between the gradients, and their norms.

    Returns:
        [T, T] with a unit diagonal, where a zero gradient is orthogonal to all others, and the norms [T].

    >>> cosines, norms = correlations(jnp.array([[4.0, 3.0], [3.0, 9.0]]))
    >>> print(cosines, norms)
    [[1.  0.5]
     [0.5 1. ]] [2. 3.]
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
    safe = jnp.where(norms == 0, 1, norms)
    cosines = jnp.clip(gram / safe[:, None] / safe[None], -1, 1)
    there = (norms != 0)[:, None] & (norms != 0)[None]
    return jnp.where(jnp.eye(len(norms), dtype=bool), 1, jnp.where(there, cosines, 0)).astype(gram.dtype), norms


def _relative(norms: jax.Array) -> jax.Array:
    """Norms divided by the largest; 0 for zero gradients."""
    largest = jnp.max(norms)
    return norms / jnp.where(largest == 0, 1, largest)


def _ridged(matrix: jax.Array, ridge: float = _RIDGE) -> jax.Array:
    return matrix + ridge * jnp.eye(len(matrix), dtype=matrix.dtype)


def _equal(gram: jax.Array) -> jax.Array:
    return jnp.full(gram.shape[0], 1 / gram.shape[0], gram.dtype)


def min_norm(gram: jax.Array) -> Weights:
    r"""Weights of the shortest convex combination (MGDA): $\min_{w \in \Delta} \lVert \sum_i w_i g_i \rVert$.

    Returns:
        [T], non-negative with sum 1. The combination is 0 if no direction improves all tasks.

    References:
        Desideri 2012, doi:10.1016/j.crma.2012.03.014. Sener and Koltun 2018, arXiv:1810.04650.

    >>> print(min_norm(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(3))  # the foot of the height on the hypotenuse
    [0.8 0.2]
    """
    cosines, norms = correlations(gram)
    # The shortest x >= 0 with x . shares = 1 points where |x|^2 + (x . shares - 1)^2 is least; w is x over the norms.
    shares = jnp.where(norms == 0, 1, jnp.min(norms) / jnp.where(norms == 0, 1, norms))
    x: jax.Array = nonnegative_minimum(_ridged(cosines + shares[:, None] * shares[None]), shares) * shares
    return x / jnp.sum(x)


@exact_products
def pcgrad(gram: jax.Array, key: jax.Array) -> Weights:
    """Removes from each gradient its component against every conflicting one, in a random order per task, and sums up.

    Returns:
        [T], weights of the original gradients, at least 1 each, because only opposed components are removed.

    References:
        Yu et al. 2020, arXiv:2001.06782.

    >>> print(pcgrad(jnp.array([[1.0, -1.0], [-1.0, 2.0]]), jax.random.key(0)).round(4))  # g1 + g2 / 2, and g2 + g1
    [2.  1.5]
    """
    tasks, (cosines, norms) = gram.shape[0], correlations(gram)

    def one(task: jax.Array, order: jax.Array) -> jax.Array:
        def project(parts: jax.Array, other: jax.Array) -> tuple[jax.Array, None]:
            conflict = jnp.minimum(parts @ cosines[other], 0)
            return parts.at[other].add(jnp.where(other == task, 0, -conflict)), None

        parts = jax.lax.scan(project, jax.nn.one_hot(task, tasks, dtype=gram.dtype), order)[0]
        return _over(norms, norms[task] * parts, 1.0 * (jnp.arange(tasks) == task))

    orders = jax.vmap(lambda k: jax.random.permutation(k, tasks))(jax.random.split(key, tasks))
    return jnp.sum(jax.vmap(one)(jnp.arange(tasks), orders), axis=0)


@exact_products
def cagrad(gram: jax.Array, *, c: float = 0.4, rescale: bool = False) -> Weights:
    r"""Maximises the worst improvement within a ball of $c \lVert g_0 \rVert$ around the mean gradient $g_0$.

    $$d = g_0 + \frac{\sqrt\phi}{\lVert g_w \rVert} g_w, \quad
    w = \arg\min_{w \in \Delta} g_w \cdot g_0 + \sqrt\phi \lVert g_w \rVert, \; \phi = c^2 \lVert g_0 \rVert^2$$

    Args:
        gram: [T, T].
        c: Radius in [0, 1); 0 gives the mean gradient.
        rescale: Divide by 1 + c^2, as the authors' code does by default.

    Returns:
        [T], at least 0.

    References:
        Liu et al. 2021, arXiv:2110.14048.

    >>> cagrad(jnp.eye(2), c=0.5).round(4).tolist()  # by symmetry (1 + c) times the mean
    [0.75, 0.75]
    """
    cosines, norms = correlations(gram)
    sizes, mean, there = _relative(norms), _equal(gram), norms > 0
    along = cosines @ (sizes * mean)  # component of g_0 along each gradient
    radius = c * jnp.sqrt(jnp.maximum((sizes * mean) @ along, 0))

    def nearest(worst: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The shortest step from g_0 to a point where every task gains at least `worst`, and its length.
        x = nonnegative_minimum(_ridged(cosines), jnp.where(there, worst / jnp.where(there, sizes, 1) - along, -1))
        return x, jnp.sqrt(jnp.maximum(x @ cosines @ x, 0))

    def halve(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) / 2
        within = nearest(middle)[1] <= radius
        return jnp.where(within, middle, low), jnp.where(within, high, middle)

    gains = jnp.where(there, sizes * along, jnp.inf)
    bounds = (jnp.min(gains), jnp.min(gains + sizes * radius))
    x, length = nearest(jax.lax.fori_loop(0, 60, halve, bounds)[1])
    weights = mean + _over(sizes, x * jnp.where(length > 0, radius / jnp.where(length > 0, length, 1), 0), 0.0)
    return weights / (1 + c**2) if rescale else weights


@exact_products
def imtl_g(gram: jax.Array) -> Weights:
    r"""Weights with sum 1 such that the combination has equal projections onto all gradient directions.

    $$\frac{g \cdot g_i}{\lVert g_i \rVert} = \frac{g \cdot g_j}{\lVert g_j \rVert}, \quad \text{so }
    w \propto D^{-1} C^{+} \mathbf 1, \; G = D C D, \; D_{ii} = \lVert g_i \rVert$$

    Returns:
        [T] with sum 1, possibly negative; equal weights if there is no such combination. For linearly dependent
        gradients, which the paper does not treat, it uses the pseudo-inverse of C (TorchJD: of G).

    References:
        Liu et al. 2021, Towards Impartial Multi-task Learning, ICLR.

    >>> print(imtl_g(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(4))  # inversely proportional to the norms
    [0.6667 0.3333]
    """
    cosines, norms = correlations(gram)
    values, vectors = jnp.linalg.eigh(cosines)
    real = values > 4 * len(norms) * jnp.finfo(gram.dtype).eps
    inverse = jnp.where(real, 1 / jnp.where(real, values, 1), 0)
    parts = vectors @ (inverse * jnp.sum(vectors, axis=0))
    w = _over(_relative(norms), parts, 0.0)
    total = jnp.sum(w)
    is_equal = jnp.max(jnp.abs(cosines @ parts - 1)) < 0.1  # Opposed gradients have no such combination.
    exists = is_equal & (jnp.abs(total) > 1e-6 * jnp.max(jnp.abs(w)))
    return jnp.where(exists, w / jnp.where(exists, total, 1), _equal(gram))


@exact_products
def nash_mtl(gram: jax.Array, *, ridge: float = 1e-6, steps: int = 60) -> Weights:
    r"""Weights of the Nash bargaining solution, $G \alpha = 1 / \alpha$ with $\alpha > 0$.

    It minimises $\tfrac12 \alpha^\top G \alpha - \sum_i \log \alpha_i$, by damped Newton steps.

    Args:
        gram: [T, T].
        ridge: Added to the diagonal of the correlations, for opposed gradients.
        steps: Newton steps.

    Returns:
        [T], positive. The combination has length $\sqrt T$ for gradients of any size: scale it outside.

    References:
        Navon et al. 2022, arXiv:2202.01017. The authors' code solves for G over its Frobenius norm, so that its
        combination is as long as the gradients, clips it to norm 1, and stops before convergence.

    >>> nash_mtl(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(4).tolist()  # one over the norms
    [1.0, 0.5]
    """
    cosines, norms = correlations(gram)
    g = _ridged(cosines, ridge)

    def newton(alpha: jax.Array, _: None) -> tuple[jax.Array, None]:
        gradient = g @ alpha - 1 / alpha
        # In units of alpha the curvature of the barrier is 1, so the system is well scaled for weights of any size.
        hessian = alpha[:, None] * g * alpha[None] + jnp.eye(len(alpha), dtype=alpha.dtype)
        way = jnp.linalg.solve(hessian, -alpha * gradient)
        decrement = jnp.sqrt(jnp.maximum(-way @ (alpha * gradient), 0))
        return alpha * (1 + way / jnp.where(decrement > 0.25, 1 + decrement, 1)), None

    start = jnp.full_like(norms, len(norms) ** -0.5)
    alpha = jax.lax.scan(newton, start, None, length=steps)[0]
    largest = jnp.max(norms)
    return alpha / jnp.where(norms > 0, norms, jnp.where(largest > 0, largest, 1))


@exact_products
def aligned_mtl(gram: jax.Array) -> Weights:
    r"""Weights that make the gradients orthogonal and equally long, as long as the weakest direction they span.

    $$w = \sqrt{\sigma_{\min}}\, V \Sigma^{-1/2} V^\top \tfrac1T \mathbf 1, \quad G = V \Sigma V^\top$$

    Returns:
        [T]; 1/T each for orthogonal gradients of equal length.

    References:
        Senushkin et al. 2023, arXiv:2305.19000, with the preference 1/T. The authors' code sums the aligned gradients
        (T times these weights), and drops a direction when float32 cannot distinguish its eigenvalue of G from 0. Here
        a direction is dropped only if the gradients are linearly dependent, independent of their norms.

    >>> aligned_mtl(jnp.array([[1.0, 0.0], [0.0, 4.0]])).round(4).tolist()  # both brought to length 1
    [0.5, 0.25]
    """
    cosines, norms = correlations(gram)
    sizes = _relative(norms)
    values, vectors = graded_eigh(cosines * sizes[:, None] * sizes[None])
    # Drop directions in which the normalised gradients cancel up to rounding.
    real = values > 4 * len(norms) * jnp.finfo(gram.dtype).eps * (sizes**2 @ vectors**2)
    smallest = jnp.min(jnp.where(real, values, jnp.inf))
    root = jnp.where(real, jnp.sqrt(smallest / jnp.where(real, values, 1)), 0)
    weights: jax.Array = vectors @ (root * jnp.mean(vectors, axis=0))
    return weights


def upgrad(gram: jax.Array, *, ridge: float = 1e-6) -> Weights:
    r"""Mean of the gradients after projection of each onto the cone of directions that harm no task.

    $$\frac1T \sum_i w^{(i)}, \quad w^{(i)} = \arg\min_{w \ge e_i} w^\top G w$$

    Args:
        gram: [T, T].
        ridge: Added to the diagonal of the correlations, so that the solution is unique.

    Returns:
        [T], at least 1/T each.

    References:
        Quinton and Rey 2024, arXiv:2406.16232.

    >>> weights = upgrad(jnp.array([[1.0, -1.0], [-1.0, 2.0]]))  # g1 + g2 / 2, and g2 + g1, over 2
    >>> [round(w, 3) for w in weights.tolist()]
    [1.0, 0.75]
    """
    cosines, norms = correlations(gram)
    g, eye = _ridged(cosines, ridge), jnp.eye(len(norms), dtype=gram.dtype)
    # In w = e_i + x / norms, x >= 0 is free and the norm of g_i a factor.
    added = jax.vmap(lambda row: nonnegative_minimum(g, -row))(g)
    return jnp.mean(jax.vmap(lambda size, x: _over(norms, size * x, 0.0))(norms, added) + eye, axis=0)


def _over(norms: jax.Array, values: jax.Array, otherwise: Any) -> jax.Array:
    """Values divided by norms; another value for zero gradients, for which the weight has no effect."""
    return jnp.where(norms > 0, values / jnp.where(norms > 0, norms, 1), otherwise)
