"""Cases of `lossfns.contrastive.image_text`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns._numerics import unit_vectors
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import two_views, zeros
from tests.cases.contrastive._shared import bad_pairs, hostile_views, inverse_temperature, of_pairs, unit
from tests.oracles.contrastive import image_text as oracles


def scale_of_cosines(default):
    """A rounding of a cosine is multiplied by the scale."""
    return lambda kwargs: max(1.0, kwargs.get("scale", default))


def naive_clip(a, b):
    scores = unit(a) @ unit(b).T / 0.07
    rows, columns = jnp.log(jnp.exp(scores).sum(1)), jnp.log(jnp.exp(scores).sum(0))
    return (rows + columns) / 2 - jnp.diagonal(scores)


def both_directions(inputs):
    """CLIP is the mean of InfoNCE both ways."""
    options = {"temperature": 0.07, "similarity": "cosine"}
    a, b = inputs
    return lossfns.clip(a, b), (lossfns.info_nce(a, b, **options) + lossfns.info_nce(b, a, **options)) / 2


def clipped(inputs):
    return lossfns.clip(*inputs, scale=1e3), lossfns.clip(*inputs, scale=100.0)


CLIP = of_pairs(
    lossfns.clip,
    oracles.clip,
    naive_clip,
    variants=({}, {"scale": 100.0, "block_size": 4, "ring": True}),
    sweep={"scale": (10.0, 20.0, 30.0), "max_scale": (10.0, 20.0, 30.0)},
    condition=scale_of_cosines(1 / 0.07),
    symmetric=((0, 1),),
    limits={"InfoNCE both ways": both_directions, "scale beyond its bound": clipped},
    hostile=lambda rng: hostile_views(rng, scale=100.0),
    bad_calls=(
        *bad_pairs("a", scale=0, max_scale=-1, ring=1),
        BadCall((zeros(3, 4), zeros(2, 4)), ("b", "(3, 4)", "(2, 4)")),
    ),
)


def naive_siglip(a, b):
    scores = 10 * unit(a) @ unit(b).T - 10
    return -jnp.log(jax.nn.sigmoid((2 * jnp.eye(len(a), dtype=scores.dtype) - 1) * scores)).sum(-1)


def indifferent(inputs):
    """With all scores 0 each of a row's N pairs costs log 2."""
    return lossfns.siglip(*inputs, scale=1e-30, bias=0.0), np.full(len(inputs[0]), len(inputs[0]) * np.log(2))


SIGLIP = of_pairs(
    lossfns.siglip,
    oracles.siglip,
    naive_siglip,
    variants=({}, {"scale": 2.0, "bias": 0.5, "block_size": 4, "ring": True}),
    sweep={"scale": (10.0, 20.0, 30.0), "bias": (-10.0, -5.0, 0.0)},
    nan_stays={0: "the value of a pair compares its image with all texts"},
    condition=scale_of_cosines(10.0),
    limits={"scores of 0": indifferent},
    hostile=lambda rng: hostile_views(rng, scale=100.0) | hostile_views(rng, bias=1e4),
    bad_calls=(
        *bad_pairs("a", scale=-1, ring="yes"),
        BadCall((zeros(3, 4), zeros(2, 4)), ("b", "(3, 4)", "(2, 4)")),
    ),
)


def captioned(rng, rows):
    """Tokens of 0 are padding; the second caption is empty."""
    tokens = rng.integers(1, 5, (rows, 4)).astype(np.int32)
    tokens[::3, 3:] = 0
    tokens[1:2] = 0
    return (*two_views(rng, rows), rng.normal(size=(rows, 4, 5)), tokens)


def coca(a, b, logits, tokens, **options):
    return lossfns.coca(a, b, logits, tokens, token_where=jnp.asarray(tokens) != 0, **options)


def naive_coca(a, b, logits, tokens):
    log_p = jnp.log(jax.nn.softmax(logits[:, :-1]))
    chosen = jnp.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
    return naive_clip(a, b) - 2 * jnp.where(tokens[:, 1:] != 0, chosen, 0).sum(-1)


def one_loss_of_two(inputs):
    options = {"contrastive_weight": 0.0, "caption_weight": 3.0}
    where = jnp.asarray(inputs[3]) != 0
    return coca(*inputs, **options), 3 * lossfns.next_token(*inputs[2:], where=where).sum(-1)


