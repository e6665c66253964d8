"""The benchmarks run, say the truth about accuracy, and need neither Grain nor TFDS."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import streaming
from experiments.benchmarks.cases import CASES
from lossfns._blockwise import sizes


@pytest.mark.parametrize("name", ["linear_cross_entropy, bfloat16", "siglip"])
def test_a_case_is_measured_and_written(name, tmp_path, capsys):
    options = streaming.Options(only=(name,), rounds=1, patience=0, shape_scale=1 / 512, out=tmp_path / "table.json")
    (row,) = streaming.main(options)
    assert row.seconds > 0
    assert row.error <= row.plain_error * 1.01
    assert f"| {name} |" in capsys.readouterr().out
    written = json.loads(options.out.read_text())
    assert written["rows"][0]["ratio"] == row.ratio
    assert {"device", "jax", "date"} <= set(written["environment"])


@pytest.mark.parametrize("name", CASES)
def test_both_sides_compute_the_same(name):
    case = CASES[name]
    shape = {k: 16 if k in case.scaled else min(v, 16) for k, v in case.sizes.items()}
    arrays = case.make(streaming.jax.random.key(0), "float32", False, **shape).values()
    assert float(case.ours(*arrays)) == pytest.approx(float(case.plain(*arrays)), rel=1e-5)


STREAMED = ("linear_cross_entropy", "MLM head", "dpo from hidden states", "nt_xent", "clip", "siglip")


@pytest.mark.parametrize("name", STREAMED)
def test_the_form_for_accelerators_computes_the_same(name, monkeypatch):
    """Where a program is lowered for a GPU or TPU it takes the `default` forms. Here CPU runs them, in small blocks."""
    chosen = []

    def as_accelerators(*given, default, **_):
        chosen.append(default)
        return default(*given)

    monkeypatch.setattr(jax.lax, "platform_dependent", as_accelerators)
    for constant, scores in {"CACHED": 2**5, "LAUNCHED": 2**8, "REUSED": 4, "_LEAST": 4}.items():
        monkeypatch.setattr(sizes, constant, scores)
    case = CASES[name]
    shape = {k: 29 if k in case.scaled else min(v, 16) for k, v in case.sizes.items()}  # traced by no other test
    arrays = case.make(jax.random.key(0), "float32", False, **shape).values()
    moving = tuple(i for i, x in enumerate(arrays) if np.issubdtype(x.dtype, np.floating))
    ours, plain = (jax.value_and_grad(loss, argnums=moving)(*arrays) for loss in (case.ours, case.plain))
    # Roundings of float32, in sums of which the largest are near 0.5.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, plain)
    assert chosen


def test_an_unknown_case_or_file_and_no_rounds_are_refused():
    with pytest.raises(SystemExit, match="no case matches nothing"):
        streaming.main(streaming.Options(only=("nothing",)))
    with pytest.raises(SystemExit, match="--rounds must be at least 1, got 0"):
        streaming.main(streaming.Options(only=("clip",), rounds=0))
    with pytest.raises(SystemExit, match="--out must end"):
        streaming.main(streaming.Options(only=("clip",), out=streaming.Path("table.csv")))


def test_benchmarks_import_without_grain_and_tfds():
    program = """
import sys
for name in ("grain", "tensorflow_datasets", "tensorflow"):
    sys.modules[name] = None  # importing it now raises
import experiments.benchmarks.streaming
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
