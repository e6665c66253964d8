"""Rows of the losses that restore an example."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import reconstruction as oracles
from tests.rows import zeros


def images(rng, rows, count=2):
    return tuple(rng.normal(size=(rows, 2, 3)) for _ in range(count))


def wrong_examples(first, second, *others):
    """Calls that any loss of examples of one shape refuses."""
    return (
        BadCall((zeros(3, 2), zeros(3, 4), *others), (second, "(3, 2)", "(3, 4)")),
        BadCall((zeros(), zeros(), *others), (first, "[N, ...]", "()")),
        BadCall((zeros(3, 0), zeros(3, 0), *others), (first, "at least one feature", "(3, 0)")),
        BadCall((zeros(3, 2, dtype=np.int32), zeros(3, 2), *others), (first, "floating", "int32")),
        BadCall((zeros(3, 2), zeros(3, 2, dtype=np.int32), *others), (second, "floating", "int32")),
    )


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


def posteriors(rng, rows):
    return (
        rng.normal(size=(rows, 2, 2)),
        rng.uniform(size=(rows, 2, 2)),
        rng.normal(size=(rows, 3)),
        rng.normal(size=(rows, 3)) / 2,
    )


def naive_beta_vae(x, t, mean, log_variance):
    fit = -t * jnp.log(jax.nn.sigmoid(x)) - (1 - t) * jnp.log(1 - jax.nn.sigmoid(x))
    return fit.sum((1, 2)) + (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1) / 2


def hostile_posteriors(rng):
    x, t, mean, log_variance = posteriors(rng, 6)
    wrong = t.copy()
    wrong[0, 0, 0], wrong[1, 1, 1], wrong[2, 0, 1] = -0.1, 1.5, np.nan
    sure = np.round(t)
    return {
        "inputs outside 0 .. 1": ((x, wrong, mean, log_variance), {}),
        "the same under a normal likelihood": ((x, 10 * t, mean, log_variance), {"likelihood": "gaussian"}),
        "sure and right": ((1e4 * (2 * sure - 1), sure, mean, log_variance), {}),
        "sure and wrong": ((-1e4 * (2 * sure - 1), sure, mean, log_variance), {}),
        "a posterior near the prior": ((x, t, 1e-4 * mean, 1e-4 * log_variance), {}),
        "variances of e^-80 and e^80": ((x, t, mean, 80 * np.sign(log_variance)), {}),
    }


BETA_VAE = LossCase(
    lossfns.beta_vae,
    posteriors,
    oracles.beta_vae,
    naive_beta_vae,
    variants=({}, {"beta": 4.0, "likelihood": "gaussian", "scale": 0.5}),
    sweep={"beta": (1.0, 4.0, 8.0), "scale": (0.1, 0.5, 1.0)},
    differentiable=(0, 2, 3),
    non_negative=True,
    hostile=hostile_posteriors,
    limits={
        "the prior as posterior costs nothing": lambda x: (
            lossfns.beta_vae(x[0], x[1], 0 * x[2], 0 * x[3]),
            lossfns.beta_vae(*x, beta=0.0),
        ),
        "half the squared error": lambda x: (
            lossfns.beta_vae(*x, beta=0.0, likelihood="gaussian") - 2 * math.log(2 * math.pi),
            2 * lossfns.denoising(x[0], x[1]),
        ),
    },
    outside={1: (-0.5, 1.5)},
    bad_calls=(
        *wrong_examples("reconstructions", "inputs", zeros(3, 2), zeros(3, 2)),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(2, 5), zeros(2, 5)), ("mean", "(3, 4)", "(2, 5)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3), zeros(3)), ("mean", "[N, Z]", "(3,)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 4)), ("log_variance", "(3, 5)", "(3, 4)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 5)), ("beta", "at least 0", "-1"), {"beta": -1}),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 5)), ("scale", "positive", "0"), {"scale": 0}),
        BadCall(
            (zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, 5)), ("likelihood", "poisson"), {"likelihood": "poisson"}
        ),
    ),
)


def noisy(rng, rows):
    return *images(rng, rows), rng.uniform(0.5, 2.0, size=rows)


def naive_score_matching(scores, noise, sigma):
    return jnp.sum((sigma[:, None, None] * scores + noise) ** 2, (1, 2)) / 2


def hostile_levels(rng):
    scores, noise, _ = noisy(rng, 6)
    return {
        "levels of 0, -1, NaN and infinity": ((scores, noise, np.array([0, -1, np.nan, np.inf, 1e-3, 1e3])), {}),
        "the right scores": ((-noise / 2, noise, zeros(6) + 2), {"weighting": "none"}),
    }


SCORE_MATCHING = LossCase(
    lossfns.denoising_score_matching,
    noisy,
    oracles.denoising_score_matching,
    naive_score_matching,
    variants=({}, {"weighting": "none"}),
    non_negative=True,
    hostile=hostile_levels,
    limits={
        "the right scores cost nothing": lambda x: (
            lossfns.denoising_score_matching(-x[1] / x[2][:, None, None], x[1], x[2]),
            np.zeros(6),
        ),
    },
    outside={2: (-1.0, 0.0)},
    bad_calls=(
        *wrong_examples("scores", "noise", zeros(3)),
        BadCall((zeros(3, 2), zeros(3, 2), zeros(2)), ("sigma", "(3,)", "(2,)")),
        BadCall((zeros(3, 2), zeros(3, 2), zeros(3, dtype=np.int32)), ("sigma", "floating", "int32")),
        BadCall((zeros(3, 2), zeros(3, 2), zeros(3)), ("weighting", "variance", "all"), {"weighting": "all"}),
    ),
)


def diffused(rng, rows):
    return *images(rng, rows, 3), rng.uniform(0.1, 0.9, size=rows)


def same_model(x):
    """One model's noise, clean example and velocity, from its noise; and alpha-bar as [N, 1, 1]."""
    predicted, clean, noise, alpha_bar = x
    a = alpha_bar[:, None, None]
    noisy = np.sqrt(a) * clean + np.sqrt(1 - a) * noise
    restored = (noisy - np.sqrt(1 - a) * predicted) / np.sqrt(a)
    return restored, np.sqrt(a) * predicted - np.sqrt(1 - a) * restored


