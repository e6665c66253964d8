"""Distillation of a teacher's distribution over classes or tokens, from logits."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    as_scalar,
    check_array,
    check_classes,
    check_labels,
    flag,
    loss,
    nan_where_invalid,
    non_negative,
    positive,
    prepare,
    probability,
    zero_masked,
)
from lossfns._divergences import divergence, log_pair, mixture_divergence
from lossfns._numerics import at_label, centred, divided, log_normalizer, log_probabilities, magnitude, row_shift


def _student_and_teacher(
    student_logits: jax.Array, teacher_logits: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    where, (x, y) = prepare(where, row_axes=1, student_logits=student_logits, teacher_logits=teacher_logits)
    check_classes("student_logits", x)
    return x, jax.lax.stop_gradient(y), where


@loss(temperature=positive)
def knowledge_distillation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence of the student from the teacher at a temperature (Hinton's distillation).

    $$T^2\, \mathrm{KL}\big(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(s / T)\big)$$

    Args:
        student_logits: [..., V], s in nats.
        teacher_logits: [..., V], t in nats, a constant: no gradient. A class at -inf has probability 0.
        temperature: T, divides both.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0. A class with probability only under the teacher gives inf.

    Example:
        Odds of 9 to 1, softened at temperature 2 to 3 to 1, against equal odds: 4 (3/4 log 3/2 + 1/4 log 1/2).

        >>> teacher = jnp.log(jnp.array([[9.0, 1.0]]))
        >>> print(knowledge_distillation(jnp.zeros((1, 2)), teacher, temperature=2.0).round(4))
        [0.5232]

    Conventions:
        - $T^2$ keeps the gradient's scale as the temperature grows; at high temperatures it is the gradient of half the
          mean squared error of centred logits, times V. Without it, the term needs another weight for each T.
        - The paper's cross-entropy with the labels is a separate term.
        - torch's `kl_div(..., reduction="batchmean")` divides by the first axis only; with "mean" it is 1/V of this.

    References:
        Hinton et al. 2015, arXiv:1503.02531.
    """
    x, y, where = _student_and_teacher(student_logits, teacher_logits, where)
    t = as_scalar(temperature, x.dtype)
    return zero_masked(where, jnp.square(t) * divergence(x, y, t))


@loss(temperature=positive, target_weight=non_negative, others_weight=non_negative)
def dkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 4.0,
    target_weight: float | jax.Array = 1.0,
    others_weight: float | jax.Array = 8.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Decoupled knowledge distillation (DKD): separate weights for the label's and the other classes' terms.

    $$T^2 \big(\alpha\, \mathrm{KL}(b^t \,\|\, b^s) + \beta\, \mathrm{KL}(\hat p^t \,\|\, \hat p^s)\big)$$

    with $b = (p_y, 1 - p_y)$ the label against the rest and $\hat p$ the distribution over the other classes.
    Plain distillation has $\alpha = 1$ and $\beta = 1 - p^t_y$, which is small if the teacher is confident.

    Args:
        student_logits: [..., V], in nats, at least two classes.
        teacher_logits: [..., V], in nats, a constant: no gradient.
        labels: [...], integers in 0 .. V-1.
        temperature: T, divides both.
        target_weight: $\alpha$.
        others_weight: $\beta$.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0.

    Raises:
        ValueError: If there is only one class.

    Example:
        Teacher probabilities of 1/2 for the label and 1/4 for the others, student 1/3 each: the others agree, and the
        label costs 1/2 log 3/2 + 1/2 log 3/4.

        >>> teacher = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
        >>> print(dkd(jnp.zeros((1, 3)), teacher, jnp.array([0]), temperature=1.0).round(4))
        [0.0589]

    Conventions:
        The authors' code takes the logarithm of summed probabilities and masks the label by subtracting 1000, which is
        infinite or wrong for logit gaps from about 100 T; here everything is a difference of log-sum-exps. Its weights
        are 1 and 8 for CIFAR-100 (as here), 1 and 0.5 for ImageNet at T = 1, with a warm-up of the loss weight over 20
        epochs.

    References:
        Zhao et al. 2022, arXiv:2203.08679.
    """
    check_array("student_logits", student_logits)
    check_classes("student_logits", student_logits)
    if student_logits.shape[-1] < 2:
        raise ValueError(f"student_logits must have at least two classes, got shape {student_logits.shape}")
    x, y, where = _student_and_teacher(student_logits, teacher_logits, where)
    labels, in_range, where = check_labels(x, labels, where)
    t = as_scalar(temperature, x.dtype)
    is_label = at_label(labels, x.shape[-1])

    def binary(logits: jax.Array) -> jax.Array:
        """[..., 2], the label and the rest of a distribution softened by T."""
        below = divided(centred(logits), t)
        others = jnp.where(is_label, -jnp.inf, below)
        shift = row_shift(others)[1]
        rest = log_normalizer(others, shift) + shift[..., 0]
        return jnp.stack([jnp.take_along_axis(below, labels[..., None], axis=-1)[..., 0], rest], axis=-1)

    target = as_scalar(target_weight, x.dtype) * divergence(binary(x), binary(y))
    others, others_t = (jnp.where(is_label, -jnp.inf, logits) for logits in (x, y))
    # If the teacher has a single class, the other classes' term is 0.
    none = jnp.all(others_t == -jnp.inf, axis=-1, keepdims=True)
    spread = divergence(jnp.where(none, 0, others), jnp.where(none, 0, others_t), t)
    rest = as_scalar(others_weight, x.dtype) * spread
    return zero_masked(where, nan_where_invalid(in_range, jnp.square(t) * (target + rest)))


@loss()
def reverse_kl(student_logits: jax.Array, teacher_logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Reverse, mode-seeking KL divergence $\mathrm{KL}(s \,\|\, t)$ of student and teacher.

    Args:
        student_logits: [..., V], unnormalised log-probabilities in nats.
        teacher_logits: [..., V], a constant: no gradient.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0. A class with probability only under the student gives inf.

    Example:
        Equal odds of the student, 9 to 1 of the teacher: 1/2 log 5/9 + 1/2 log 5 = log(5/3).

        >>> print(reverse_kl(jnp.zeros((1, 2)), jnp.log(jnp.array([[9.0, 1.0]]))).round(4))
        [0.5108]

    Conventions:
        The exact divergence of one token. MiniLLM minimises the divergence of whole sequences drawn from the student by
        policy gradients; this is its single-step part.

    References:
        Gu et al. 2023, arXiv:2306.08543 (MiniLLM).
    """
    x, y, where = _student_and_teacher(student_logits, teacher_logits, where)
    return zero_masked(where, divergence(y, x))


