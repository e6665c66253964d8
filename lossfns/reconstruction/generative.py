"""Regressions that train generative models: score matching, diffusion, flow matching."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    as_scalar,
    check_array,
    check_shape,
    check_where,
    loss,
    nan_where_invalid,
    one_of,
    positive,
    probability,
    sanitize,
    zero_masked,
)
from lossfns.reconstruction._examples import check_examples, mean_over_features, per_example, sum_over_features


def _check_levels(name: str, levels: jax.Array, examples: jax.Array) -> None:
    check_shape(name, check_array(name, levels), examples.shape[:1], "of one number for each example")


@loss(static=("weighting",), weighting=one_of("variance", "none"))
def denoising_score_matching(
    scores: jax.Array,
    noise: jax.Array,
    sigma: jax.Array,
    *,
    weighting: str = "variance",
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Denoising score matching: squared distance of a model's score from the score of the noise.

    For examples $x + \sigma \epsilon$ the target is the score of the noise, $-\epsilon / \sigma$:

    $$\frac{\sigma^2}{2} \left\lVert s + \frac{\epsilon}{\sigma} \right\rVert^2 = \frac{1}{2} \lVert \sigma s + \epsilon
    \rVert^2$$

    Args:
        scores: [N, ...], the model's $s(x + \sigma \epsilon, \sigma)$.
        noise: [N, ...], the standard normal $\epsilon$.
        sigma: [N], the standard deviation of the noise of each example; positive.
        weighting: "variance", as above, or "none" to omit the factor $\sigma^2$.
        where: [N], boolean; False excludes the example.

    Returns:
        [N], summed over features. A sigma that is not positive and finite gives NaN in its example.

    Example:
        At sigma 2 and noise 2 the true score is -1. A score of 0 costs 2^2 / 2, and (2 / 2)^2 / 2 unweighted.

        >>> score, noise, sigma = jnp.array([[0.0]]), jnp.array([[2.0]]), jnp.array([2.0])
        >>> print(denoising_score_matching(score, noise, sigma))
        [2.]
        >>> print(denoising_score_matching(score, noise, sigma, weighting="none"))
        [0.5]

    Conventions:
        "variance" is Song and Ermon's, which weights all noise levels equally; "none" is Vincent's. The noise is given
        instead of the noisy example, because the difference from the clean one would lose digits.

    References:
        Vincent 2011, doi:10.1162/NECO_a_00142. Song and Ermon 2019, arXiv:1907.05600.
    """
    check_examples(scores=scores, noise=noise)
    _check_levels("sigma", sigma, scores)
    where = check_where(where, scores.shape[:1])
    scores, noise, sigma = sanitize(where, scores, noise, sigma)
    valid = (sigma > 0) & (sigma < jnp.inf)
    level = per_example(jnp.where(valid, sigma, 1), scores)
    errors = level * scores + noise if weighting == "variance" else scores + noise / level
    return zero_masked(where, nan_where_invalid(valid, sum_over_features(jnp.square(errors)) / 2))


