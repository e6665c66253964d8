"""Our losses against torch's numbers, committed in torch_values.json with the inputs they are for."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import CASES
from tests.references.torch_calls import CALLS

STORED = json.loads(Path(__file__).with_name("torch_values.json").read_text())["cases"]


def test_every_call_has_its_numbers():
    assert STORED.keys() == CALLS.keys()


@pytest.mark.parametrize("name", STORED)
def test_values_and_gradients_are_those_of_torch(name):
    case = STORED[name]
    loss = CASES[case["row"]].loss
    with jax.enable_x64(True):
        inputs = []
        for x in case["inputs"]:
            array = np.array(x["data"], x["dtype"])
            inputs.append(jnp.asarray(array, jnp.float64 if array.dtype.kind == "f" else array.dtype))
        values = np.array(case["values"])
        weights = np.linspace(0.5, 1.5, values.size).reshape(values.shape)

        def total(*moving):
            given = list(inputs)
            for i, x in zip(case["differentiable"], moving, strict=True):
                given[i] = x
            ours = loss(*given, **case["options"])
            return jnp.sum(ours * weights), ours

        moving = [inputs[i] for i in case["differentiable"]]
        places = tuple(range(len(moving)))
        gradients, ours = jax.jit(jax.grad(total, argnums=places, has_aux=True))(*moving)
        np.testing.assert_allclose(ours, values, rtol=1e-10, atol=1e-10)
        for got, wanted in zip(gradients, case["gradients"], strict=True):
            np.testing.assert_allclose(got, np.array(wanted), rtol=1e-9, atol=1e-9)
