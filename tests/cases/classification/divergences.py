"""Cases of `lossfns.classification.divergences`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import CLASSES, hostile_pairs, naive_kl, nearly_alike, two_rows, zeros
from tests.cases.classification._shared import soft_rows
from tests.oracles.classification import divergences as oracles


def pair_calls(name, other):
    return (
        BadCall((zeros(3, 4), zeros(3, 5)), (other, "(3, 4)", "(3, 5)")),
        BadCall((zeros(), zeros()), (name, "at least one class", "()")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), (name, "floating", "int32")),
    )


def naive_jensen_shannon(logits_a, logits_b):
    a, b = jax.nn.softmax(logits_a, -1), jax.nn.softmax(logits_b, -1)
    m = (a + b) / 2
    return (a * jnp.log(a / m) + b * jnp.log(b / m)).sum(-1) / 2


KL = LossCase(
    lossfns.kl_divergence,
    two_rows,
    oracles.kl_divergence,
    naive_kl,
    shift_invariant=(0, 1),
    non_negative=True,
    hostile=hostile_pairs,
    limits={
        "near logits": lambda inputs: nearly_alike(lossfns.kl_divergence, oracles.kl_divergence, inputs),
        "KL(p || p) = 0": lambda inputs: (lossfns.kl_divergence(inputs[0], inputs[0]), zeros(6)),
        "cross-entropy less entropy": lambda inputs: (
            lossfns.kl_divergence(*inputs),
            lossfns.soft_cross_entropy(inputs[0], jax.nn.softmax(inputs[1]))
            - lossfns.soft_cross_entropy(inputs[1], jax.nn.softmax(inputs[1])),
        ),
        "a sure target is its label": lambda inputs: (
            lossfns.kl_divergence(inputs[0], jnp.log(jnp.eye(CLASSES)[jnp.array([0, 1, 2, 3, 4, 0])])),
            lossfns.softmax_cross_entropy(inputs[0], jnp.array([0, 1, 2, 3, 4, 0])),
        ),
    },
    bad_calls=pair_calls("logits", "target_logits"),
)
JENSEN_SHANNON = LossCase(
    lossfns.jensen_shannon,
    two_rows,
    oracles.jensen_shannon,
    naive_jensen_shannon,
    shift_invariant=(0, 1),
    symmetric=((0, 1),),
    non_negative=True,
    hostile=hostile_pairs,
    limits={
        "near logits": lambda inputs: nearly_alike(lossfns.jensen_shannon, oracles.jensen_shannon, inputs),
        "JS(p, p) = 0": lambda inputs: (lossfns.jensen_shannon(inputs[0], inputs[0]), zeros(6)),
        "the mean of two divergences": lambda inputs: (lossfns.jensen_shannon(*inputs), mean_divergence(*inputs)),
    },
    bad_calls=pair_calls("logits_a", "logits_b"),
)


def mean_divergence(logits_a, logits_b):
    log_m = jnp.log((jax.nn.softmax(logits_a) + jax.nn.softmax(logits_b)) / 2)
    return (lossfns.kl_divergence(log_m, logits_a) + lossfns.kl_divergence(log_m, logits_b)) / 2


def hostile_masses(rng):
    inf = np.inf
    return {
        "no mass": ((np.array([[-inf, 0.0, -3.0]]), np.array([[0.0, 0.0, 1.0]])), {}),
        "mass where none was predicted": ((np.array([[-inf, 0.0, 1.0]]), np.array([[0.5, 0.0, 1.0]])), {}),
        "a negative target": ((zeros(2, 3), np.array([[-1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])), {}),
        "equal": ((np.log(np.array([[0.1, 2.0, 30.0]])), np.array([[0.1, 2.0, 30.0]])), {}),
    }


GENERALIZED_KL = LossCase(
    lossfns.generalized_kl,
    lambda rng, rows: (rng.normal(size=(rows, CLASSES)), 3 * soft_rows(rng, rows)[1]),
    oracles.generalized_kl,
    lambda log_predictions, targets: (
        targets * (jnp.log(targets) - log_predictions) - targets + jnp.exp(log_predictions)
    ).sum(-1),
    non_negative=True,
    hostile=hostile_masses,
    limits={
        "between distributions": lambda inputs: (
            lossfns.generalized_kl(jax.nn.log_softmax(inputs[0]), jax.nn.softmax(inputs[1])),
            lossfns.kl_divergence(*inputs),
        )
    },
    outside={1: (-0.5,)},
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("targets", "(3, 4)", "(3, 5)")),
        BadCall((zeros(), zeros()), ("log_predictions", "at least one class", "()")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("log_predictions", "floating", "int32")),
    ),
)


CASES = {
    "generalized_kl": GENERALIZED_KL,
    "jensen_shannon": JENSEN_SHANNON,
    "kl_divergence": KL,
}