def hostile_times(rng):
    predictions, clean, noise, _ = diffused(rng, 6)
    times = np.array([0, 1, -0.1, 1.1, np.nan, 0.5])
    cases = {"no option": {}} | {
        f"{target} and weights": {"target": target, "min_snr": 5.0} for target in ("noise", "clean", "velocity")
    }
    return {f"all times, {name}": ((predictions, clean, noise, times), options) for name, options in cases.items()}


WRONG_TIMES = (
    *wrong_examples("predictions", "clean", zeros(3, 2), zeros(3)),
    BadCall((zeros(3, 2), zeros(3, 2), zeros(3, 4), zeros(3)), ("noise", "(3, 2)", "(3, 4)")),
    BadCall((zeros(3, 2), zeros(3, 2), zeros(3, 2), zeros(3, 1)), ("alpha_bar", "(3,)", "(3, 1)")),
    BadCall((zeros(3, 2), zeros(3, 2), zeros(3, 2), zeros(3)), ("target", "noise", "score"), {"target": "score"}),
    BadCall((zeros(3, 2), zeros(3, 2), zeros(3, 2), zeros(3)), ("min_snr", "positive", "0"), {"min_snr": 0}),
)
# Converting one prediction into another divides by the root of alpha-bar, at least 0.1.
DIFFUSION = LossCase(
    lossfns.diffusion,
    diffused,
    oracles.diffusion,
    lambda predictions, clean, noise, alpha_bar: jnp.mean((predictions - noise) ** 2, (1, 2)),
    variants=({}, {"target": "velocity", "min_snr": 5.0}, {"target": "clean", "min_snr": 1.0}),
    sweep={"min_snr": (1.0, 2.0, 5.0)},
    differentiable=(0, 1, 2),
    non_negative=True,
    hostile=hostile_times,
    condition=lambda kwargs: 4.0,
    limits={
        "noise is SNR times clean": lambda x: (
            lossfns.diffusion(*x),
            x[3] / (1 - x[3]) * lossfns.diffusion(same_model(x)[0], *x[1:], target="clean"),
        ),
        "velocity is SNR + 1 times clean": lambda x: (
            lossfns.diffusion(same_model(x)[1], *x[1:], target="velocity"),
            1 / (1 - x[3]) * lossfns.diffusion(same_model(x)[0], *x[1:], target="clean"),
        ),
        "clipped weights agree": lambda x: (
            lossfns.diffusion(same_model(x)[1], *x[1:], target="velocity", min_snr=2.0),
            lossfns.diffusion(same_model(x)[0], *x[1:], target="clean", min_snr=2.0),
        ),
    },
    outside={3: (-0.5, 1.5)},
    bad_calls=WRONG_TIMES,
)
FLOW_MATCHING = LossCase(
    lossfns.flow_matching,
    lambda rng, rows: images(rng, rows, 3),
    oracles.flow_matching,
    lambda predictions, data, noise: jnp.mean((predictions - (data - noise)) ** 2, (1, 2)),
    variants=({}, {"sigma_min": 0.1}),
    sweep={"sigma_min": (0.001, 0.01, 0.1)},
    non_negative=True,
    limits={
        "the right velocity": lambda x: (lossfns.flow_matching(x[1] - x[2], x[1], x[2]), np.zeros(6)),
        "all spread is left": lambda x: (lossfns.flow_matching(*x, sigma_min=1.0), lossfns.denoising(x[0], x[1])),
    },
    bad_calls=(
        *wrong_examples("predictions", "data", zeros(3, 2)),
        BadCall((zeros(3, 2), zeros(3, 2), zeros(3, 1)), ("noise", "(3, 2)", "(3, 1)")),
        BadCall(images(np.random.default_rng(0), 3, 3), ("sigma_min", "between 0 and 1", "2"), {"sigma_min": 2}),
    ),
)


ROWS = {
    "beta_vae": BETA_VAE,
    "corrupt": CORRUPT,
    "denoising": DENOISING,
    "denoising_score_matching": SCORE_MATCHING,
    "diffusion": DIFFUSION,
    "flow_matching": FLOW_MATCHING,
    "masked_patches": MASKED_PATCHES,
    "simmim": SIMMIM,
}
