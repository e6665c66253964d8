"""Cases of `lossfns.reconstruction.generative`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.reconstruction._shared import images, wrong_examples
from tests.oracles.reconstruction import generative as oracles


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


CASES = {
    "denoising_score_matching": SCORE_MATCHING,
    "diffusion": DIFFUSION,
    "flow_matching": FLOW_MATCHING,
}
