"""An experiment from the command line with its parameters spread over devices, and as two processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import causal_lm
from experiments.study import cli
from tests.train.support.processes import end, free_port
from train import read_metrics

ROOT = Path(__file__).parents[2]
SMALL = ["--fast-dev-run", "--seeds", "1", "--steps", "2", "--eval-every", "2", "--checkpoint-every", "2"]
SMALL += ["--ngram-order", "1", "--sample-tokens", "4", "--data.max-examples", "300"]
SMALL += ["--model.depth", "1", "--optimizer.name", "adamw"]


def command_line(workdir, *more):
    cli.run(causal_lm.main, causal_lm.Config, causal_lm.__doc__, [*SMALL, "--workdir", str(workdir), *more])


def losses(workdir):
    return [(record["split"], record["step"], record["values"]["next_token"]) for record in read_metrics(workdir)]


def assert_same_losses(one, other):
    assert [row[:2] for row in one] == [row[:2] for row in other]
    np.testing.assert_allclose([row[2] for row in one], [row[2] for row in other], rtol=1e-4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    command_line(folder)
    return losses(folder)


def test_a_mesh_can_be_tried_dry(tmp_path, capsys):
    command_line(tmp_path / "run", "--mesh.fsdp", "4", "--mesh.tensor", "2", "--dry-run")
    assert "parameters" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_mesh_changes_nothing_but_where_things_lie(tmp_path, plain, capsys):
    command_line(tmp_path / "run", "--mesh.fsdp", "4", "--mesh.tensor", "2")
    assert_same_losses(losses(tmp_path / "run"), plain)
    command_line(tmp_path / "run", "--mesh.fsdp", "8")  # is a finished run, on whatever devices
    assert "report:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh.fsdp", "3"], "needs 6 devices, but there are 8"),
        (["--mesh.fsdp", "8", "--backend", "pmap"], "needs backend 'jit', got 'pmap'"),
        (
            ["--mesh.tensor", "8", "--model.width", "36", "--model.heads", "1"],
            r"of size 8 does not divide its dimension",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_explained(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        command_line(tmp_path / "run", *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.faults
def test_two_processes_equal_one(tmp_path, plain):
    clean = {name: value for name, value in os.environ.items() if "XLA" not in name and "proxy" not in name.lower()}
    environment = clean | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    place = f"localhost:{free_port()}"
    options = [*SMALL, "--mesh.fsdp", "2", "--workdir", str(tmp_path / "run"), "--processes.join"]
    options += ["--processes.coordinator", place, "--processes.count", "2", "--processes.index"]
    command = [sys.executable, "-m", "experiments.causal_lm", *options]
    processes = [
        subprocess.Popen(
            [*command, str(index)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    codes, errors, outputs = end(processes, limit=300)
    assert codes == [0, 0], errors
    assert "report:" in outputs[0]
    assert "reaches the network" in outputs[0]
    assert "reaches the network" not in outputs[1]
    assert_same_losses(losses(tmp_path / "run"), plain)
