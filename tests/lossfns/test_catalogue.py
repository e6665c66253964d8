"""`python -m lossfns`: the table, a definition with its BibTeX, and help for a name that is not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from lossfns import __main__ as command
from lossfns import _catalogue

ROOT = Path(__file__).parents[2]


def test_the_table_has_a_line_for_each_public_function(capsys):
    command.main([])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "family", "paper", "summary"]
    assert sorted(line.split()[0] for line in lines) == list(_catalogue.functions())
    line = next(line for line in lines if line.startswith("nt_xent "))
    assert [cell.strip() for cell in line.split("  ") if cell][:3] == ["nt_xent", "contrastive", "Chen et al. 2020"]


def test_every_summary_is_one_sentence():
    for entry in _catalogue.catalogue():
        assert entry.summary.endswith((".", "?")), entry


def test_a_name_prints_signature_definition_and_bibtex(capsys):
    command.main(["l2"])
    out = capsys.readouterr().out
    head = [
        "lossfns.l2(",
        "params: Any,",
        "*,",
        "weight: float | jax.Array = 1.0,",
        "half: bool = False,",
        ") -> jax.Array",
    ]
    assert [line.strip() for line in out.splitlines()[:6]] == head
    assert "Squared L2 penalty" in out
    assert out.count("\n@") == 1
    assert "eprint = {1711.05101}" in out


@pytest.mark.parametrize(
    ("name", "ours"),
    [("mse", "squared_error"), ("BCEWithLogitsLoss", "sigmoid_cross_entropy"), ("NTXent", "nt_xent")],
)
def test_a_name_of_another_library_prints_what_is_meant(name, ours, capsys):
    command.main([name])
    out = capsys.readouterr().out
    assert out.startswith(f"{name} is lossfns.{ours} here.\n\nlossfns.{ours}(")


def test_an_unknown_name_gets_a_suggestion(capsys):
    for name, hint in [("sofmax_cross_entropy", "did you mean softmax_cross_entropy"), ("mae", "absolute_error or")]:
        with pytest.raises(SystemExit) as caught:
            command.main([name])
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert f"there is no {name!r}; " in err
        assert hint in err
    with pytest.raises(SystemExit):
        command.main(["qqqqqq"])
    assert "lists them all" in capsys.readouterr().err


def test_it_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "lossfns", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "signature, definition and BibTeX" in result.stdout


def test_papers_are_found_by_id_doi_or_author_and_year():
    papers = [
        _catalogue.Paper("a", {"author": "Doe, J", "year": "2020", "eprint": "2002.05709"}, ""),
        _catalogue.Paper("b", {"author": "Roe, J", "year": "1996", "doi": "10.1/x(1)2"}, ""),
        _catalogue.Paper("c", {"author": r"{\v S}m{\'i}d, A and Roe, J", "year": "2001"}, ""),
    ]
    text = "Doe 2020, arXiv:2002.05709 (x). Roe 1996, doi:10.1/x(1)2. Šmíd et al. 2001, ICML."
    assert [paper.place_in(text) >= 0 for paper in papers] == [True, True, True]
    assert [paper.place_in("Doe 2020. Roe 1996. Šmíd et al. 2002. Roe 2001.") for paper in papers] == [-1, -1, -1]


def test_the_bibliography_is_regular():
    text = (ROOT / "lossfns/references.bib").read_text()
    entries = _catalogue.papers()
    assert "\n".join(entry.bibtex for entry in entries) == text
    assert [entry.key for entry in entries] == sorted({entry.key for entry in entries})
    for entry in entries:
        assert {"author", "title", "year"} <= set(entry.fields), entry.key
    for name in ("eprint", "doi"):
        ids = [entry.fields[name].lower() for entry in entries if name in entry.fields]
        assert len(ids) == len(set(ids)), name