@loss(static=("target",), target=one_of("noise", "clean", "velocity"), min_snr=positive)
def diffusion(
    predictions: jax.Array,
    clean: jax.Array,
    noise: jax.Array,
    alpha_bar: jax.Array,
    *,
    target: str = "noise",
    min_snr: float | jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Mean squared error of a diffusion model's prediction.

    For $x_t = \sqrt{\bar\alpha} x_0 + \sqrt{1 - \bar\alpha} \epsilon$ the targets are the noise $\epsilon$, the clean
    example $x_0$, or the velocity $v = \sqrt{\bar\alpha} \epsilon - \sqrt{1 - \bar\alpha} x_0$.

    Args:
        predictions: [N, ...], the model's output for $x_t$.
        clean: [N, ...], $x_0$.
        noise: [N, ...], the standard normal $\epsilon$.
        alpha_bar: [N], the signal's fraction $\bar\alpha$ of the variance at each example's time, 0 to 1; constants.
        target: "noise", "clean" or "velocity": what the model predicts.
        min_snr: $\gamma$: weights examples so that in terms of $x_0$ the weight is the signal-to-noise ratio
            $\bar\alpha / (1 - \bar\alpha)$, clipped at $\gamma$. None for weights of 1.
        where: [N], boolean; False excludes the example.

    Returns:
        [N], averaged over features. An alpha_bar outside 0 .. 1 gives NaN in its example.

    Example:
        Clean 0, noise 2, half of the variance each. Predictions of 0 miss the noise by 2 and the velocity by root 2.

        >>> clean, noise, alpha_bar = jnp.array([[0.0]]), jnp.array([[2.0]]), jnp.array([0.5])
        >>> for target in ("noise", "clean", "velocity"):
        ...     print(diffusion(clean, clean, noise, alpha_bar, target=target).round(4))
        [4.]
        [0.]
        [2.]

    Conventions:
        - "noise" without weights is the simple loss of Ho et al.: their code averages over features, as here, and their
          equation has the squared norm.
        - The same model's "noise" error is SNR times its "clean" error, its "velocity" error SNR + 1 times.
        - The weights of Hang et al. are min(SNR, gamma) for "clean", divided by SNR for "noise" and by SNR + 1 for
          "velocity"; they use gamma of 5.

    References:
        Ho et al. 2020, arXiv:2006.11239. Salimans and Ho 2022, arXiv:2202.00512 (velocity). Hang et al. 2023,
        arXiv:2303.09556 (min-SNR).
    """
    check_examples(predictions=predictions, clean=clean, noise=noise)
    _check_levels("alpha_bar", alpha_bar, predictions)
    where = check_where(where, predictions.shape[:1])
    predictions, clean, noise, alpha_bar = sanitize(where, predictions, clean, noise, jax.lax.stop_gradient(alpha_bar))
    valid = (alpha_bar >= 0) & (alpha_bar <= 1)
    signal = jnp.where(valid, alpha_bar, 0)
    if target == "velocity":
        amplitudes = [per_example(jnp.sqrt(x), clean) for x in (signal, 1 - signal)]
        wanted = amplitudes[0] * noise - amplitudes[1] * clean
    else:
        wanted = noise if target == "noise" else clean
    values = mean_over_features(jnp.square(predictions - wanted))
    if min_snr is not None:
        values *= _min_snr_weight(signal, as_scalar(min_snr, signal.dtype), target)
    return zero_masked(where, nan_where_invalid(valid, values))


def _min_snr_weight(signal: jax.Array, gamma: jax.Array, target: str) -> jax.Array:
    """min(SNR, gamma), divided by SNR for noise and by SNR + 1 for velocity, with limits at SNR 0 and inf."""
    if target == "velocity":
        return jnp.minimum(signal, gamma * (1 - signal))
    ratio = signal / (1 - signal)
    if target == "clean":
        return jnp.minimum(ratio, gamma)
    high = ratio > gamma
    return jnp.where(high, gamma / jnp.where(high, ratio, 1), 1)


@loss(sigma_min=probability)
def flow_matching(
    predictions: jax.Array,
    data: jax.Array,
    noise: jax.Array,
    *,
    sigma_min: float | jax.Array = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Mean squared error of a velocity field along straight paths from noise to data (flow matching).

    On the path $x_t = (1 - (1 - \sigma) t) x_0 + t x_1$ the velocity is $x_1 - (1 - \sigma) x_0$.

    Args:
        predictions: [N, ...], the model's velocity at $x_t$ and $t$.
        data: [N, ...], $x_1$.
        noise: [N, ...], the standard normal $x_0$.
        sigma_min: $\sigma$, the spread around each example at time 1.
        where: [N], boolean; False excludes the example.

    Returns:
        [N], averaged over features.

    Example:
        From noise 1 to data 3 the velocity is 2.

        >>> print(flow_matching(jnp.array([[0.0]]), jnp.array([[3.0]]), jnp.array([[1.0]])))
        [4.]

    Conventions:
        With sigma_min 0 this is rectified flow (Liu et al.); Lipman et al. use a small number, and the squared norm, D
        times this mean. With time reversed from data to noise the velocity is negated and the loss the same.

    References:
        Lipman et al. 2022, arXiv:2210.02747. Liu et al. 2022, arXiv:2209.03003.
    """
    check_examples(predictions=predictions, data=data, noise=noise)
    where = check_where(where, predictions.shape[:1])
    predictions, data, noise = sanitize(where, predictions, data, noise)
    velocity = data - (1 - as_scalar(sigma_min, data.dtype)) * noise
    return zero_masked(where, mean_over_features(jnp.square(predictions - velocity)))
