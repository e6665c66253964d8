"""Cases of `lossfns.classification.long_tail`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import hostile_logits, labelled_rows, zeros
from tests.oracles.classification import long_tail as oracles

COUNTS = np.array([100, 30, 10, 5, 1], np.int32)


def with_counts(loss):
    """The loss with counts, one for each class: they are not rows."""

    def counted(logits, labels, *, where=None, **options):
        counts = options.pop("class_counts", COUNTS[: logits.shape[-1]])
        return loss(logits, labels, jnp.asarray(counts), where=where, **options)

    return counted


def counted_oracle(oracle):
    return lambda logits, labels, *, class_counts=None, **options: oracle(
        logits, labels, COUNTS[: logits.shape[-1]] if class_counts is None else class_counts, **options
    )


def count_call(*words, counts=COUNTS[:4], logits=None, labels=None, **options):
    logits = zeros(3, 4) if logits is None else logits
    labels = zeros(3, dtype=np.int32) if labels is None else labels
    return BadCall((logits, labels), words, {"class_counts": counts, **options})


WRONG_COUNTS = (
    count_call("class_counts", "(4,)", "(5,)", counts=COUNTS),
    count_call("class_counts", "rank 1", "(2, 2)", counts=COUNTS[:4].reshape(2, 2)),
    count_call("labels", "(3,)", "(4,)", labels=zeros(4, dtype=np.int32)),
    count_call("logits", "floating", "int32", logits=zeros(3, 4, dtype=np.int32)),
)


def hostile_counts(rng):
    logits = rng.normal(size=(5, 5))
    return hostile_logits(rng) | {
        "a class without examples": ((logits[:3], np.array([0, 1, 4])), {"class_counts": np.array([3, 1, 0, 5, 2])}),
        "counts of 1 and 1e9": ((logits[:3], np.array([0, 1, 4])), {"class_counts": np.array([1, 10**9, 1, 1, 1])}),
    }


def naive_adjusted(logits, labels):
    share = jnp.asarray(COUNTS / COUNTS.sum(), logits.dtype)
    p = jax.nn.softmax(logits + jnp.broadcast_to(jnp.log(share), logits.shape), -1)
    return -jnp.log(jnp.take_along_axis(p, labels[..., None], -1)[..., 0])


def adjusted_case(loss, **options):
    return LossCase(
        with_counts(loss),
        labelled_rows,
        counted_oracle(oracles.logit_adjusted),
        naive_adjusted,
        name=loss.__name__,
        labels=1,
        shift_invariant=(0,),
        non_negative=True,
        hostile=hostile_counts,
        **options,
    )


LOGIT_ADJUSTED = adjusted_case(
    lossfns.logit_adjusted,
    variants=({}, {"tau": 0.5}),
    sweep={"tau": (0.5, 1.0, 2.0)},
    limits={
        "tau 0 is the cross-entropy": lambda inputs: (
            lossfns.logit_adjusted(*inputs, jnp.array([3, 1, 0, 5, 2]), tau=0.0),
            lossfns.softmax_cross_entropy(*inputs),
        )
    },
    bad_calls=(*WRONG_COUNTS, count_call("tau", "-1", tau=-1)),
)
BALANCED_SOFTMAX = adjusted_case(
    lossfns.balanced_softmax,
    limits={
        "even counts are the cross-entropy": lambda inputs: (
            lossfns.balanced_softmax(*inputs, jnp.full(5, 7.0)),
            lossfns.softmax_cross_entropy(*inputs),
        )
    },
    bad_calls=WRONG_COUNTS,
)


def cosine_rows(rng, rows):
    logits, labels = labelled_rows(rng, rows)
    return np.tanh(logits), labels


def naive_ldam(logits, labels):
    margins = jnp.asarray(0.5 * COUNTS**-0.25, logits.dtype)[labels]
    pushed = 30 * (logits - margins[..., None] * jax.nn.one_hot(labels, 5, dtype=logits.dtype))
    return -jnp.log(jnp.take_along_axis(jax.nn.softmax(pushed, -1), labels[..., None], -1)[..., 0])


LDAM = LossCase(
    with_counts(lossfns.ldam),
    cosine_rows,
    counted_oracle(oracles.ldam),
    naive_ldam,
    name="ldam",
    variants=({}, {"max_margin": 0.2, "scale": 10.0}),
    sweep={"max_margin": (0.2, 0.3, 0.4), "scale": (1.0, 10.0, 20.0)},
    labels=1,
    # Cosines are magnified by the scale, and with them their roundings.
    condition=lambda kwargs: kwargs.get("scale", 30.0),
    non_negative=True,
    below_zero="the label's logit and the largest may be rounded apart where the compiler fuses the margin",
    hostile=hostile_counts,
    limits={
        "no margin is the cross-entropy": lambda inputs: (
            lossfns.ldam(*inputs, jnp.asarray(COUNTS), max_margin=0.0, scale=1.0),
            lossfns.softmax_cross_entropy(*inputs),
        )
    },
    bad_calls=(
        *WRONG_COUNTS,
        count_call("scale", "positive", "0", scale=0),
        count_call("max_margin", "-1", max_margin=-1),
    ),
)

CLASS_BALANCED_WEIGHTS = LossCase(
    lossfns.class_balanced_weights,
    lambda rng, rows: (COUNTS.astype(np.float32),),
    oracles.class_balanced_weights,
    batched=False,
    variants=({"beta": 0.9}, {"beta": 0.0}, {"beta": 1.0}),
    sweep={"beta": (0.9, 0.99, 0.999)},
    # beta itself is rounded: its distance from one is what counts.
    condition=lambda kwargs: 1 / (1 - kwargs["beta"]) if kwargs["beta"] < 1 else 1.0,
    hostile=lambda rng: {
        "classes without examples": ((np.array([3, 0, 1, 0, 2], np.int32),), {"beta": 0.9}),
        "one class": ((np.array([3], np.int32),), {"beta": 0.9}),
        "a negative count": ((np.array([3, -1], np.int32),), {"beta": 0.9}),
    },
    limits={
        "beta 1 is the inverse frequency": lambda inputs: (
            lossfns.class_balanced_weights(*inputs, beta=1.0),
            5 / COUNTS / (1 / COUNTS).sum(),
        )
    },
    bad_calls=(
        BadCall((zeros(2, 3),), ("class_counts", "rank 1", "(2, 3)")),
        BadCall((np.array([True, False]) * (1 + 2j),), ("class_counts", "real", "complex")),
        BadCall((COUNTS,), ("beta", "between 0 and 1", "1.5"), {"beta": 1.5}),
    ),
    skip={
        "gradients": "counts are data, and the sum of the weights, which the check differentiates, is a constant",
        "devices = one device": "weights of classes, the same on every device",
    },
    free=(),  # counts are counts, and the oracle adds that many terms
)


CASES = {
    "balanced_softmax": BALANCED_SOFTMAX,
    "class_balanced_weights": CLASS_BALANCED_WEIGHTS,
    "ldam": LDAM,
    "logit_adjusted": LOGIT_ADJUSTED,
}
