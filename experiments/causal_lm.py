"""Train a small GPT on the World English Bible and measure it in bits per byte on books it never saw.

What is studied: next-token prediction (Radford et al. 2018) as compression. Bits per byte do not depend on the
tokenizer, so a network on subwords stands beside an interpolated Kneser-Ney n-gram over bytes and beside xz on the
same held-out books. Every byte of them is counted: the first token of a chapter is predicted from a start symbol, the
end of a chapter is predicted too and stands for its line end, and a character that the tokenizer cannot write costs
8 bits a byte. The order of the n-gram is chosen on the validation books. Each chapter is predicted on its own; the
n-gram and xz see the chapters before it as well.

    python -m experiments.causal_lm

Expected: 1.427 ± 0.001 bits per byte (3 networks) against 1.529 of the best n-gram (order 8), 1.705 of xz after the
training books and 1.950 of xz alone. 13 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import cli
from experiments.causal_report import report
from experiments.data.causal import Stream, document_texts, eval_batches, make_stream, train_batches
from experiments.data.load import DataConfig
from experiments.data.text import Corpus, read_corpus
from experiments.data.tokenizers import CLS, SEP, SPECIAL_IDS, Tokenizer, make_tokenizer
from experiments.devices import MeshConfig, ProcessConfig
from experiments.models.transformer import SHARDING_RULES, CausalLM, TransformerConfig
from experiments.runs import Result, gather_metrics, product, run_all, train_run
from experiments.text_baselines import train_ngrams, xz_bits_per_byte
from train.files import is_writer
from train.guard import skip_nonfinite
from train.hooks import Evaluate, run_evaluation
from train.identity import fingerprint
from train.logging import MetricsWriter, write_summary
from train.mesh import process_rows
from train.metrics import bits_per_byte, means
from train.mixed_precision import PrecisionName, make_precision
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig, evaluation_params, make_optimizer
from train.parallel import data_parallel
from train.processes import check_same
from train.sharding import gather, shard_state
from train.state import TrainState, create_state
from train.step import build_eval_step, build_train_step

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Config(cli.StudyConfig):
    """A small causal language model and its baselines."""

    data: DataConfig = DataConfig(vocab_size=2048, seq_len=128)
    """The text and its tokens."""
    model: TransformerConfig = TransformerConfig()
    """The network."""
    optimizer: OptimizerConfig = OptimizerConfig(
        name="muon", learning_rate=4e-3, warmup=0.05, weight_decay=0.05, b2=0.98, clip_norm=1.0
    )
    """How it is trained."""
    seeds: int = 3
    """Networks trained, each with weights and an order of the data of its own."""
    steps: int = 500
    """Updates of a network."""
    batch_size: int = 16
    """Blocks in a batch, over all devices."""
    accumulate: int = 1
    """Micro-batches that a batch is processed in; changes the memory needed, not the result."""
    backend: Literal["jit", "pmap", "shard_map"] = "jit"
    """How a step is spread over the devices; a mesh needs jit."""
    mesh: MeshConfig = MeshConfig()
    """How the parameters are spread over the devices."""
    processes: ProcessConfig = ProcessConfig()
    """Several processes that make one run."""
    precision: PrecisionName = "float32"
    """Type of what matrix products multiply; the rest is float32. With float16 gradients are scaled."""
    checks: bool = False
    """Check losses, weights and gradients inside the compiled step."""
    eval_every: int = 125
    """Steps between two evaluations on the validation text."""
    checkpoint_every: int = 125
    """Steps between two checkpoints."""
    patience: int | None = None
    """Evaluations in a row without fewer bits per byte after which a network's training ends and its best checkpoint
    is the one that counts (None: all steps are made and the last counts)."""
    ngram_order: int = 8
    """Longest n-gram tried, in bytes; the order used is the best on the validation text."""
    sample_tokens: int = 100
    """Tokens of each sample in the report, at most."""
    temperature: float = 0.8
    """Temperature of the samples."""

    def fast(self) -> Config:
        """The same path on less of everything."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, vocab_size=512, seq_len=32, max_examples=self.data.max_examples or 600),
            model=dataclasses.replace(self.model, width=32, depth=2, heads=2),
            seeds=2,
            steps=8,
            batch_size=16,
            eval_every=4,
            checkpoint_every=4,
            ngram_order=4,
            sample_tokens=20,
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """The tokenizer, and each split as a stream of tokens and as plain bytes."""

    tokenizer: Tokenizer
    streams: dict[str, Stream]
    texts: dict[str, bytes]
    lost_bytes: dict[str, int]
    """Bytes of the characters that the tokenizer cannot write."""


