"""Each loss that a study trains with is listed with a figure from a committed summary."""

import ast
import functools
import json

import pytest

import lossfns
from experiments.__main__ import FOLDER, studies
from experiments.study.in_use import IN_USE, Use, figures_of, table_of
from experiments.study.overview import RESULTS

MEASURE = {
    "simclr": {"cosine_distance"},  # how close the views come
    "robust": {"weighted_mean"},  # the shares of the labels that are memorised
    "toy_classifier": {"soft_cross_entropy"},  # the tutorial's worked example
    "hierarchical_lm": {"next_token"},  # bits per character
    "mlm_variants": {
        "softmax_cross_entropy"
    },  # fine-tuning, of which it needs `sample` alone, in `evaluation.few_shot`
    "syntax_tree": {"absolute_error"},  # the structural probe
}
"""Losses that only measure, by study, or that a function calls which the study does not need."""
HELP = {"next_token_where", "multi_token_where", "pool_spans"}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Paths of the modules of `models` and `evaluation` that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                path = FOLDER.parent / f"{name.replace('.', '/')}.py"
                if name.startswith(("experiments.models.", "experiments.evaluation.")) and path.exists():
                    yield path


@functools.cache
def called(path):
    """Functions of `lossfns` that a module, or a module that it imports, names."""
    tree = parse(path)
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lossfns"
    }
    return found.union(*(called(other) for other in imported(tree))) & {*lossfns.__all__}


def uses_of(study):
    return {use.loss for use in IN_USE if use.study == study}


@pytest.mark.parametrize("study", studies())
def test_the_losses_of_a_study_are_listed(study):
    found = called(FOLDER / f"{study}.py") - HELP
    assert uses_of(study) <= found
    assert found - uses_of(study) <= MEASURE.get(study, set())


@pytest.mark.parametrize("use", IN_USE, ids=lambda use: f"{use.loss}-{use.study}")
def test_a_summary_holds_a_figure_of_a_network_trained_with_the_loss(use):
    summary = json.loads((RESULTS / f"{use.study}.json").read_text(encoding="utf-8"))
    assert figures_of(use, summary)


def test_losses_without_a_figure_are_left_out():
    rows = [{"method": "SimCLR", "labels": 9, "accuracy": 0.5}, {"method": "supervised", "labels": 9, "accuracy": None}]
    assert table_of({"simclr": {"runs": rows}}).rows == [
        ["nt_xent", "simclr", "SimCLR, labels 9", "accuracy 0.500 ± 0.000 (1)"]
    ]
    assert figures_of(Use("nt_xent", "simclr", "accuracy", {"labels": 3}), {"runs": rows}) == []
