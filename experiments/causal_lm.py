"""Train a small GPT on the World English Bible and measure it in bits per byte on books it never saw.

The study treats next-token prediction (Radford et al. 2018) as compression. Bits per byte do not depend on the
tokenizer, so a network on subwords can be compared with an interpolated Kneser-Ney n-gram over bytes and with xz, on
the same held-out books. Every byte is counted: the first token of a chapter is predicted from a start symbol, the
end-of-chapter token stands for the line end, and a character that the tokenizer cannot encode costs 8 bits per byte.
The order of the n-gram is chosen on the validation books, the learning rate of the network is not chosen. The network
predicts each chapter separately; the n-gram and xz also see the earlier chapters. Both are deterministic, so the
intervals are over the test chapters.

Data: the World English Bible (public domain).

    python -m experiments.causal_lm
    python -m experiments.causal_lm --data.path my.txt

Expected: 1.428 ± 0.001 bits per byte (5 networks), against 1.529 for the best n-gram (order 8), 1.705 for xz after the
training books and 1.950 for xz alone. 11 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.ngrams import score_orders, xz_bits_per_byte
from experiments.data.causal import HELD_OUT, CausalText, eval_batches, read_causal_text, train_batches
from experiments.data.load import DataConfig, wording
from experiments.models.sampling import sample, texts_of
from experiments.models.transformer import CausalLM, TransformerConfig
from experiments.study import Fitted, MeshConfig, ProcessConfig, Question, Recipe, Row, Run, Start, TrainingConfig, axis
from train.devices.mesh import process_rows
from train.metrics import bits_per_byte, means
from train.objective import Context, Objective, Term, term
from train.objectives.precision import make_precision
from train.optimizers import OptimizerConfig
from train.records.report import escape_markdown

METRIC = "test_bits_per_byte"
NETWORK, XZ, XZ_AFTER = {"method": "network"}, {"method": "xz alone"}, {"method": "xz after the training text"}
QUESTIONS = (
    Question(
        METRIC,
        treatment=NETWORK,
        baselines=({"method": "n-gram", "chosen": True}, XZ_AFTER, XZ),
        better="lower",
        claim="A network compresses unseen text better than the best n-gram and xz",
    ),
    Question(
        METRIC,
        treatment=NETWORK,
        baselines=({"method": "n-gram"},),
        by="order",
        better="lower",
        claim="No order of the n-gram reaches the network",
    ),
)


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """A small causal language model and its baselines."""

    data: DataConfig = DataConfig(vocab_size=2048, seq_len=128)
    """The text and its tokens."""
    model: TransformerConfig = TransformerConfig()
    """The network."""
    training: study.Training = TrainingConfig(
        optimizer=OptimizerConfig(
            name="muon", learning_rate=4e-3, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0
        ),
        steps=500,
        batch_size=16,
        eval_every=125,
        checkpoint_every=125,
        patience_metric="bits_per_byte",
    )
    """Training; a batch consists of blocks of tokens."""
    seeds: int = axis(5)
    """Number of networks; each has its own initial weights and data order."""
    mesh: MeshConfig = MeshConfig()
    """Sharding of the parameters over the devices."""
    processes: ProcessConfig = ProcessConfig()
    """Several processes that execute one run."""
    ngram_order: int = 8
    """Longest n-gram, in bytes; the order is chosen on the validation text."""
    sample_tokens: int = axis(100)
    """Maximum number of tokens of each sample in the report."""
    temperature: float = axis(0.8)
    """Temperature of the samples."""

    def fast(self) -> Config:
        """Returns a small config that runs the same code in seconds."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, vocab_size=512, seq_len=32, max_examples=self.data.max_examples or 600),
            model=dataclasses.replace(self.model, width=32, depth=2, heads=2),
            training=dataclasses.replace(self.training, steps=8, eval_every=4, checkpoint_every=4),
            seeds=2,
            ngram_order=4,
            sample_tokens=20,
        )


def make_data(config: Config) -> CausalText:
    """Reads the splits; the tokenizer is trained on the training split only."""
    return read_causal_text(config.data)


def make_model(config: Config, vocab_size: int) -> CausalLM:
    """The network."""
    return CausalLM(config.model, vocab_size, make_precision(config.training.precision).compute)