def co_ca_call(*words, **options):
    return BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 2, 5), zeros(3, 2, dtype=np.int32)), words, options)


COCA = LossCase(
    coca,
    captioned,
    oracles.coca,
    naive_coca,
    name="coca",
    variants=({}, {"contrastive_weight": 0.5, "caption_weight": 1.0, "length_average": True}),
    sweep={"contrastive_weight": (0.5, 1.0, 2.0), "caption_weight": (0.5, 1.0, 2.0), "scale": (10.0, 20.0, 30.0)},
    labels=3,
    num_classes=lambda *inputs: inputs[2].shape[-1],
    nan_stays={2: "the caption's logits are of one pair"},
    condition=lambda kwargs: 1 / 0.07,  # a rounding of a cosine is multiplied by the scale
    batch_coupled=True,
    modes=("rev",),
    scale_invariant=(0, 1),
    shift_invariant=(2,),
    non_negative=True,
    limits={
        "captions alone": one_loss_of_two,
        "contrast alone": lambda x: (coca(*x, caption_weight=0.0), lossfns.clip(*x[:2])),
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5), zeros(3, 2, 5), zeros(3, 2, dtype=np.int32)), ("b", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3, 4), zeros(3, 4), zeros(3, 5), zeros(3, dtype=np.int32)), ("logits", "rank 3", "rank 2")),
        BadCall(
            (zeros(3, 4), zeros(3, 4), zeros(3, 2, 5), zeros(3, 4, dtype=np.int32)), ("tokens", "(3, 2)", "(3, 4)")
        ),
        co_ca_call("caption_weight", "at least 0", "-1", caption_weight=-1),
        co_ca_call("length_average", "True or False", length_average=1),
        co_ca_call("scale", "positive", "0", scale=0),
    ),
)


def fused_pairs(rng, rows):
    return rng.normal(size=(rows, 2)), (np.arange(rows) % 2).astype(np.int32)


IMAGE_TEXT_MATCHING = LossCase(
    lossfns.image_text_matching,
    fused_pairs,
    oracles.image_text_matching,
    lambda logits, matched: -jnp.log(jax.nn.softmax(logits))[jnp.arange(len(matched)), matched],
    labels=1,
    shift_invariant=(0,),
    non_negative=True,
    limits={
        "booleans": lambda x: (lossfns.image_text_matching(x[0], x[1] == 1), lossfns.image_text_matching(*x)),
    },
    outside={1: (-1, 2)},
    bad_calls=(
        BadCall((zeros(3, 3), zeros(3, dtype=np.int32)), ("logits", "2", "(3, 3)")),
        BadCall((zeros(3, 2), zeros(3)), ("matched", "boolean", "float32")),
        BadCall((zeros(3, 2), zeros(2, dtype=np.int32)), ("matched", "(3,)", "(2,)")),
        BadCall((zeros(3, 2, dtype=np.int32), zeros(3, dtype=np.int32)), ("logits", "floating", "int32")),
    ),
)


def cosines_drawn(a, b, *, temperature=1e-4, where=None, **options):
    """At a temperature near 0 the hardest are drawn: their cosines, of both kinds together."""
    drawn = lossfns.hard_negative_pairs(jax.random.key(0), a, b, temperature=temperature, where=where, **options)
    u, v = unit_vectors(jnp.asarray(a)), unit_vectors(jnp.asarray(b))
    values = (u * v[drawn.b_of_a]).sum(-1) + (v * u[drawn.a_of_b]).sum(-1)
    return jnp.where(drawn.present, values, 0)


HARD_NEGATIVE_PAIRS = LossCase(
    cosines_drawn,
    two_views,
    lambda a, b, **options: oracles.hardest_cosines(a, b),
    name="hard_negative_pairs",
    differentiable=(),
    sweep={"temperature": (1e-4, 2e-4, 3e-4)},
    condition=inverse_temperature(1.0),
    batch_coupled=True,
    bad_calls=tuple(call for call in bad_pairs("a", temperature=0) if "block_size" not in call.kwargs),
    skip={
        "devices = one device": "draws from the batch of its own device, where the features to fuse are",
        "hyper-parameters out of range": "the rows drawn are integers, which cannot be NaN",
    },
)


CASES = {
    "clip": CLIP,
    "coca": COCA,
    "hard_negative_pairs": HARD_NEGATIVE_PAIRS,
    "image_text_matching": IMAGE_TEXT_MATCHING,
    "siglip": SIGLIP,
}
