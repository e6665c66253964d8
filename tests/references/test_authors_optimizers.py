"""Our optimizers against the parameters that their authors' code came to, committed in authors_optimizers.json."""

import json

import jax
import numpy as np
import pytest

from tests.references.authors_optimizers import CASES, FILE, problem
from tests.train.support.optimizer_oracles import run
from train.optimizers import OptimizerConfig


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_those_of_the_authors_code(name):
    case, right = CASES[name], json.loads(FILE.read_text())[name]
    settings = {"weight_decay": 0.0, "decay_pattern": ".", "schedule": "constant"} | case.ours
    config = OptimizerConfig(name=name.split(",")[0], learning_rate=case.rate, **settings)
    params, grads = problem(case)
    with jax.enable_x64(True):
        ours = run(config, params, grads, kind=np.float64)[-1]
    for key, values in right.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-10)
        assert np.abs(np.asarray(values) - params[key]).max() > 1e-3