def make_objective(model: CausalLM) -> Objective:
    """Returns next-token loss and accuracy; `bytes` counts the bytes of the predicted tokens of a block."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        tokens, valid, segment_ids = batch["tokens"], batch["valid"], batch["segment_ids"]
        places: dict[str, Any] = {"valid": valid, "segment_ids": segment_ids}
        logits: Any = model.apply({"params": params}, tokens, **places, train=ctx.train, rngs={"dropout": ctx.key})
        scored = lossfns.next_token_where(tokens, where=valid, segment_ids=segment_ids)
        right = logits[:, :-1].argmax(-1) == tokens[:, 1:]
        return {
            "next_token": term(lossfns.next_token, logits, tokens, where=valid, segment_ids=segment_ids),
            "accuracy": Term(right, scored[:, 1:]),
            "bytes": Term(batch["bytes"]),
        }

    return objective


def initial_parameters(model: CausalLM, config: Config, seed: int) -> Any:
    """Returns random parameters of the network."""
    tokens = jnp.zeros((1, config.data.seq_len), jnp.int32)
    return model.init(jax.random.key(config.seed + seed), tokens, valid=tokens == 0)["params"]


def shape_of(config: Config) -> dict[str, Any]:
    """Returns the arguments of the batches of this process."""
    size = config.training.batch_size
    return {"batch_size": size, "seq_len": config.data.seq_len, "rows": process_rows(size, config.mesh.make())}


def train_network(config: Config, data: CausalText, recipe: Recipe, run: Run, seed: int) -> Fitted:
    """Trains the network of a seed, or loads it if it is finished."""
    model = make_model(config, data.tokenizer.vocab_size)
    return study.fit_model(
        recipe,
        Start(lambda: initial_parameters(model, config, seed), config.seed + seed),
        train_batches(data.streams["train"], **shape_of(config), seed=config.seed + seed),
        training=config.training,
        folder=run.folder(method="network", seed=seed),
        validation=lambda fitted: score(config, data, fitted, "validation"),
    )


def score(config: Config, data: CausalText, fitted: Fitted, split: str) -> Row:
    """Returns the metrics on a whole held-out text."""
    sums = fitted.sums(eval_batches(data.streams[split], **shape_of(config)))
    total, count = sums["next_token"]
    lost = 8 * math.log(2) * data.lost_bytes[split]
    return means(sums) | {"bits_per_byte": bits_per_byte((float(total) + lost, count), len(data.texts[split]))}


def bits_of_documents(config: Config, data: CausalText, params: Any) -> list[list[float]]:
    """Returns bits and bytes of each chapter of the test text."""
    objective = make_objective(make_model(config, data.tokenizer.vocab_size))
    ctx, stream = Context(jax.random.key(0), jnp.int32(0), train=False), data.streams["test"]

    @jax.jit
    def nats(params: Any, batch: Any) -> jax.Array:
        terms: Any = objective(params, batch, ctx)
        values, weights = terms["next_token"].broadcast()
        return (values * weights)[:, 1:]  # of all tokens of the stream in order, except the first

    batches = eval_batches(stream, **shape_of(config) | {"rows": None})
    each = np.concatenate([np.ravel(nats(params, batch)) for batch in batches])[: len(stream.ids) - 1]
    size = data.document_bytes("test")
    lost = 8 * data.lost_bytes["test"] / size.sum()
    return np.stack([np.bincount(stream.document[1:], each) / math.log(2) + lost * size, size], -1).tolist()


def evaluate(
    config: Config, data: CausalText, recipe: Recipe, run: Run, *, method: str, seed: int = 0
) -> Row | list[Row]:
    """Returns bits per byte of a network, of n-grams, or of xz."""
    if method == "n-gram":
        return score_orders(data.texts, data.document_bytes("test"), config.ngram_order, METRIC)
    if method != "network":
        before = data.texts["train"] if method == XZ_AFTER["method"] else b""
        return {METRIC: xz_bits_per_byte(data.texts["test"], before)}
    fitted = train_network(config, data, recipe, run, seed)
    if seed == 0:
        run.save(fitted.params, data.tokenizer.vocab_size, tokenizer=data.tokenizer)
    scores = {f"{split}_{n}": v for split in HELD_OUT for n, v in score(config, data, fitted, split).items()}
    return scores | {f"{METRIC} examples": bits_of_documents(config, data, fitted.params)}


def write_samples(
    config: Config, data: CausalText, recipe: Recipe, run: Run, *, tokens: int, temperature: float
) -> Row:
    """Samples a few texts from the first network."""
    model = make_model(config, data.tokenizer.vocab_size)
    params, length = train_network(config, data, recipe, run, 0).params, min(tokens, config.data.seq_len)
    rows = sample(model, params, jax.random.key(config.seed), length=length, temperature=temperature)
    return {"samples": texts_of(rows.tolist(), data.tokenizer)}


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data.streams, data.texts)
        recipe = Recipe(make_objective(make_model(config, data.tokenizer.vocab_size)), {"next_token": 1.0})
        networks = study.product(method=["network"], seed=range(config.seeds))
        grid = [*networks, {"method": "n-gram"}, XZ_AFTER, XZ]
        results = run.all(grid, lambda **setting: evaluate(config, data, recipe, run, **setting))
        wanted = {"tokens": config.sample_tokens, "temperature": config.temperature}
        texts = run.all([wanted], lambda **setting: write_samples(config, data, recipe, run, **setting), on=results)
        sizes = ", ".join(f"{len(text):,} bytes of {split} text" for split, text in data.texts.items())
        return run.report(
            [*results, *texts],
            QUESTIONS,
            notes=[
                f"{sizes}. Written by the first network at temperature {config.temperature:g}:",
                lambda: [f"> {escape_markdown(text)}" for text in texts[0]["samples"]],
            ],
            curves={"next_token": "nats per token", "accuracy": "accuracy", "bits_per_byte": "bits per byte"},
            title=f"A causal language model of {wording(config.data).title}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
