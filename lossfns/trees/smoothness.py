"""Smoothness of representations along the edges of trees."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    check_array,
    check_shape,
    check_where,
    keep_rows,
    loss,
    nan_where_invalid,
    zero_masked,
)
from lossfns._padding import check_present


@loss()
def tree_smoothness(
    hidden: jax.Array,
    edges: jax.Array,
    edge_weights: jax.Array,
    edges_where: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Smoothness of representations along the edges of a tree.

    $$\sum_{(i, j) \in E} \alpha_{ij} \lVert h_i - h_j \rVert^2$$

    Args:
        hidden: $h$, [..., N, D], one vector per node.
        edges: [..., E, 2], integers in 0 .. N-1: the nodes of each edge in either order, each edge once.
        edge_weights: $\alpha$, [..., E], at least 0.
        edges_where: The present edges: boolean [..., E], or integer counts [...]; None for all. Absent edges are not
            read.
        where: [...], boolean; False excludes the tree.

    Returns:
        [...], summed over edges, in squared units of `hidden`. A present edge to a node out of range or of negative
        weight, or a count out of range, gives NaN.

    Example:
        A chain of three nodes at 0, 1 and 3 on a line: 1 + 0.5 times 4.

        >>> hidden, edges = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([[0, 1], [1, 2]])
        >>> print(tree_smoothness(hidden, edges, jnp.array([1.0, 0.5])))
        3.0

    Conventions:
        The quadratic form of the graph Laplacian, $\mathrm{tr}(H^\top L H)$, with each edge counted once; a sum over
        ordered pairs is twice this. The edges may be of any graph: that they are a tree is not checked.

    References:
        Belkin and Niyogi 2003, doi:10.1162/089976603321780317.
    """
    check_array("hidden", hidden)
    check_array("edges", edges, "integer")
    check_array("edge_weights", edge_weights)
    if hidden.ndim < 2:
        raise ValueError(f"hidden must be [..., nodes, features], got shape {hidden.shape}")
    *batch, nodes, _ = hidden.shape
    if edges.ndim != hidden.ndim or edges.shape[:-2] != tuple(batch) or edges.shape[-1] != 2:
        raise ValueError(
            f"edges must have the shape {tuple(batch)} of the trees in hidden {hidden.shape}, an axis of edges and a "
            f"last axis of 2 nodes, got {edges.shape}"
        )
    check_shape("edge_weights", edge_weights, edges.shape[:-1], f"of edges {edges.shape} without the pair")
    where = check_where(where, tuple(batch))
    present, valid = check_present("edges_where", edges_where, edges.shape[:-1], where)
    edges = keep_rows(present, keep_rows(where, edges.astype(jnp.promote_types(edges.dtype, jnp.int32))))
    inside = jnp.all((edges >= 0) & (edges < nodes), axis=-1)
    dtype = accumulation_dtype(hidden, edge_weights)
    h = keep_rows(where, hidden).astype(dtype)
    weights = keep_rows(present, keep_rows(where, edge_weights)).astype(dtype)
    one, other = (_of_nodes(h, edges[..., i]) for i in (0, 1))
    # Absent edges may point at any value.
    gaps = keep_rows(present, one) - keep_rows(present, other)
    valid &= jnp.all(weights >= 0, axis=-1)
    values = jnp.sum(weights * jnp.sum(jnp.square(gaps), axis=-1), axis=-1)
    return zero_masked(where, nan_where_invalid(valid & jnp.all(inside | ~present, axis=-1), values))


def _of_nodes(h: jax.Array, index: jax.Array) -> jax.Array:
    if h.shape[-2] == 0:
        return jnp.zeros((*index.shape, h.shape[-1]), h.dtype)
    return jnp.take_along_axis(h, index[..., None], axis=-2, mode="clip")
