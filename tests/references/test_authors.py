"""Our losses against the numbers of their authors' code, committed in authors.json with the inputs they are for."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import CASES
from tests.references.authors_calls import CALLS
from tests.test_architecture import FILES, RUNS_CODE, imported

STORED = json.loads(Path(__file__).with_name("authors.json").read_text())


def test_every_call_has_its_numbers():
    sources = {name: [call.code.repository, call.code.commit] for name, call in CALLS.items()}
    assert sources == {name: case["source"] for name, case in STORED.items()}
    assert {call.row for call in CALLS.values()} <= CASES.keys()


def test_commits_are_hashes_which_no_one_can_move():
    assert all(re.fullmatch("[0-9a-f]{40}", call.code.commit) for call in CALLS.values())


def test_no_file_of_the_sources_or_tests_imports_the_scripts_that_run_their_code():
    of_optimizers = RUNS_CODE.with_name("authors_optimizers.py")  # which uses the other; its test reads its cases
    for script, users in (
        (RUNS_CODE, [of_optimizers]),
        (of_optimizers, [RUNS_CODE.with_name("test_authors_optimizers.py")]),
    ):
        module = f"{script.with_suffix('')}".replace("/", ".")
        assert [path for path in FILES if module in imported(path)] == users


@pytest.mark.parametrize("name", STORED)
def test_values_and_gradients_are_those_of_the_authors(name):
    call, case = CALLS[name], STORED[name]
    with jax.enable_x64(True):
        inputs = [jnp.asarray(np.array(x["data"], x["dtype"])) for x in case["inputs"]]
        values = np.array(case["values"])
        weights = np.linspace(0.5, 1.5, values.size).reshape(values.shape)

        def ours(*moving):
            given = list(inputs)
            for i, x in zip(call.differentiable, moving, strict=True):
                given[i] = x
            return call.ours(*given)

        def gradient(*moving):
            value, back = jax.vjp(ours, *moving)
            return value, back(jnp.asarray(weights)) if moving else ()

        run = jax.jit(gradient, compiler_options={"xla_backend_optimization_level": 0})  # it runs once
        value, gradients = run(*[inputs[i] for i in call.differentiable])
        assert value.shape == values.shape
        close = {"rtol": call.tolerance, "atol": call.tolerance}
        np.testing.assert_allclose(value, values, **close)
        for got, wanted in zip(gradients, case["gradients"], strict=True):
            np.testing.assert_allclose(got, np.array(wanted), **close)
