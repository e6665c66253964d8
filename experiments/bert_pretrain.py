"""Pretrain a small BERT on the World English Bible, then transfer it to a task with few labels.

The study asks whether masked language modelling with next-sentence prediction (Devlin et al. 2019, arXiv:1810.04805) on
four megabytes of text (public domain) helps on a task with few labels: classifying a passage by its group of books
(law, history, gospels, ...). Whole books are held out from both the language model and the classifier, so text and
author of these test passages are unseen ("new books"). A second test set has other passages of the training books
("same books"). The baselines are the same network from random weights, and TF-IDF with logistic regression. Each method
is run over several draws of the labels.

    python -m experiments.bert_pretrain
    python -m experiments.bert_pretrain --data.path my.txt    # pretraining only: a text file has no labels

Expected on the test books: masked-LM accuracy 0.436, but 0.586 on tokens seen 1,000 times or more and 0.070 on tokens
seen 10 to 99 times (the known weakness of the loss); next-sentence accuracy 0.733. With 8, 32 and 128 labels a class,
accuracy 0.416 ± 0.071, 0.391 ± 0.026 and 0.435 ± 0.018 (5 draws of the labels), against 0.256, 0.305 and 0.400 from
scratch and 0.279, 0.326 and 0.396 for TF-IDF; on the same books 0.566, 0.621 and 0.710, against 0.333, 0.456 and 0.620
from scratch and 0.340, 0.508 and 0.656 for TF-IDF. Twenty minutes of processor time.

The next-sentence head reads the mean over all tokens; BERT's reads [CLS]. After 1,000 steps the accuracy on the
validation books was 0.594 with the mean and 0.525 with [CLS] (one seed each).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.tfidf import predict_by_tfidf
from experiments.data.bert import PairText, eval_batches, read_pair_text, train_batches
from experiments.data.bible import GROUPS
from experiments.data.load import BIBLES, DataConfig, wording
from experiments.data.passages import few_shot, make_passages
from experiments.evaluation.few_shot import FewShotConfig, Learn, Tuning, hold_out, make_learner, sample, score
from experiments.evaluation.frequency import BINS, frequency_bins, report_frequency
from experiments.models.transformer import Bert, Classifier, TransformerConfig, masked_places
from experiments.study import Fitted, MeshConfig, ProcessConfig, Question, Recipe, Row, Run, Start, TrainingConfig
from train.devices.mesh import process_rows
from train.objective import Context, Objective, Term, term
from train.objectives.precision import make_precision
from train.optimizers import OptimizerConfig
from train.records.report import Table, escape_markdown

METHODS = ("pretrained", "from scratch", "TF-IDF")
TESTS = ("new books", "same books")


def question(test: str, against: tuple[str, ...], at: tuple[Any, ...], claim: str) -> Question:
    """Returns a question on the accuracy of the pretrained encoder."""
    baselines = tuple({"method": method, "test": test} for method in against)
    treatment = {"method": "pretrained", "test": test}
    return Question("accuracy", treatment, baselines, by="labels", at=at, claim=claim)


QUESTIONS = (
    question("new books", METHODS[1:], (8, 32), "Pretraining pays on new books where labels are few"),
    question("same books", METHODS[1:], (8, 32, 128), "Pretraining pays on other passages of the same books"),
    question("new books", METHODS[1:2], ((8, 128),), "It helps most where labels are fewest"),
)


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Pretraining and transfer of a small BERT."""

    data: DataConfig = DataConfig(vocab_size=4096)
    """The text and its tokens."""
    model: TransformerConfig = TransformerConfig()
    """The encoder."""
    training: study.Training = TrainingConfig(
        optimizer=OptimizerConfig(
            name="muon", learning_rate=4e-3, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0
        ),
        steps=2_600,
        batch_size=32,
        eval_every=520,
        checkpoint_every=520,
    )
    """Pretraining; a batch consists of sentence pairs."""
    mesh: MeshConfig = MeshConfig()
    """Sharding of the parameters over the devices in pretraining."""
    processes: ProcessConfig = ProcessConfig()
    """Several processes that execute one run."""
    nsp_weight: float = 1.0
    """Weight of the next-sentence loss; the masked-LM loss has weight 1."""
    eval_batches: int = 20
    """Batches per evaluation during training; the final test uses all."""
    transfer: FewShotConfig = FewShotConfig()
    """The task with few labels."""

    def fast(self) -> Config:
        """Returns a small config that runs the same code in seconds."""
        short = Tuning(steps=(4,), probe_c=(0.1,), rates=(1.0,))
        few = dataclasses.replace(self.transfer, budgets=(2,), seeds=2, pretrained=short, scratch=short, max_test=64)
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, vocab_size=512),
            model=dataclasses.replace(self.model, width=32, depth=2, heads=2),
            training=dataclasses.replace(self.training, steps=8, batch_size=16, eval_every=4, checkpoint_every=4),
            eval_batches=2,
            transfer=few,
        )


def make_data(config: Config) -> PairText:
    """Reads the splits; the tokenizer is trained on the training split only."""
    return read_pair_text(config.data)


def make_model(config: Config, vocab_size: int) -> Bert:
    """Returns the encoder with its two heads."""
    return Bert(config.model, vocab_size, make_precision(config.training.precision).compute)


