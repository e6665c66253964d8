"""Cases of `lossfns.regression.asymmetric`."""

import jax.numpy as jnp
import numpy as np

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases._shared import zeros
from tests.cases.regression._shared import WRONG_PREDICTIONS, hostile_predictions, predicted_rows
from tests.oracles.regression import asymmetric as oracles

WRONG_LEVELS = ((1.0, "between 0 and 1"), (np.ones(2, np.float32) / 2, "(2,)"))


def asymmetric_case(loss, name, oracle, naive, half_of, **options):
    return LossCase(
        loss,
        predicted_rows,
        oracle,
        naive,
        variants=({}, {name: 0.9}),
        sweep={name: (0.1, 0.2, 0.3)},
        element_masks=True,
        non_negative=True,
        limits={
            "half at 0.5": lambda inputs: (loss(*inputs), half_of(*inputs) / 2),
            "one level a column": lambda inputs: (
                loss(*inputs, **{name: jnp.array([0.1, 0.5, 0.9])}),
                np.stack([oracle(*(x[:, i] for x in inputs), **{name: q}) for i, q in enumerate((0.1, 0.5, 0.9))], 1),
            ),
        },
        hostile=hostile_predictions,
        bad_calls=(
            *WRONG_PREDICTIONS,
            *(BadCall((zeros(3), zeros(3)), (name, words), {name: level}) for level, words in WRONG_LEVELS),
        ),
        **options,
    )


QUANTILE = asymmetric_case(
    lossfns.quantile,
    "quantile",
    oracles.quantile,
    lambda predictions, targets: jnp.abs(predictions - targets) / 2,
    lossfns.absolute_error,
)
EXPECTILE = asymmetric_case(
    lossfns.expectile,
    "expectile",
    oracles.expectile,
    lambda predictions, targets: (predictions - targets) ** 2 / 2,
    lossfns.squared_error,
)


CASES = {
    "expectile": EXPECTILE,
    "quantile": QUANTILE,
}
