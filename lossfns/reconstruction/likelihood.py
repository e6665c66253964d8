"""Evidence lower bound of variational autoencoders."""

import math

import jax
import jax.numpy as jnp

from lossfns._contract import (
    as_scalar,
    check_array,
    check_shape,
    check_where,
    loss,
    nan_where_invalid,
    non_negative,
    one_of,
    positive,
    sanitize,
    zero_masked,
)
from lossfns.classification.cross_entropy import sigmoid_cross_entropy
from lossfns.reconstruction._examples import check_examples, feature_axes, sum_over_features


@loss(static=("likelihood",), beta=non_negative, likelihood=one_of("bernoulli", "gaussian"), scale=positive)
def beta_vae(
    reconstructions: jax.Array,
    inputs: jax.Array,
    mean: jax.Array,
    log_variance: jax.Array,
    *,
    beta: float | jax.Array = 1.0,
    likelihood: str = "bernoulli",
    scale: float | jax.Array = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Negative evidence lower bound (ELBO) of a variational autoencoder, with the KL term times beta.

    $$-\sum_d \log p(x_d \mid z) + \frac{\beta}{2} \sum_j \left( \mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2 \right)$$

    for a normal posterior $\mu, \sigma$ and a standard normal prior.

    Args:
        reconstructions: [N, ...], the decoder's output for one sample $z$: logits for "bernoulli", means for
            "gaussian".
        inputs: [N, ...], the examples $x$; 0 to 1 for "bernoulli".
        mean: [N, Z], $\mu$.
        log_variance: [N, Z], $\log \sigma^2$.
        beta: Weight of the KL term; 1 is the ELBO.
        likelihood: "bernoulli", or "gaussian" with a fixed standard deviation.
        scale: Standard deviation of "gaussian".
        where: [N], boolean; False excludes the example.

    Returns:
        [N], nats per example, summed over features and latents. An input outside 0 .. 1 under "bernoulli" gives NaN in
        its example.

    Example:
        Equal odds for two pixels cost 2 log 2; a posterior of mean 1 and variance 1 costs 1/2.

        >>> zeros = jnp.zeros((1, 2))
        >>> print(beta_vae(zeros, zeros, jnp.array([[1.0]]), jnp.array([[0.0]])).round(4))
        [1.8863]

    Conventions:
        - Higgins et al. use beta of 4 and more; the default is Kingma and Welling's bound.
        - "gaussian" is the full density, $\frac{1}{2} (x - \hat x)^2 / s^2 + \log s + \frac{1}{2} \log 2 \pi$; the
          squared error alone, as in much code, is $s = \sqrt{1/2}$ up to a constant. A mean over pixels instead of the
          sum multiplies beta by their number.
        - Inputs between 0 and 1 under "bernoulli" are common; the value is then not a likelihood.

    References:
        Kingma and Welling 2013, arXiv:1312.6114. Higgins et al. 2017, ICLR (openreview Sy2fzU9gl).
    """
    check_examples(reconstructions=reconstructions, inputs=inputs)
    check_array("mean", mean)
    if mean.ndim != 2 or mean.shape[0] != inputs.shape[0]:
        raise ValueError(f"mean must be [N, Z] with N of inputs {inputs.shape}, got shape {mean.shape}")
    check_shape("log_variance", check_array("log_variance", log_variance), mean.shape, "of mean")
    where = check_where(where, inputs.shape[:1])
    reconstructions, inputs, mean, log_variance = sanitize(where, reconstructions, inputs, mean, log_variance)
    # expm1 keeps e^v - 1 - v accurate near v = 0, where a posterior starts.
    latent = jnp.sum(jnp.square(mean) + (jnp.expm1(log_variance) - log_variance), axis=-1) / 2
    if likelihood == "bernoulli":
        valid = (inputs >= 0) & (inputs <= 1)
        costs = sum_over_features(sigmoid_cross_entropy(reconstructions, jnp.where(valid, inputs, 0)))
        costs = nan_where_invalid(jnp.all(valid, axis=feature_axes(valid)), costs)
    else:
        deviation = as_scalar(scale, inputs.dtype)
        constant = jnp.log(deviation) + math.log(2 * math.pi) / 2
        costs = sum_over_features(jnp.square((inputs - reconstructions) / deviation) / 2 + constant)
    return zero_masked(where, costs + as_scalar(beta, inputs.dtype) * latent)
