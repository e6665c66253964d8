"""Every notebook runs from its first cell to its last, with the packages that a user has."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# The kernel's messaging warns of event loops and of ports, on which the notebook has no influence.
@pytest.mark.filterwarnings("ignore")
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    errors = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert not errors


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_for_colab(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["accelerator"] == "TPU"
    assert "colab.research.google.com" in "".join(notebook["cells"][0]["source"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in code), "clear the outputs before committing"
    assert not any("install" in line and "jax" in line.split() for cell in code for line in cell["source"])
