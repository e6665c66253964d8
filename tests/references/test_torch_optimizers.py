"""Our optimizers against the parameters that torch's came to, committed in torch_optimizers.json."""

import json

import numpy as np
import pytest

from tests.references.torch_optimizers import CASES, FILE, STEPS
from tests.train.support.optimizer_oracles import RATE, gradients, parameters, run
from train.optimizers import OptimizerConfig


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_those_of_torch(name):
    right = json.loads(FILE.read_text())["cases"][name]
    settings = {"weight_decay": 0.0} | CASES[name][2]
    config = OptimizerConfig(name=name, learning_rate=RATE, schedule="constant", **settings)
    params = parameters()
    ours = run(config, params, gradients(params, STEPS))[-1]
    for key, values in right.items():
        np.testing.assert_allclose(ours[key], values, rtol=3e-5, atol=3e-6)
        assert np.abs(np.asarray(values) - params[key]).max() > 1e-3
