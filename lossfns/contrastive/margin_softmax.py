"""Softmax over cosines with class vectors, with a margin for the label's class."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    loss,
    nan_where_invalid,
    non_negative,
    one_of,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._numerics import unit_vectors
from lossfns.contrastive._metric import check_proxies, length, log_sum_of_others
from lossfns.contrastive._shared import against_negatives, normalize_rows, row_dot


@loss(
    static=("beyond", "block_size"),
    scale=positive,
    margin=non_negative,
    beyond=one_of("cosine", "linear", "easy"),
    block_size=optional_size,
)
def arcface(
    embeddings: jax.Array,
    class_vectors: jax.Array,
    labels: jax.Array,
    *,
    scale: float | jax.Array = 64.0,
    margin: float | jax.Array = 0.5,
    beyond: str = "cosine",
    where: jax.Array | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Additive angular margin (ArcFace): a margin m is added to the angle with the label's class vector.

    $$-\log \frac{e^{s \cos(\theta_y + m)}}{e^{s \cos(\theta_y + m)} + \sum_{k \ne y} e^{s \cos \theta_k}}$$

    with $\theta_k$ the angle between the embedding and the vector of class k. $\cos(\theta + m)$ is computed as
    $\cos\theta \cos m - \sin\theta \sin m$, with the sine from the component orthogonal to the class vector: no arc
    cosine, and a bounded gradient at every angle. The [N, V] cosines are never materialised.

    Args:
        embeddings: [N, D]; normalised here.
        class_vectors: [V, D], the learnt class vectors, the rows of a last layer without bias; normalised here.
        labels: [N], integers in 0 .. V-1.
        scale: $s$, multiplies the cosines.
        margin: $m$, in radians.
        beyond: Above an angle of $\pi - m$, where $\cos(\theta + m)$ rises again, "cosine" keeps it; "linear" takes
            $\cos\theta - m \sin m$; "easy" adds the margin only to angles below a right one.
        where: [N], boolean; False excludes the example.
        block_size: Classes per block; None chooses.

    Returns:
        [N], nats per example. A zero embedding has cosine and sine 0 with all classes and costs log V.

    Example:
        The margin turns the angle 0 into a right one, equal to the other class's: equal odds.

        >>> vectors = jnp.eye(2)
        >>> print(arcface(vectors[:1], vectors, jnp.array([0]), scale=1.0, margin=jnp.pi / 2).round(4))
        [0.6931]

    Conventions:
        "cosine" is the formula of the paper and of the authors' present code; their first code has "linear", which is
        discontinuous at $\pi - m$, or optionally "easy". At angle 0 the value has a kink, and the gradient there omits
        the sine's term. The authors' PyTorch code adds the margin without gradient and so differentiates
        $\cos(\theta + m)$ like $\cos\theta$; the true derivative is $\sin(\theta + m) / \sin\theta$, for
        m = 0.5 1.71 at 30 degrees and 0.60 at 120.

    References:
        Deng et al. 2018, arXiv:1801.07698.
    """
    labels, in_range, where = check_proxies(embeddings, "class_vectors", class_vectors, labels, where)
    dtype = accumulation_dtype(embeddings, class_vectors)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    s, m = as_scalar(scale, dtype), as_scalar(margin, dtype)
    u, own = normalize_rows(where, embeddings, dtype), unit_vectors(class_vectors[labels].astype(dtype))
    cosine = row_dot(u, own)
    later = cosine * jnp.cos(m) - length(u - cosine[:, None] * own) * jnp.sin(m)
    if beyond == "linear":
        later = jnp.where(cosine > -jnp.cos(m), later, cosine - m * jnp.sin(m))
    elif beyond == "easy":
        later = jnp.where(cosine > 0, later, cosine)
    log_sums = log_sum_of_others(s * u, class_vectors, labels, where, block_size)
    return zero_masked(where, nan_where_invalid(in_range, against_negatives(log_sums, s * later)))


@loss(static=("block_size",), scale=positive, margin=non_negative, block_size=optional_size)
def cosface(
    embeddings: jax.Array,
    class_vectors: jax.Array,
    labels: jax.Array,
    *,
    scale: float | jax.Array = 64.0,
    margin: float | jax.Array = 0.35,
    where: jax.Array | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Additive cosine margin (CosFace): a margin m is subtracted from the cosine with the label's class vector.

    $$-\log \frac{e^{s (\cos\theta_y - m)}}{e^{s (\cos\theta_y - m)} + \sum_{k \ne y} e^{s \cos \theta_k}}$$

    with $\theta_k$ the angle between the embedding and the vector of class k. The cosines are never materialised.

    Args:
        embeddings: [N, D]; normalised here.
        class_vectors: [V, D], the learnt class vectors, the rows of a last layer without bias; normalised here.
        labels: [N], integers in 0 .. V-1.
        scale: $s$, multiplies the cosines.
        margin: $m$, a difference of cosines.
        where: [N], boolean; False excludes the example.
        block_size: Classes per block; None chooses.

    Returns:
        [N], nats per example.

    Example:
        The margin turns the cosine 1 into 0, equal to the other class's: equal odds.

        >>> vectors = jnp.eye(2)
        >>> print(cosface(vectors[:1], vectors, jnp.array([0]), scale=1.0, margin=1.0).round(4))
        [0.6931]

    Conventions:
        The defaults are the paper's. AM-Softmax (arXiv:1801.05599) is the same with scale 30.

    References:
        Wang et al. 2018, arXiv:1801.09414.
    """
    labels, in_range, where = check_proxies(embeddings, "class_vectors", class_vectors, labels, where)
    dtype = accumulation_dtype(embeddings, class_vectors)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    s, u = as_scalar(scale, dtype), normalize_rows(where, embeddings, dtype)
    own = s * (row_dot(u, unit_vectors(class_vectors[labels].astype(dtype))) - as_scalar(margin, dtype))
    log_sums = log_sum_of_others(s * u, class_vectors, labels, where, block_size)
    return zero_masked(where, nan_where_invalid(in_range, against_negatives(log_sums, own)))
