"""SimCLR and its relatives: two views of an example against the views of all other examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lossfns._blockwise import LogSum, stream, stream_symmetric
from lossfns._contract import (
    AxisName,
    Number,
    accumulation_dtype,
    as_scalar,
    check_where,
    loss,
    non_negative,
    optional_size,
    positive,
    zero_masked,
)
from lossfns._global_batch import count_present, gather_rows, log_sum_rows, row_numbers
from lossfns.contrastive._shared import (
    Embeddings,
    against_negatives,
    check_embeddings,
    log_sum_of_negatives,
    max_norm,
    negatives,
    normalize_rows,
    row_dot,
)

prior = Number("at least 0 and below 1", lambda v: (v >= 0) & (v < 1))


class _Views(NamedTuple):
    both: Embeddings
    """All 2N views; their inner products are the scores."""
    positive: jax.Array
    """[N], the score of a pair's two views."""
    where: jax.Array | None


def _views(
    view_a: jax.Array, view_b: jax.Array, temperature: Any, where: jax.Array | None, axis_name: AxisName
) -> _Views:
    check_embeddings("view_a", view_a, "view_b", view_b)
    where = check_where(where, view_a.shape[:1])
    dtype = accumulation_dtype(view_a, view_b)
    # Each factor is divided by the root of the temperature: no extra pass over the scores.
    scale = jax.lax.rsqrt(as_scalar(temperature, dtype))
    a, b = normalize_rows(where, view_a, dtype) * scale, normalize_rows(where, view_b, dtype) * scale
    pair = jnp.tile(row_numbers(a.shape[0], axis_name), 2)
    present = None if where is None else jnp.tile(where, 2)
    return _Views(Embeddings(jnp.concatenate([a, b]), pair, present), row_dot(a, b), where)


def _log_sums(
    views: Embeddings, axis_name: AxisName, block_size: int | None, bound: jax.Array | None = None
) -> jax.Array:
    """[2, N], the log-sum-exp of each view's scores, at most `bound`, with all views of other examples."""
    everyone = gather_rows(views, axis_name)
    if bound is None:
        bound = jnp.square(max_norm(everyone.vectors))
    if axis_name is None:
        log_sums = stream_symmetric(_both_triangles, None, views, block_size=block_size, bound=bound)
    else:
        log_sums = stream(log_sum_of_negatives, views.as_rows, everyone, block_size=block_size, bound=bound)
    return log_sums.reshape(2, -1)


def _both_triangles(
    shared: None, items: Embeddings, others: Embeddings, index: jax.Array, other_index: jax.Array
) -> jax.Array:
    return negatives(others.as_rows, items)