def make_objective(model: Bert, token_counts: np.ndarray, capacity: int) -> Objective:
    """Returns masked-LM and next-sentence losses with accuracies; in evaluation also accuracies by token frequency.

    Args:
        model: The model.
        token_counts: int [V], occurrences of each token in the training text.
        capacity: Maximum number of masked positions per sequence; only these reach the output layer.
    """
    bins = jnp.asarray(frequency_bins(token_counts))

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        positions, labels, masked = masked_places(batch, capacity)
        places = {"valid": batch["valid"], "segments": batch["segments"], "positions": positions}
        out: Any = model.apply(
            {"params": params}, batch["tokens"], **places, train=ctx.train, rngs={"dropout": ctx.key}
        )
        right = out.mlm_logits.argmax(-1) == labels
        terms = {
            "mlm": term(lossfns.masked_lm, out.mlm_logits, labels, where=masked),
            "nsp": term(lossfns.next_sentence, out.nsp_logits, batch["is_next"]),
            "mlm_accuracy": Term(right, masked),
            "nsp_accuracy": Term((out.nsp_logits.argmax(-1) == 0) == (batch["is_next"] == 1)),
        }
        if not ctx.train:
            for i in range(BINS):
                terms[f"mlm_accuracy_bin{i}"] = Term(right, masked & (bins[labels] == i))
        return terms

    return objective


def initial_parameters(model: Bert, config: Config) -> Any:
    """Returns random parameters of the model."""
    tokens = jnp.zeros((1, config.data.seq_len), jnp.int32)
    init = jax.jit(lambda key: model.init(key, tokens, valid=tokens == 0, segments=tokens, positions=tokens[:, :1]))
    return init(jax.random.key(config.seed))["params"]


def pretrain(config: Config, data: PairText, run: Run) -> tuple[Fitted, Row]:
    """Returns the pretrained model, trained or loaded, and its metrics on the whole test text."""
    vocab_size, size = data.tokenizer.vocab_size, config.training.batch_size
    model = make_model(config, vocab_size)
    capacity = max(1, round(config.data.mask_rate * (config.data.seq_len - 3)))
    objective = make_objective(model, data.tokenizer.counts, capacity)
    shape: dict[str, Any] = {"batch_size": size, "seq_len": config.data.seq_len, "mask_rate": config.data.mask_rate}
    shape["rows"] = process_rows(size, config.mesh.make())
    fitted = study.fit_model(
        Recipe(objective, {"mlm": 1.0, "nsp": config.nsp_weight}),
        Start(lambda: initial_parameters(model, config), config.seed),
        train_batches(data.tokens["train"], vocab_size, **shape, seed=config.seed),
        training=config.training,
        folder=run.folder(method="pretraining"),
        validation=eval_batches(data.tokens["validation"], vocab_size, **shape, max_batches=config.eval_batches),
    )
    run.save(fitted.params, vocab_size, tokenizer=data.tokenizer)
    return fitted, fitted.evaluate(eval_batches(data.tokens["test"], vocab_size, **shape))


def transfer(config: Config, data: PairText, run: Run, pretrained: list[Row]) -> list[Row]:
    """Runs each method at each budget and seed, and tests it on new books and on the same books."""
    few, seq_len = config.transfer, min(config.transfer.seq_len, config.data.seq_len)
    passages, new = (make_passages(data.corpora[split], data.tokenizer, seq_len) for split in ("train", "test"))
    passages, same = hold_out(passages)
    tests = {name: sample(test, few.max_test) for name, test in zip(TESTS, (new, same), strict=True)}
    model = Classifier(config.model, data.tokenizer.vocab_size, len(GROUPS))
    encoder = functools.cache(lambda: jax.device_get(pretrain(config, data, run)[0].params["encoder"]))
    learners: dict[str, Learn] = {
        "pretrained": make_learner(few, model, seq_len, encoder),
        "from scratch": make_learner(few, model, seq_len, None),
    }

    def evaluate(labels: int, seed: int, method: str) -> list[Row]:
        labelled = few_shot(passages, labels, seed)
        if method == "TF-IDF":
            predicted = predict_by_tfidf(labelled.text, labelled.label, [test.text for test in tests.values()])
        else:
            predict = learners[method](labelled, labels, seed, run.folder(labels=labels, seed=seed, method=method))
            predicted = [predict(test) for test in tests.values()]
        rows = zip(tests.items(), predicted, strict=True)
        return [{"test": name} | score(classes, test.label) for (name, test), classes in rows]

    return run.all(study.product(labels=few.budgets, seed=range(few.seeds), method=METHODS), evaluate, on=pretrained)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data.tokens)
        pretrained = run.all([{"method": "pretraining"}], lambda method: pretrain(config, data, run)[1])
        has_labels = bool((data.corpora["train"].group >= 0).any())
        results = transfer(config, data, run, pretrained) if has_labels else []
        names = ("mlm", "mlm_accuracy", "nsp", "nsp_accuracy")
        words = wording(config.data)
        left_out = f"Fine-tuning is skipped: no passage of {words.title} has a label. "
        left_out += f"Labels are the groups of books in {' and '.join(BIBLES)}."
        if not has_labels:
            print(left_out)
        return run.report(
            [*pretrained, *results],
            QUESTIONS if has_labels else (),
            notes=[
                *([] if has_labels else [escape_markdown(left_out)]),
                lambda: Table([f"test {words.parts}", "mean"], [[name, pretrained[0][name]] for name in names]),
                lambda: report_frequency(
                    run.path, data.tokenizer.counts, [pretrained[0][f"mlm_accuracy_bin{i}"] for i in range(BINS)]
                ),
            ],
            curves={
                "mlm": "masked-LM loss (nats)",
                "mlm_accuracy": "accuracy",
                "nsp_accuracy": "next-sentence accuracy",
            },
            title=f"BERT on {words.title}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
