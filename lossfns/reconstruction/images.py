"""Reconstruction of images and patches: denoising, MAE, SimMIM."""

import jax
import jax.numpy as jnp

from lossfns._contract import (
    accumulation_dtype,
    as_scalar,
    check_array,
    check_shape,
    check_where,
    finite,
    flag,
    loss,
    non_negative,
    one_of,
    probability,
    sanitize,
    zero_masked,
)
from lossfns._numerics import magnitude
from lossfns.reconstruction._examples import check_examples, mean_over_features

_ERRORS = {"squared": jnp.square, "absolute": magnitude}


@loss(static=("error",), error=one_of("squared", "absolute"))
def denoising(
    predictions: jax.Array, clean: jax.Array, *, error: str = "squared", where: jax.Array | None = None
) -> jax.Array:
    r"""Denoising: reconstruction error of a clean example from its corrupted version, averaged over features.

    $$\frac{1}{D} \sum_d (\hat x_d - x_d)^2$$

    Args:
        predictions: [N, ...], reconstructions from `corrupt(key, clean)`.
        clean: [N, ...], the examples before the corruption.
        error: "squared", or "absolute" for the mean of $|\hat x_d - x_d|$.
        where: [N], boolean; False excludes the example.

    Returns:
        [N].

    Example:
        >>> print(denoising(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])))
        [2.]

    Conventions:
        The error is over all features, corrupted or not, as in the paper, but averaged where the paper sums (D times as
        much). For pixels as probabilities the paper's cross-entropy is the sum of
        `sigmoid_cross_entropy(logits, clean)` over features.

    References:
        Vincent et al. 2008, doi:10.1145/1390156.1390294.
    """
    check_examples(predictions=predictions, clean=clean)
    where = check_where(where, predictions.shape[:1])
    predictions, clean = sanitize(where, predictions, clean)
    return zero_masked(where, mean_over_features(_ERRORS[error](predictions - clean)))


@loss(
    static=("kind",),
    kind=one_of("gaussian", "mask", "salt_pepper"),
    scale=non_negative,
    rate=probability,
    low=finite,
    high=finite,
)
def corrupt(
    key: jax.Array,
    images: jax.Array,
    *,
    kind: str = "gaussian",
    scale: float | jax.Array = 0.25,
    rate: float | jax.Array = 0.25,
    low: float | jax.Array = 0.0,
    high: float | jax.Array = 1.0,
) -> jax.Array:
    r"""Adds noise to images, for `denoising`.

    Args:
        key: A PRNG key; fold in the device index if the batch is sharded.
        images: [...], any shape.
        kind: "gaussian" adds normal noise; "mask" sets entries to 0; "salt_pepper" sets entries to `low` or `high` with
            equal probability.
        scale: Standard deviation of the normal noise, in the images' units.
        rate: Probability that an entry is masked or replaced, independently.
        low: Value of pepper.
        high: Value of salt.

    Returns:
        [...], of the images' shape and dtype. Nothing is clipped.

    Example:
        >>> images = jnp.full((2, 2), 0.5)
        >>> print(corrupt(jax.random.key(0), images, kind="mask", rate=1.0))
        [[0. 0.]
         [0. 0.]]

    Conventions:
        The paper masks the same number of entries in each example; here the number is random. Channels of a pixel have
        independent noise.

    References:
        Vincent et al. 2010, JMLR 11:3371-3408.
    """
    check_array("images", images)
    if kind == "gaussian":
        dtype = accumulation_dtype(images)
        noise = jax.random.normal(key, images.shape, dtype)
        return (images.astype(dtype) + as_scalar(scale, dtype) * noise).astype(images.dtype)
    for_rate, for_side = jax.random.split(key)
    hit = jax.random.bernoulli(for_rate, as_scalar(rate, jnp.dtype(jnp.float32)), images.shape)
    if kind == "mask":
        return jnp.where(hit, jnp.zeros((), images.dtype), images)
    salt = jax.random.bernoulli(for_side, 0.5, images.shape)
    return jnp.where(hit, jnp.where(salt, as_scalar(high, images.dtype), as_scalar(low, images.dtype)), images)