def make_data(config: Config) -> Data:
    """Reads the splits; the tokenizer is learnt from the training split alone."""
    corpora = {split: read_corpus(config.data, split) for split in SPLITS}
    tokenizer = make_tokenizer(config.data, corpora["train"].sentences)
    return Data(
        tokenizer,
        {split: make_stream(corpus, tokenizer) for split, corpus in corpora.items()},
        {split: plain_bytes(corpus) for split, corpus in corpora.items()},
        {split: lost_bytes(document_texts(corpora[split]), tokenizer) for split in SPLITS[1:]},
    )


def plain_bytes(corpus: Corpus) -> bytes:
    """The text that everyone predicts: each document and a line end."""
    return "".join(f"{text}\n" for text in document_texts(corpus)).encode()


def lost_bytes(texts: Sequence[str], tokenizer: Tokenizer) -> int:
    """Bytes of the characters that are gone after encoding and decoding."""
    lost: Counter[str] = Counter()
    for text in texts:
        lost += Counter(text) - Counter(tokenizer.decode(tokenizer.encode(text)))
    return sum(len(character.encode()) * count for character, count in lost.items())


def make_model(config: Config, vocab_size: int) -> CausalLM:
    """The network."""
    return CausalLM(config.model, vocab_size, make_precision(config.precision).compute)


