"""Cases of `lossfns.reconstruction.images`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.reconstruction._shared import images, wrong_examples
from tests.oracles.reconstruction import images as oracles

DENOISING = LossCase(
    lossfns.denoising,
    images,
    oracles.denoising,
    lambda predictions, clean: jnp.mean((predictions - clean) ** 2, (1, 2)),
    variants=({}, {"error": "absolute"}),
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: {
        "equal": ((zeros(6, 2, 3) + 1e4, zeros(6, 2, 3) + 1e4), {}),
        "one number each": ((zeros(6) + 3, zeros(6)), {}),
        "absolute errors of 0": ((zeros(6, 2, 3), zeros(6, 2, 3)), {"error": "absolute"}),
    },
    bad_calls=(
        *wrong_examples("predictions", "clean"),
        BadCall((zeros(3, 2), zeros(3, 2)), ("error", "squared", "cubed"), {"error": "cubed"}),
    ),
)


def corrupted(images, **options):
    return lossfns.corrupt(jax.random.key(0), images, **options)


RANDOM = "its results are random; tests/lossfns/test_reconstruction.py counts them"
PLACES = "its random draws belong to places in the batch, not to rows"
CORRUPT = LossCase(
    corrupted,
    lambda rng, rows: images(rng, rows, 1),
    name="corrupt",
    batched=False,
    variants=({}, {"kind": "mask"}, {"kind": "salt_pepper", "rate": 0.5, "low": -1.0, "high": 2.0}),
    sweep={"scale": (0.1, 0.2, 0.3), "rate": (0.1, 0.2, 0.3), "low": (0.0, 0.1, 0.2), "high": (0.7, 0.8, 0.9)},
    limits={
        "no noise": lambda x: (corrupted(*map(jnp.asarray, x), scale=0.0), x[0]),
        "nothing masked": lambda x: (corrupted(*map(jnp.asarray, x), kind="mask", rate=0.0), x[0]),
        "everything masked": lambda x: (corrupted(*map(jnp.asarray, x), kind="mask", rate=1.0), 0 * x[0]),
    },
    bad_calls=(
        BadCall((zeros(2, 3, dtype=np.int32),), ("images", "floating", "int32")),
        BadCall((zeros(2, 3),), ("kind", "gaussian", "fog"), {"kind": "fog"}),
        BadCall((zeros(2, 3),), ("scale", "at least 0", "-1"), {"scale": -1}),
        BadCall((zeros(2, 3),), ("rate", "between 0 and 1", "2"), {"rate": 2}),
    ),
    skip={
        "oracle": RANDOM,
        "low precision": "images keep their dtype",
        "result dtype": "images keep their dtype",
        "gradients": "float32 and float64 draw different numbers; tests/lossfns/test_reconstruction.py",
        "vmap = loop": PLACES,
        "devices = one device": PLACES,
    },
)


def patches(rng, rows):
    return rng.normal(size=(rows, 2, 4)), rng.uniform(size=(rows, 2, 4))


def hostile_patches(rng):
    predictions, targets = patches(rng, 6)
    flat, far = zeros(6, 2, 4) + 0.3, np.round(targets * 64) / 64 + 1e3
    return {
        "flat patches": ((predictions, flat), {"norm_pix": True}),
        "both + 1e3": ((predictions + 1e3, targets + 1e3), {}),
        "patches + 1e3": ((predictions, far), {"norm_pix": True}),
        "flat patches without an epsilon": ((predictions, 0 * targets), {"norm_pix": True, "eps": 0.0}),
        "no patch": ((predictions[:, :0], targets[:, :0]), {}),
    }


def wrong_patches():
    return (
        BadCall((zeros(3, 2, 4), zeros(3, 2, 5)), ("patches", "(3, 2, 4)", "(3, 2, 5)")),
        BadCall((zeros(4), zeros(4)), ("predictions", "[..., P, D]", "(4,)")),
        BadCall((zeros(3, 2, 0), zeros(3, 2, 0)), ("D of at least 1", "(3, 2, 0)")),
        BadCall((zeros(3, 2, 4, dtype=np.int32), zeros(3, 2, 4)), ("predictions", "floating", "int32")),
        BadCall((zeros(3, 2, 4), zeros(3, 2, 4, dtype=np.int32)), ("patches", "floating", "int32")),
    )


# Normalising divides a patch's roundings by its deviation, here about a third of its values.
MASKED_PATCHES = LossCase(
    lossfns.masked_patches,
    patches,
    oracles.masked_patches,
    lambda predictions, patches: jnp.mean((predictions - patches) ** 2, -1),
    variants=({}, {"norm_pix": True}),
    sweep={"eps": (1e-6, 1e-5, 1e-4)},
    element_masks=True,
    non_negative=True,
    condition=lambda kwargs: 4.0 if kwargs.get("norm_pix") else 1.0,
    hostile=hostile_patches,
    limits={
        "a target normalised twice": lambda x: (
            lossfns.masked_patches(x[0], 100 * x[1] + 7, norm_pix=True, eps=0.0),
            lossfns.masked_patches(x[0], x[1], norm_pix=True, eps=0.0),
        ),
    },
    bad_calls=(
        *wrong_patches(),
        BadCall((zeros(3, 2, 1), zeros(3, 2, 1)), ("at least 2", "(3, 2, 1)"), {"norm_pix": True}),
        BadCall((zeros(3, 2, 4), zeros(3, 2, 4)), ("norm_pix", "True or False", "1"), {"norm_pix": 1}),
        BadCall((zeros(3, 2, 4), zeros(3, 2, 4)), ("eps", "at least 0", "-1"), {"eps": -1}),
    ),
)
SIMMIM = LossCase(
    lossfns.simmim,
    patches,
    oracles.simmim,
    lambda predictions, patches: jnp.mean(jnp.abs(predictions - patches), -1),
    element_masks=True,
    symmetric=((0, 1),),
    non_negative=True,
    hostile=lambda rng: {"equal": ((zeros(6, 2, 4) + 1e4, zeros(6, 2, 4) + 1e4), {})},
    bad_calls=wrong_patches(),
)


CASES = {
    "corrupt": CORRUPT,
    "denoising": DENOISING,
    "masked_patches": MASKED_PATCHES,
    "simmim": SIMMIM,
}