def _check_patches(predictions: jax.Array, patches: jax.Array) -> None:
    check_array("predictions", predictions)
    if predictions.ndim < 2 or predictions.shape[-1] == 0:
        raise ValueError(f"predictions must be [..., P, D] with D of at least 1, got shape {predictions.shape}")
    check_shape("patches", check_array("patches", patches), predictions.shape, "of predictions")


@loss(static=("norm_pix",), norm_pix=flag, eps=non_negative)
def masked_patches(
    predictions: jax.Array,
    patches: jax.Array,
    *,
    norm_pix: bool = False,
    eps: float | jax.Array = 1e-6,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Mean squared error of each patch's pixels (masked autoencoder, MAE).

    With `norm_pix` the target of a patch is $(x - \bar x) / \sqrt{\mathrm{Var}(x) + \epsilon}$, with the mean and
    unbiased variance (D - 1) of its D values.

    Args:
        predictions: [..., P, D], the decoder's output for each of P patches.
        patches: [..., P, D], the pixels of each patch, all channels.
        norm_pix: Whether to normalise targets per patch.
        eps: $\epsilon$.
        where: [..., P], boolean: the masked patches; also the weights of MAE's mean.

    Returns:
        [..., P]; 0 where `where` is False.

    Raises:
        ValueError: If `norm_pix` is given with patches of one value.

    Example:
        A patch with mean 2 and variance 2; normalised, its pixels are -1 and 1 over root 2.

        >>> prediction, patch = jnp.zeros((1, 2)), jnp.array([[1.0, 3.0]])
        >>> print(masked_patches(prediction, patch), masked_patches(prediction, patch, norm_pix=True).round(4))
        [5.] [0.5]

    Conventions:
        - `norm_pix` is off as in the paper's baseline and on in its best models. The epsilon inside the root and the
          unbiased variance are the authors'; the biased variance (JAX's default) would enlarge the targets by the root
          of D / (D - 1).
        - Their mean is over all masked patches of a batch, not a mean of means per image.

    References:
        He et al. 2021, arXiv:2111.06377.
    """
    _check_patches(predictions, patches)
    features = predictions.shape[-1]
    if norm_pix and features < 2:
        raise ValueError(f"patches must have at least 2 values to be normalised, got shape {patches.shape}")
    where = check_where(where, predictions.shape[:-1])
    predictions, targets = sanitize(where, predictions, patches)
    if norm_pix:
        # A pixel is subtracted first: a constant patch then has an exact mean, and an offset costs no precision.
        targets = targets - targets[..., :1]
        targets = targets - jnp.mean(targets, axis=-1, keepdims=True)
        variance = jnp.sum(jnp.square(targets), axis=-1, keepdims=True) / (features - 1) + as_scalar(eps, targets.dtype)
        targets = targets * jax.lax.rsqrt(jnp.where(variance == 0, 1, variance))
    return zero_masked(where, jnp.mean(jnp.square(predictions - targets), axis=-1))


@loss()
def simmim(predictions: jax.Array, patches: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Mean absolute error of each patch's pixels (SimMIM), with gradient 0 at equality.

    Args:
        predictions: [..., P, D], the head's output for each of P patches.
        patches: [..., P, D], the pixels of each patch, all channels.
        where: [..., P], boolean: the masked patches; also the weights of SimMIM's mean.

    Returns:
        [..., P]; 0 where `where` is False.

    Example:
        >>> print(simmim(jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0, -3.0], [1.0, 1.0]])))
        [2. 0.]

    Conventions:
        The authors' code adds 1e-5 to the number of masked pixels, so that an empty mask gives 0; `weighted_mean` does
        without.

    References:
        Xie et al. 2021, arXiv:2111.09886.
    """
    _check_patches(predictions, patches)
    where = check_where(where, predictions.shape[:-1])
    predictions, targets = sanitize(where, predictions, patches)
    return zero_masked(where, jnp.mean(magnitude(predictions - targets), axis=-1))
