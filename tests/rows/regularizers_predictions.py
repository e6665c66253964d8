"""Rows of the penalties on predictions and on functions, and of the mixtures of examples."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.oracles import regularizers as oracles
from tests.rows import zeros

INF = np.inf


def logit_rows(rng, rows):
    return (rng.normal(size=(rows, 4)) * 2,)


def two_passes(rng, rows):
    return *logit_rows(rng, rows), *logit_rows(rng, rows)


def hostile_logits(rng):
    return {
        "logits + 1e4": (tuple(x + 1e4 for x in logit_rows(rng, 6)), {}),
        "masked classes": ((np.tile([0.0, -INF, 1, -INF], (6, 1)),), {}),
        "one class left": ((np.tile([-INF, -INF, 1, -INF], (6, 1)),), {}),
    }


WRONG_LOGITS = (
    BadCall((zeros(3, 4, dtype=np.int32),), ("logits", "floating", "int32")),
    BadCall((zeros(),), ("logits", "at least one class", "()")),
    BadCall((zeros(3, 0),), ("logits", "at least one class", "(3, 0)")),
    BadCall((zeros(3, 4),), ("where", "(3,)", "(3, 4)"), {"where": np.ones((3, 4), bool)}),
)


def naive_entropy(logits):
    p = jax.nn.softmax(logits, -1)
    return -(p * jnp.log(p)).sum(-1)


def sure_and_none(rng):
    return hostile_logits(rng) | {
        "a class at +inf": ((np.tile([0.0, INF, 1, -INF], (6, 1)),), {}),
        "no class": ((np.full((6, 4), -INF),), {}),
    }


ENTROPY = LossCase(
    lossfns.entropy_minimization,
    logit_rows,
    oracles.entropy_minimization,
    naive_entropy,
    shift_invariant=(0,),
    non_negative=True,
    limits={"even odds": lambda inputs: (lossfns.entropy_minimization(0 * inputs[0]), np.full(6, np.log(4)))},
    hostile=sure_and_none,
    bad_calls=WRONG_LOGITS,
)
CONFIDENCE = LossCase(
    lossfns.confidence_penalty,
    logit_rows,
    oracles.confidence_penalty,
    lambda logits: -naive_entropy(logits),
    variants=({}, {"threshold": 0.8}),
    sweep={"threshold": (0.1, 0.2, 0.3)},
    shift_invariant=(0,),
    limits={
        "less the entropy": lambda inputs: (
            lossfns.confidence_penalty(*inputs),
            -lossfns.entropy_minimization(*map(jnp.asarray, inputs)),
        )
    },
    hostile=sure_and_none,
    bad_calls=(*WRONG_LOGITS, BadCall((zeros(3, 4),), ("threshold", "at least 0", "-1"), {"threshold": -1})),
)


def naive_r_drop(a, b):
    p, q = jax.nn.softmax(a, -1), jax.nn.softmax(b, -1)
    return ((p - q) * (jnp.log(p) - jnp.log(q))).sum(-1) / 2


R_DROP = LossCase(
    lossfns.r_drop,
    two_passes,
    oracles.r_drop,
    naive_r_drop,
    shift_invariant=(0, 1),
    symmetric=((0, 1),),
    non_negative=True,
    limits={"the same pass": lambda inputs: (lossfns.r_drop(inputs[0], inputs[0]), np.zeros(6))},
    hostile=lambda rng: {
        "masked in both": ((np.tile([0.0, -INF, 1, -INF], (6, 1)), np.tile([1.0, -INF, 1, -INF], (6, 1))), {}),
        "masked in one": ((np.tile([0.0, -INF, 1, 0], (6, 1)), zeros(6, 4)), {}),
    },
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("logits_b", "(3, 4)", "(3, 5)")),
        BadCall((zeros(3, 0), zeros(3, 0)), ("logits_a", "at least one class", "(3, 0)")),
        BadCall((zeros(3, 4), zeros(3, 4, dtype=np.int32)), ("logits_b", "floating", "int32")),
    ),
)
ROUTER_Z = LossCase(
    lossfns.router_z,
    logit_rows,
    oracles.router_z,
    lambda logits: jnp.log(jnp.exp(logits).sum(-1)) ** 2,
    non_negative=True,
    hostile=lambda rng: hostile_logits(rng) | {"no expert": ((np.full((6, 4), -INF),), {})},
    bad_calls=WRONG_LOGITS,
)


def naive_balance(logits):
    chosen = jax.nn.one_hot(logits.argmax(-1), 4, dtype=logits.dtype).mean(0)
    return jnp.broadcast_to(4 * (chosen * jax.nn.softmax(logits, -1).mean(0)).sum(), logits.shape[:1])


BALANCE = LossCase(
    lossfns.moe_load_balance,
    logit_rows,
    oracles.moe_load_balance,
    naive_balance,
    variants=({}, {"top_k": 2}),
    batch_coupled=True,
    shift_invariant=(0,),
    non_negative=True,
    limits={
        "all experts": lambda inputs: (lossfns.moe_load_balance(*inputs, top_k=4), np.ones(6)),
        "one favourite": lambda inputs: (
            lossfns.moe_load_balance(0 * inputs[0] + np.float32([1e4, 0, 0, 0])),
            np.full(6, 4.0),
        ),
    },
    hostile=hostile_logits,
    bad_calls=(
        *WRONG_LOGITS,
        BadCall((zeros(3, 4),), ("top_k", "4", "5"), {"top_k": 5}),
        BadCall((zeros(3, 4),), ("top_k", "at least 1", "0"), {"top_k": 0}),
    ),
)


def network(x):
    return jnp.tanh(x @ oracles.WIDE.astype(x.dtype)) @ oracles.OUT.astype(x.dtype)


def virtual_adversary(inputs, directions, **options):
    return lossfns.vat(network, inputs, directions, **options)


VAT = LossCase(
    virtual_adversary,
    two_passes,
    oracles.vat,
    name="vat",
    sweep={"epsilon": (0.5, 1.0, 2.0)},
    variants=({}, {"steps": 2, "epsilon": 0.5}),
    scale_invariant=(1,),
    non_negative=True,
    hostile=lambda rng: {"no direction": ((rng.normal(size=(6, 4)), zeros(6, 4)), {})},
    bad_calls=(
        BadCall((zeros(3, 4), zeros(3, 5)), ("directions", "(3, 4)", "(3, 5)")),
        BadCall((zeros(), zeros()), ("inputs", "scalar")),
        BadCall((zeros(3, 4, dtype=np.int32), zeros(3, 4)), ("inputs", "floating", "int32")),
        BadCall((zeros(3, 4), zeros(3, 4)), ("epsilon", "positive", "0"), {"epsilon": 0}),
        BadCall((zeros(3, 4), zeros(3, 4)), ("steps", "at least 0", "-1"), {"steps": -1}),
    ),
    skip={
        "gradients": "adversary and target have no gradient; tests/lossfns/test_regularizers_functions.py holds them",
    },
    # The direction is a quotient of small numbers, and the divergence a difference of logarithms.
    condition=lambda kwargs: 4.0,
)


def first_score(x):
    return network(x)[:, 0]


def penalised_critic(inputs, **options):
    return lossfns.gradient_penalty(first_score, inputs, **options)


GRADIENT_PENALTY = LossCase(
    penalised_critic,
    logit_rows,
    oracles.gradient_penalty,
    name="gradient_penalty",
    sweep={"target": (0.5, 1.0, 2.0)},
    variants=({}, {"target": 0.1, "one_sided": True}),
    non_negative=True,
    limits={
        "R1": lambda inputs: (
            penalised_critic(jnp.asarray(inputs[0]), target=0.0),
            np.array([(oracles.network_slope(x)[:, 0] ** 2).sum() for x in np.float64(inputs[0])]),
        )
    },
    bad_calls=(
        BadCall((zeros(),), ("inputs", "scalar")),
        BadCall((zeros(3, 4, dtype=np.int32),), ("inputs", "floating", "int32")),
        BadCall((zeros(3, 4),), ("target", "at least 0", "-1"), {"target": -1}),
        BadCall((zeros(3, 4),), ("one_sided", "True or False", "1"), {"one_sided": 1}),
    ),
)


def log_likelihood(params, x, y):
    return -jnp.square(y - x @ params["weight"] - params["bias"]) / 2


def information(params, x, y, **options):
    out = lossfns.fisher_diagonal(log_likelihood, params, x, y, **options)
    return jnp.concatenate([out["bias"][None], out["weight"]])


def linear_model(rng, rows):
    return {"bias": rng.normal(), "weight": rng.normal(size=3)}, rng.normal(size=(5, 3)), rng.normal(size=5)


MODEL = {"bias": zeros(), "weight": zeros(3)}
FISHER = LossCase(
    information,
    linear_model,
    oracles.fisher_diagonal,
    name="fisher_diagonal",
    batched=False,
    non_negative=True,
    hostile=lambda rng: {"no example": (({"bias": 1.0, "weight": np.ones(3)}, zeros(0, 3), zeros(0)), {})},
    bad_calls=(
        BadCall((MODEL, zeros(2, 3), zeros(3)), ("examples[1]", "(2,)", "(3,)")),
        BadCall((MODEL, zeros(), zeros()), ("examples[0]", "scalar")),
        BadCall(({"bias": zeros(dtype=np.int32)}, zeros(2, 3), zeros(2)), ("bias", "floating", "int32")),
        BadCall((MODEL, zeros(2, 3), zeros(2)), ("where", "(2,)", "(3,)"), {"where": np.ones(3, bool)}),
    ),
)


def flat(mixed):
    return jnp.concatenate([mixed.inputs.ravel(), mixed.targets.ravel()])


def mixed_up(inputs, targets, **options):
    return flat(lossfns.mixup(jax.random.key(0), inputs, targets, **options))


def cut_and_mixed(images, targets, **options):
    return flat(lossfns.cutmix(jax.random.key(0), images, targets, **options))


def mixing_case(mix, name, shape, skip=()):
    one_less = np.ones(2, bool)
    return LossCase(
        mix,
        lambda rng, rows: (rng.normal(size=(4, *shape)), rng.uniform(size=(4, 3))),
        name=name,
        batched=False,
        sweep={"alpha": (0.5, 1.0, 2.0)},
        bad_calls=(
            BadCall((zeros(3, *shape), zeros(2, 3)), ("targets", "(3, 3)", "(2, 3)")),
            BadCall((zeros(3, *shape), zeros(3)), ("targets", "rank 2", "(3,)")),
            BadCall((zeros(3, *shape, dtype=np.int32), zeros(3, 3)), ("floating", "int32")),
            BadCall((zeros(3, *shape), zeros(3, 3)), ("alpha", "positive", "0"), {"alpha": 0}),
            BadCall((zeros(3, *shape), zeros(3, 3)), ("per", "batch", "'pixel'"), {"per": "pixel"}),
            BadCall((zeros(3, *shape), zeros(3, 3)), ("where", "(3,)", "(2,)"), {"where": one_less}),
        ),
        skip={"oracle": "its results are random; tests/lossfns/test_regularizers_functions.py mixes them again"}
        | dict.fromkeys(skip, "linear in its arrays as mixup, whose row has it"),
    )


ROWS = {
    "confidence_penalty": CONFIDENCE,
    "cutmix": mixing_case(cut_and_mixed, "cutmix", (4, 4, 1), skip=("gradients", "low precision", "vmap = loop")),
    "entropy_minimization": ENTROPY,
    "fisher_diagonal": FISHER,
    "gradient_penalty": GRADIENT_PENALTY,
    "mixup": mixing_case(mixed_up, "mixup", (2,)),
    "moe_load_balance": BALANCE,
    "r_drop": R_DROP,
    "router_z": ROUTER_Z,
    "vat": VAT,
}
