"""What `bert_pretrain` reports: tables, plots and a summary from the run's own files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import cli
from experiments.data.load import BIBLES, wording
from experiments.data.tokenizers import Tokenizer
from experiments.runs import Result, mean_and_spread_of, values_of
from experiments.transfer import METHODS, TESTS
from train import plots
from train.logging import Image, Section, Table, curve, read_metrics, write_report
from train.report import escape_markdown

if TYPE_CHECKING:
    from experiments.bert_pretrain import Config

CURVES = {
    "mlm": "masked-LM loss (nats)",
    "mlm_accuracy": "masked-LM accuracy",
    "nsp_accuracy": "next-sentence accuracy",
}


def report(
    config: Config,
    tokenizer: Tokenizer,
    parameters: int,
    test: dict[str, float],
    results: list[Result] | None,
    edges: Sequence[int],
    workdir: Path,
) -> dict[str, Any]:
    """Writes `plots/*.png` and `report.md`, prints the closing table.

    Args:
        config: of the run.
        tokenizer: with the token counts of the training text.
        parameters: number of parameters of the model.
        test: metrics on all of the test text.
        results: of the transfer; None where the data has no labels, which is said.
        edges: bounds of the frequency bins.
        workdir: the run's folder.

    Returns:
        The summary.
    """
    words = wording(config.data)
    sections = [
        _pretraining(config, tokenizer, parameters, test, workdir),
        _frequency(tokenizer, test, edges, words.parts, workdir),
    ]
    rows: list[list[Any]] = [
        [f"masked-LM loss, test {words.parts} (nats)", test["mlm"]],
        [f"masked-LM accuracy, test {words.parts}", test["mlm_accuracy"]],
        [f"next-sentence accuracy, test {words.parts}", test["nsp_accuracy"]],
    ]
    summary: dict[str, Any] = {"parameters": parameters, "test": test}
    if results is None:
        left_out = (
            f"The fine-tuning is left out: no passage read from {words.title} has a label. Labels are the groups of "
            f"books in {' and '.join(BIBLES)}."
        )
        print(left_out)
        sections.append(Section("Transfer with few labels", [escape_markdown(left_out)]))
    else:
        sections.append(_transfer(config, results, workdir))
        summary["transfer"] = results
        for budget in config.transfer.budgets:
            for method in METHODS:
                cells = [
                    mean_and_spread_of(results, f"accuracy, {test}", method=method, budget=budget) for test in TESTS
                ]
                rows.append([f"accuracy, {budget} labels a class, {method}: {', '.join(TESTS)}", ", ".join(cells)])
    write_report(workdir, f"BERT on {words.title}", sections)
    cli.finish(workdir, f"BERT pretraining{'' if results is None else ' and transfer'}", ["", "value"], rows)
    return summary


def _pretraining(
    config: Config, tokenizer: Tokenizer, parameters: int, test: dict[str, float], workdir: Path
) -> Section:
    records = read_metrics(workdir)
    curves = {
        split: {label: curve(records, split, name) for name, label in CURVES.items()}
        for split in ("train", "validation")
    }
    plots.learning_curves(workdir / "plots" / "learning_curves.png", curves)
    pairs = config.steps * config.batch_size
    text = (
        f"{parameters:,} parameters, {tokenizer.vocab_size:,} tokens in the vocabulary; {config.steps:,} steps of "
        f"{config.batch_size} pairs of {config.data.seq_len} tokens ({pairs * config.data.seq_len / 1e6:.1f} M tokens)."
    )
    parts = wording(config.data).parts
    table = Table(
        ["metric", f"test {parts}"],
        [
            ["masked-LM loss (nats)", test["mlm"]],
            ["masked-LM accuracy", test["mlm_accuracy"]],
            ["next-sentence loss (nats)", test["nsp"]],
            ["next-sentence accuracy", test["nsp_accuracy"]],
        ],
    )
    image = Image("plots/learning_curves.png", f"Learning curves; held out: the validation {parts}")
    return Section("Pretraining", [text, table, image])


def _frequency(
    tokenizer: Tokenizer, test: dict[str, float], edges: Sequence[int], parts: str, workdir: Path
) -> Section:
    names = [f"< {edges[0]:,}", *(f"{a:,} to {b - 1:,}" for a, b in itertools.pairwise(edges))]
    names.append(f"{edges[-1]:,} or more")
    members = np.bincount(np.digitize(tokenizer.counts, edges), minlength=len(names))
    values = [test[f"mlm_accuracy_bin{i}"] for i in range(len(names))]
    plots.bars(
        workdir / "plots" / "accuracy_by_frequency.png",
        {name: [0.0 if np.isnan(value) else value] for name, value in zip(names, values, strict=True)},
        ylabel=f"masked-LM accuracy, test {parts}",
        title=f"Accuracy by how often the token occurs in the training {parts}",
    )
    table = Table(
        ["occurrences in training", "tokens of the vocabulary", f"accuracy on test {parts}"],
        [list(row) for row in zip(names, members.tolist(), values, strict=True)],
    )
    text = "The masked-LM loss counts each masked token once, so frequent tokens rule it and rare ones are learnt last."
    return Section("Rare words", [text, table, Image("plots/accuracy_by_frequency.png", "Accuracy by token frequency")])


def _transfer(config: Config, results: list[Result], workdir: Path) -> Section:
    budgets = config.transfer.budgets
    blocks: list[str | Table | Image] = []
    for test, metric in itertools.product(TESTS, ("accuracy", "macro-F1")):
        name, file = f"{metric}, {test}", f"plots/transfer_{metric}_{test}.png".replace(" ", "_")
        cells = {m: [values_of(results, name, method=m, budget=b) for b in budgets] for m in METHODS}
        plots.lines_with_spread(
            workdir / file,
            budgets,
            {method: np.asarray(values) for method, values in cells.items()},
            xlabel="labels a class",
            ylabel=name,
            log_x=True,
        )
        rows = [[method, *map(cli.mean_and_spread, values)] for method, values in cells.items()]
        columns = [name, *(f"{budget} labels a class" for budget in budgets)]
        blocks += [Table(columns, rows), Image(file, f"{name}, by number of labels: mean and standard deviation")]
    text = (
        "Which group of books is a passage from? Labels from the training books; tests on books that neither the "
        "language model nor the classifier has seen, and on other passages of the training books, which the language "
        f"model has read without labels. Mean ± standard deviation over {config.transfer.seeds} draws of the labels."
    )
    return Section("Transfer with few labels", [text, *blocks])