@loss(static=("axis_name", "block_size"), temperature=positive, block_size=optional_size)
def nt_xent(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Normalised-temperature cross-entropy between two views of each example (SimCLR).

    With $z_1 .. z_{2N}$ the embeddings of both views, $s_{ij}$ their cosines over the temperature and $j(i)$ the other
    view of $i$, the value of a pair is the mean over its two anchors of

    $$-s_{i j(i)} + \log \sum_{k \ne i} e^{s_{ik}}$$

    so the mean over pairs is the paper's mean over 2N anchors. The sum has 2N-1 terms, including the positive. The
    [2N, 2N] similarities are never materialised, and each block serves both triangles.

    Args:
        view_a: [N, D], embeddings of the first views; normalised here.
        view_b: [N, D], embeddings of the second views, in the same order.
        temperature: Divides the cosines.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.
        block_size: Views per block; None chooses.

    Returns:
        [N], nats per pair.

    Example:
        Two pairs of identical views, orthogonal to each other: each anchor has a positive of cosine 1 and two negatives
        of cosine 0, so it costs log(1 + 2/e).

        >>> views = jnp.eye(2)
        >>> print(nt_xent(views, views, temperature=1.0).round(4))
        [0.5514 0.5514]

    Conventions:
        The default temperature is the paper's for CIFAR-10; its ImageNet runs use 0.1. The cosine with a zero vector is
        0. InfoNCE and CLIP have N terms in the sum: only the other modality's examples.

    References:
        Chen et al. 2020, arXiv:2002.05709.
    """
    both, own, where = _views(view_a, view_b, temperature, where, axis_name)
    if own.shape[0] == 0:
        return own
    log_sums = _log_sums(both, axis_name, block_size, bound=1 / as_scalar(temperature, own.dtype))
    values = against_negatives(log_sums, own[None])
    return zero_masked(where, jnp.mean(values, axis=0))


@loss(static=("axis_name", "block_size"), temperature=positive, sigma=positive, block_size=optional_size)
def decoupled_contrastive(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    sigma: float | jax.Array | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Decoupled contrastive learning (DCL, and weighted DCLW): `nt_xent` without the positive in the sum.

    With $z_1 .. z_{2N}$ the embeddings of both views, $s_{ij}$ their cosines over the temperature and $j(i)$ the other
    view of $i$, the value of a pair is the mean over its two anchors of

    $$-w_i\, s_{i j(i)} + \log \sum_{k \ne i, j(i)} e^{s_{ik}}$$

    where $w_i = 1$, or with $\sigma$ (DCLW) $w_i = 2 - e^{c_i / \sigma} / \operatorname{mean}_n e^{c_n / \sigma}$ with
    $c$ the cosines of the N pairs: pairs farther apart weigh more.

    Args:
        view_a: [N, D], embeddings of the first views; normalised here.
        view_b: [N, D], embeddings of the second views, in the same order.
        temperature: Divides the cosines.
        sigma: $\sigma$ of the weights, 0.5 in the paper; None for weights of 1.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.
        block_size: Views per block; None chooses.

    Returns:
        [N], per pair; 0 for a single pair. May be negative.

    Example:
        The positive has cosine 1, the two negatives 0: log 2 - 1.

        >>> print(decoupled_contrastive(jnp.eye(2), jnp.eye(2), temperature=1.0).round(4))
        [-0.3069 -0.3069]

    Conventions:
        The sum has 2N-2 terms, both views of all others, and the value is the mean over anchors; the paper's formula
        sums over them. The weights have a gradient, as in the widely used code, which computes one direction at a time:
        the mean of both is this.

    References:
        Yeh et al. 2021, arXiv:2110.06848.
    """
    both, own, where = _views(view_a, view_b, temperature, where, axis_name)
    if own.shape[0] == 0:
        return own
    log_sums = _log_sums(both, axis_name, block_size)
    weights = jnp.ones_like(own)
    if sigma is not None:
        exponent = own * (as_scalar(temperature, own.dtype) / as_scalar(sigma, own.dtype))
        count = jnp.maximum(count_present(where, own, axis_name), 1)
        log_mean = log_sum_rows(exponent[:, None], where, axis_name)[0, 0] - jnp.log(count)
        weights = 2 - jnp.exp(exponent - jnp.where(log_mean == -jnp.inf, 0, log_mean))
    values = jnp.where(log_sums == -jnp.inf, 0, log_sums - (weights * own)[None])
    return zero_masked(where, jnp.mean(values, axis=0))


@loss(static=("axis_name", "block_size"), temperature=positive, class_prior=prior, block_size=optional_size)
def debiased_contrastive(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    class_prior: float | jax.Array = 0.1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Debiased contrastive loss: `nt_xent`, corrected for negatives of the anchor's class.

    With $s$ the cosines over the temperature $t$, p the other view of an anchor and n the $M = 2N - 2$ views of other
    examples, the value of a pair is the mean over its two anchors of

    $$-\log \frac{e^{s_p}}{e^{s_p} + M g}, \qquad
    g = \max\Bigl(\frac{1}{1 - \tau} \Bigl(\frac1M \sum_n e^{s_n} - \tau e^{s_p}\Bigr),\; e^{-1/t}\Bigr)$$

    Args:
        view_a: [N, D], embeddings of the first views; normalised here.
        view_b: [N, D], embeddings of the second views, in the same order.
        temperature: $t$, divides the cosines.
        class_prior: $\tau$ ($\tau^+$ in the paper), the probability that two examples are of one class; below 1.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.
        block_size: Views per block; None chooses.

    Returns:
        [N], nats per pair; 0 for a single pair.

    Example:
        Without a prior it is NT-Xent: a positive of cosine 1, two negatives of cosine 0, log(1 + 2/e).

        >>> print(debiased_contrastive(jnp.eye(2), jnp.eye(2), temperature=1.0, class_prior=0.0).round(4))
        [0.5514 0.5514]

    Conventions:
        The estimate from one positive, with the defaults of the authors' code. At the bound the negatives have no
        gradient.

    References:
        Chuang et al. 2020, arXiv:2007.00224.
    """
    both, own, where = _views(view_a, view_b, temperature, where, axis_name)
    if own.shape[0] == 0:
        return own
    log_sums = _log_sums(both, axis_name, block_size)
    number = 2 * count_present(where, own, axis_name) - 2
    log_means = log_sums - jnp.log(jnp.maximum(number, 1))
    return zero_masked(where, _corrected(own, log_means, number, temperature, class_prior))


def _corrected(own: jax.Array, log_means: jax.Array, number: jax.Array, temperature: Any, tau: Any) -> jax.Array:
    """Values [N] from the pairs' scores [N] and log mean e^score of the negatives of both anchors [2, N]."""
    t, tau = as_scalar(temperature, own.dtype), as_scalar(tau, own.dtype)
    alone = log_means == -jnp.inf
    log_means = jnp.where(alone, 0, log_means)
    # The fraction of the mean subtracted; the bound holds above 1, long before the exponential overflows.
    taken = tau * jnp.exp(jnp.minimum(own[None] - log_means, 80))
    all_taken = taken >= 1
    log_g = log_means + jnp.log1p(-jnp.where(all_taken, 0, taken)) - jnp.log1p(-tau)
    log_g = jnp.where(all_taken | (log_g <= -1 / t), -1 / t, log_g)
    values = jax.nn.softplus(jnp.log(jnp.maximum(number, 1)) + log_g - own[None])
    return jnp.mean(jnp.where(alone, 0, values), axis=0)


@loss(
    static=("axis_name", "block_size"),
    beta=non_negative,
    temperature=positive,
    class_prior=prior,
    block_size=optional_size,
)
def hard_negative_contrastive(
    view_a: jax.Array,
    view_b: jax.Array,
    *,
    beta: float | jax.Array = 1.0,
    temperature: float | jax.Array = 0.5,
    class_prior: float | jax.Array = 0.1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    block_size: int | None = None,
) -> jax.Array:
    r"""Contrastive learning with hard negatives: `debiased_contrastive` with negatives weighted by similarity.

    The mean of $e^{s_n}$ over an anchor's negatives in `debiased_contrastive` is replaced by

    $$\frac{\sum_n e^{\beta s_n} e^{s_n}}{\sum_n e^{\beta s_n}}$$

    Args:
        view_a: [N, D], embeddings of the first views; normalised here.
        view_b: [N, D], embeddings of the second views, in the same order.
        beta: $\beta$, the concentration on hard negatives; 0 for none.
        temperature: $t$, divides the cosines.
        class_prior: The probability that two examples are of one class; below 1.
        where: [N], boolean; False excludes the pair.
        axis_name: Mapped device axis of the global batch.
        block_size: Views per block; None chooses.

    Returns:
        [N], nats per pair; 0 for a single pair.

    Example:
        Equal negatives have equal weights, so without a prior this is NT-Xent.

        >>> print(hard_negative_contrastive(jnp.eye(2), jnp.eye(2), temperature=1.0, class_prior=0.0).round(4))
        [0.5514 0.5514]

    Conventions:
        The weights use the scores after the temperature and have a gradient, as in the authors' code, with its
        defaults.

    References:
        Robinson et al. 2020, arXiv:2010.04592.
    """
    both, own, where = _views(view_a, view_b, temperature, where, axis_name)
    if own.shape[0] == 0:
        return own
    row_inputs = both.as_rows, as_scalar(beta, own.dtype)
    plain, weighted = stream(_weighted, row_inputs, gather_rows(both, axis_name), block_size=block_size)
    alone = plain == -jnp.inf
    log_means = jnp.where(alone, -jnp.inf, weighted - jnp.where(alone, 0, plain)).reshape(2, -1)
    number = 2 * count_present(where, own, axis_name) - 2
    return zero_masked(where, _corrected(own, log_means, number, temperature, class_prior))


def _weighted(row_inputs: Any, columns: Embeddings, index: jax.Array) -> tuple[LogSum, LogSum]:
    rows, beta = row_inputs
    scores = negatives(rows, columns)
    absent = scores == -jnp.inf
    scores = jnp.where(absent, 0, scores)
    return LogSum(jnp.where(absent, -jnp.inf, beta * scores)), LogSum(jnp.where(absent, -jnp.inf, (1 + beta) * scores))