@loss(static=("normalize",), beta=probability, normalize=flag)
def generalized_jsd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    beta: float | jax.Array = 0.5,
    normalize: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Generalised Jensen-Shannon divergence between teacher and student.

    $$\beta\, \mathrm{KL}(t \,\|\, m) + (1 - \beta)\, \mathrm{KL}(s \,\|\, m), \quad m = \beta t + (1 - \beta) s$$

    Args:
        student_logits: [..., V], unnormalised log-probabilities in nats.
        teacher_logits: [..., V], a constant: no gradient.
        beta: $\beta$ in 0 .. 1, the teacher's share of the mixture.
        normalize: Whether to divide by $\beta (1 - \beta)$. The value then tends to $\mathrm{KL}(t \,\|\, s)$ for
            $\beta \to 0$ and to $\mathrm{KL}(s \,\|\, t)$ for $\beta \to 1$, where the formula itself is 0.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], nats per row, at least 0; unless normalised, at most the entropy of beta. A class with probability on one
        side only is harmless.

    Example:
        Two distributions with disjoint support: the entropy of a quarter, 1/4 log 4 + 3/4 log 4/3.

        >>> student, teacher = jnp.array([[0.0, -jnp.inf]]), jnp.array([[-jnp.inf, 0.0]])
        >>> round(float(generalized_jsd(student, teacher, beta=0.25)[0]), 4)
        0.5623

    Conventions:
        TRL's trainer uses the plain divergences at exactly 0 and 1, where its value jumps; with `normalize` this one is
        continuous. At 1/2 it is `jensen_shannon`.

    References:
        Agarwal et al. 2023, arXiv:2306.13649 (GKD).
    """
    x, y, where = _student_and_teacher(student_logits, teacher_logits, where)
    b = as_scalar(beta, x.dtype)
    log_s, log_t, gap = log_pair(x, y)
    inside = (b > 0) & (b < 1)
    b_in = jnp.where(inside, b, 0.5)
    values = mixture_divergence(log_s, log_t, gap, b_in)
    if not normalize:
        return zero_masked(where, jnp.where(inside, values, 0 * values))
    ends = jnp.where(b == 0, divergence(x, y), divergence(y, x))
    return zero_masked(where, jnp.where(inside, values / (b_in * (1 - b_in)), ends))


@loss()
def total_variation(
    student_logits: jax.Array, teacher_logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    r"""Total variation distance between student and teacher, $\tfrac12 \sum_k |s_k - t_k|$ of their softmaxes.

    Args:
        student_logits: [..., V], unnormalised log-probabilities in nats.
        teacher_logits: [..., V], a constant: no gradient.
        where: [...], boolean; False excludes the row.

    Returns:
        [...], probability in 0 .. 1. Where both probabilities are equal, the gradient is 0.

    Example:
        Equal odds against 3 to 1: a quarter of the mass differs.

        >>> print(total_variation(jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]]))).round(4))
        [0.25]

    References:
        Wen et al. 2023, arXiv:2307.15190 (f-divergences for distillation).
    """
    x, y, where = _student_and_teacher(student_logits, teacher_logits, where)
    gaps = magnitude(jnp.exp(log_probabilities(x)) - jnp.exp(log_probabilities(y)))
    nothing = jnp.all(x == -jnp.inf, axis=-1) | jnp.all(y == -jnp.inf, axis=-1)
    return zero_masked(where, jnp.where(nothing, jnp.nan, jnp.sum(gaps, axis=-1) / 2))