def make_objective(model: CausalLM) -> Objective:
    """Next-token loss and accuracy; `bytes` counts the text behind the predicted tokens of a block."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        tokens, valid, segment_ids = batch["tokens"], batch["valid"], batch["segment_ids"]
        logits: Any = model.apply(
            {"params": params},
            tokens,
            valid=valid,
            segment_ids=segment_ids,
            train=ctx.train,
            rngs={"dropout": ctx.key},
        )
        scored = lossfns.next_token_where(tokens, where=valid, segment_ids=segment_ids)
        right = logits[:, :-1].argmax(-1) == tokens[:, 1:]
        return {
            "next_token": term(lossfns.next_token, logits, tokens, where=valid, segment_ids=segment_ids),
            "accuracy": Term(right, scored[:, 1:]),
            "bytes": Term(batch["bytes"]),
        }

    return objective


@dataclasses.dataclass(frozen=True)
class Learner:
    """What all networks share, compiled once."""

    train: Callable[[int], TrainState]
    """Trains the network of a seed, or goes on from its latest checkpoint."""
    score: Callable[[TrainState], Result]
    """Metrics on all of the validation and test text."""


def make_learner(config: Config, data: Data, workdir: Path) -> Learner:
    """Builds the steps and returns how a network is trained and scored."""
    model = make_model(config, data.tokenizer.vocab_size)
    precision = make_precision(config.precision)
    objective = precision.wrap(make_objective(model), cast=False)
    optimizer = make_optimizer(config.optimizer, config.steps)
    mesh = config.mesh.make()
    body = build_train_step(
        objective, optimizer, loss_weights={"next_token": 1.0}, accumulate=config.accumulate, checks=config.checks
    )
    step = data_parallel(precision.scaled(skip_nonfinite(body)), config.backend, mesh=mesh)
    eval_step = data_parallel(build_eval_step(objective), config.backend, mesh=mesh)
    rows = process_rows(config.batch_size, mesh)
    shape: dict[str, Any] = {"batch_size": config.batch_size, "seq_len": config.data.seq_len, "rows": rows}
    held_out = {split: eval_batches(data.streams[split], **shape) for split in SPLITS[1:]}

    def derive(split: str, sums: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
        total, count = sums["next_token"]
        penalty = 8 * math.log(2) * data.lost_bytes[split]
        return {"bits_per_byte": bits_per_byte((float(total) + penalty, count), len(data.texts[split]))}

    def evaluate(writer: MetricsWriter) -> Evaluate:
        return Evaluate(
            eval_step,
            lambda: held_out["validation"],
            every=config.eval_every,
            writer=writer,
            derive=lambda sums: derive("validation", sums),
        )

    def initial_state(seed: int) -> TrainState:
        params, scale = initial_parameters(model, config, seed), precision.loss_scale()
        return create_state(params, optimizer, key=config.seed + seed, loss_scale=scale)

    def train(seed: int) -> TrainState:
        return train_run(
            run_folder(workdir, seed),
            initial_state(seed) if mesh is None else shard_state(lambda: initial_state(seed), mesh, SHARDING_RULES),
            step,
            train_batches(data.streams["train"], **shape, seed=config.seed + seed),
            steps=config.steps,
            checkpoint_every=config.checkpoint_every,
            label=f"network {seed + 1} of {config.seeds}",
            evaluate=evaluate,
            options=config,
            split=("--accumulate", config.accumulate),
            stop=("bits_per_byte", config.patience),
            data=fingerprint(data.streams["train"]),
        )

    def score(state: TrainState) -> Result:
        sums = {split: run_evaluation(eval_step, state, batches) for split, batches in held_out.items()}
        return {
            f"{split}_{name}": value
            for split, total in sums.items()
            for name, value in (means(total) | derive(split, total)).items()
        }

    return Learner(train, score)


def run_folder(workdir: Path, seed: int) -> Path:
    """The folder of one network."""
    return workdir / "runs" / f"seed-{seed}"


def initial_parameters(model: CausalLM, config: Config, seed: int) -> Any:
    """Random parameters of the network."""
    tokens = jnp.zeros((1, config.data.seq_len), jnp.int32)
    return model.init(jax.random.key(config.seed + seed), tokens, valid=tokens == 0)["params"]


def baselines(config: Config, data: Data) -> dict[str, Any]:
    """Bits per byte of the n-gram of each order on both held-out splits, and of xz on the test split."""
    models = train_ngrams(data.texts["train"], config.ngram_order)
    test, before = data.texts["test"], data.texts["train"]
    ngram = {split: [model.bits_per_byte(data.texts[split]) for model in models.values()] for split in SPLITS[1:]}
    return {
        "ngram": ngram,
        "ngram_order": 1 + int(np.argmin(ngram["validation"])),
        "xz": xz_bits_per_byte(test),
        "xz_after_train": xz_bits_per_byte(test, before),
    }


def sample(
    model: CausalLM, params: Any, key: jax.Array, *, length: int, rows: int = 3, temperature: float = 1.0
) -> np.ndarray:
    """Draws texts from the network, token by token from the start symbol.

    Args:
        model: The network.
        params: Its parameters.
        key: PRNG key.
        length: Tokens in a row, the start symbol included.
        rows: Number of texts.
        temperature: Divides the logits.

    Returns:
        int32 [rows, length]; what follows a [SEP] does not belong to the text.
    """
    never = np.asarray([i for i in SPECIAL_IDS if i != SEP])

    def draw(position: jax.Array, tokens: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, tokens, valid=jnp.ones_like(tokens, bool))
        scores = logits[:, position - 1].at[:, never].set(-jnp.inf) / temperature
        chosen = jax.random.categorical(jax.random.fold_in(key, position), scores)
        return tokens.at[:, position].set(chosen.astype(tokens.dtype))

    start = jnp.zeros((rows, length), jnp.int32).at[:, 0].set(CLS)
    return np.asarray(jax.jit(lambda tokens: jax.lax.fori_loop(1, length, draw, tokens))(start))


def sample_texts(config: Config, data: Data, state: TrainState) -> list[str]:
    """A few texts of a trained network."""
    model = make_model(config, data.tokenizer.vocab_size)
    length = min(config.sample_tokens, config.data.seq_len)
    rows = sample(
        model, evaluation_params(state), jax.random.key(config.seed), length=length, temperature=config.temperature
    ).tolist()
    return [data.tokenizer.decode(row[1 : row.index(SEP) if SEP in row else None]) for row in rows]


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary, of which a dry run has none."""
    workdir = cli.start(config, "causal_lm")
    data = make_data(config)
    check_same({"data": {split: fingerprint(stream) for split, stream in data.streams.items()}})
    learner = make_learner(config, data, workdir)
    if config.dry_run:
        learner.train(0)
        return {}
    (reference,) = run_all(
        workdir / "baselines.json", [{"of": "baselines"}], lambda of: baselines(config, data), progress=False
    )
    grid = product(seed=range(config.seeds))
    results = run_all(workdir / "results.json", grid, lambda seed: learner.score(learner.train(seed)), progress=False)
    state = gather(learner.train(0))
    if not is_writer():
        return {}
    gather_metrics(workdir, {f"seed-{seed}": run_folder(workdir, seed) for seed in range(config.seeds)})
    summary = report(
        config,
        {split: len(text) for split, text in data.texts.items()},
        cli.parameter_count(state.params),
        results,
        reference,
        sample_texts(config, data, state),
        [run_folder(workdir, seed) for seed in range(config.seeds)],
        workdir,
    )
    write_summary(workdir, summary)
    return summary


if __name__ == "__main__":
    cli.run(main, Config, "causal_lm", __doc__)
