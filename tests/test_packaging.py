"""What is published: one wheel of losses alone, one version, one address."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import lossfns
from experiments import how_to_install, missing_packages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = PROJECT["project"]["urls"]["Repository"]


def test_a_star_import_gives_what_is_public():
    assert {"nt_xent", "softmax_cross_entropy", "weighted_mean"} <= {*lossfns.__all__}
    assert not {"classification", "contrastive", "_typing"} & {*lossfns.__all__}


def test_losses_need_jax_and_numpy_alone():
    assert [re.match("[a-z]+", line).group() for line in PROJECT["project"]["dependencies"]] == ["jax", "numpy"]


@pytest.mark.full
def test_the_wheel_holds_losses_alone_and_works_outside_of_the_repository(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lossfns"}
    assert {"lossfns/py.typed", "lossfns/references.bib", "lossfns/testing/__init__.py"} <= set(names)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
        "import jax.numpy as jnp, lossfns\n"
        f"assert lossfns.__file__.startswith({str(tmp_path)!r}), lossfns.__file__\n"
        "print(lossfns.softmax_cross_entropy(jnp.zeros((1, 2)), jnp.array([0])), lossfns.__version__)"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == ["[0.6931472]", lossfns.__version__]


def test_one_version_and_one_address():
    for path in ("CITATION.cff", "README.md"):
        found = re.findall(r"version[:\s=]+{?([0-9.]+[0-9])", (ROOT / path).read_text())
        assert found in ([], ["1.2.0", lossfns.__version__], [lossfns.__version__]), (path, found)
    texts = [path.read_text() for path in (ROOT / "README.md", ROOT / "CITATION.cff", *(ROOT / "docs").glob("*.md"))]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        source = "".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
        assert (
            f"{ADDRESS.replace('github.com', 'colab.research.google.com/github')}/blob/main/notebooks/{path.name}"
            in source
        )
        assert ADDRESS in source
        texts.append(source)
    ours = ADDRESS.removeprefix("https://github.com/")
    for text in texts:
        assert set(re.findall(r"github.com/([\w-]+/lossfns)", text)) <= {ours}


def test_what_is_missing_is_named_with_the_command(monkeypatch):
    assert missing_packages() == []
    monkeypatch.setattr("experiments.find_spec", lambda name: None if name == "tyro" else object())
    assert missing_packages() == ["tyro"]
    assert how_to_install(["tyro"]).startswith("the studies need tyro, which is not installed here: python -m pip")
