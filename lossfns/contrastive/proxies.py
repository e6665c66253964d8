"""Proxy losses: learnt class vectors represent the examples."""

import jax
import jax.numpy as jnp

from lossfns._blockwise import product, vary_together
from lossfns._contract import (
    AxisName,
    accumulation_dtype,
    as_scalar,
    finite,
    flag,
    keep_rows,
    loss,
    nan_where_invalid,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._global_batch import broadcast_to_rows, log_sum_rows, total
from lossfns._numerics import at_label, unit_vectors
from lossfns.contrastive._metric import check_proxies, log_sum_of_others
from lossfns.contrastive._shared import against_negatives, normalize_rows, row_dot


@loss(static=("include_positive", "block_size"), temperature=positive, include_positive=flag, block_size=optional_size)
def proxy_nca(
    embeddings: jax.Array,
    proxies: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    include_positive: bool = False,
    where: jax.Array | None = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Neighbourhood component analysis with proxies (Proxy-NCA): softmax over distances to the proxies.

    $$-\log \frac{e^{-d(x, p_y) / \tau}}{\sum_{k \ne y} e^{-d(x, p_k) / \tau}}, \qquad d(x, p) = \|x - p\|^2$$

    of unit vectors. The [N, V] distances are never materialised.

    Args:
        embeddings: [N, D]; normalised here.
        proxies: [V, D], the learnt proxy of each class; normalised here.
        labels: [N], integers in 0 .. V-1.
        temperature: $\tau$, divides the squared distances.
        include_positive: Whether the sum includes the label's proxy, which makes it a softmax.
        where: [N], boolean; False excludes the example.
        block_size: Proxies per block; None chooses.

    Returns:
        [N], nats per example; may be negative unless the positive is included.

    Raises:
        ValueError: If there is only one class.

    Example:
        At its own proxy, and at a squared distance of 2 from the other.

        >>> print(proxy_nca(jnp.eye(2)[:1], jnp.eye(2), jnp.array([0])).round(4))
        [-2.]

    Conventions:
        The paper excludes the positive from the sum. ProxyNCA++ includes it, with temperature 1/9, and so does
        pytorch-metric-learning with temperature 1.

    References:
        Movshovitz-Attias et al. 2017, arXiv:1703.07464; Teh et al. 2020, arXiv:2004.01113 (include_positive).
    """
    least = 1 if include_positive else 2
    labels, in_range, where = check_proxies(embeddings, "proxies", proxies, labels, where, least)
    dtype = accumulation_dtype(embeddings, proxies)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    # |u - p|^2 = 2 - 2 u.p: the 2 is in all terms and cancels.
    rows = normalize_rows(where, embeddings, dtype) * (2 / as_scalar(temperature, dtype))
    own = row_dot(rows, unit_vectors(proxies[labels].astype(dtype)))
    log_sums = log_sum_of_others(rows, proxies, labels, where, block_size)
    values = against_negatives(log_sums, own) if include_positive else log_sums - own
    return zero_masked(where, nan_where_invalid(in_range, values))


@loss(static=("axis_name",), scale=positive, margin=finite)
def proxy_anchor(
    embeddings: jax.Array,
    proxies: jax.Array,
    labels: jax.Array,
    *,
    scale: float | jax.Array = 32.0,
    margin: float | jax.Array = 0.1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Proxy-anchor loss: the proxies are the anchors, the examples of the batch their positives and negatives.

    $$\frac{1}{|P^+|} \sum_{p \in P^+} \log\Bigl(1 + \sum_{x \in X_p^+} e^{-\alpha (s(x, p) - \delta)}\Bigr)
    + \frac{1}{|P|} \sum_{p \in P} \log\Bigl(1 + \sum_{x \in X_p^-} e^{\alpha (s(x, p) + \delta)}\Bigr)$$

    with cosines $s$, examples $X_p^+$ of the proxy's class and $X_p^-$ of other classes, all proxies P, and $P^+$ the
    proxies with a positive in the batch. The [N, V] cosines are materialised.

    Args:
        embeddings: [N, D]; normalised here.
        proxies: [V, D], the learnt proxy of each class; normalised here.
        labels: [N], integers in 0 .. V-1.
        scale: $\alpha$, multiplies the cosines.
        margin: $\delta$, a difference of cosines.
        where: [N], boolean; False excludes the example.
        axis_name: Mapped device axis of the global batch.

    Returns:
        [N], one number for the whole batch in each present row, so that the mean over rows is the loss. A present label
        outside 0 .. V-1 gives NaN in all rows.

    Example:
        One example at the first of two proxies: log(1 + 1/e) for its positive, and half of log 2 for the negative,
        averaged over proxies.

        >>> print(proxy_anchor(jnp.eye(2)[:1], jnp.eye(2), jnp.array([0]), scale=1.0, margin=0.0).round(4))
        [0.6598]

    Conventions:
        The defaults are the paper's. The second sum is divided by the number of all proxies.

    References:
        Kim et al. 2020, arXiv:2003.13911.
    """
    labels, in_range, where = check_proxies(embeddings, "proxies", proxies, labels, where)
    dtype = accumulation_dtype(embeddings, proxies)
    if labels.shape[0] == 0:
        return jnp.zeros(0, dtype)
    alpha, delta = as_scalar(scale, dtype), as_scalar(margin, dtype)
    u, p = vary_together((normalize_rows(where, embeddings, dtype), unit_vectors(proxies.astype(dtype))))
    scores = product(u, p.T)
    positives = at_label(labels, p.shape[0])
    counts = jnp.ones(labels.shape, bool)[:, None] if where is None else where[:, None]
    pull = log_sum_rows(jnp.where(counts & positives, -alpha * (scores - delta), -jnp.inf), None, axis_name)
    push = log_sum_rows(jnp.where(counts & ~positives, alpha * (scores + delta), -jnp.inf), None, axis_name)
    wrong = total(jnp.sum(keep_rows(where, ~in_range)).astype(dtype), axis_name)
    value = jnp.sum(jax.nn.softplus(pull)) / jnp.maximum(jnp.sum(pull > -jnp.inf), 1).astype(dtype)
    value += jnp.mean(jax.nn.softplus(push))
    return broadcast_to_rows(nan_where_invalid(wrong == 0, value), u, where)
