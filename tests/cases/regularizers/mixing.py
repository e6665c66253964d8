"""Cases of `lossfns.regularizers.mixing`."""

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros


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
        | dict.fromkeys(skip, "linear in its arrays like mixup, which is tested for it"),
    )


CASES = {
    "cutmix": mixing_case(cut_and_mixed, "cutmix", (4, 4, 1), skip=("gradients", "low precision", "vmap = loop")),
    "mixup": mixing_case(mixed_up, "mixup", (2,)),
}
