"""Which additions to the next-token loss pay: z-loss, soft cap, label smoothing, prediction of two tokens.

What is studied: a small GPT trained by the plain next-token loss, with a z-loss (Chowdhery et al. 2022,
arXiv:2204.02311), with capped logits (Gemma Team 2024, arXiv:2408.00118), with label smoothing (Szegedy et al. 2016,
arXiv:1512.00567), and to predict the next two tokens, each by a last block of its own (Gloeckle et al. 2024,
arXiv:2404.19737). Each takes the operations of plain training, at the best of a log grid of learning rates for
validation books; the test is bits per byte. z-loss and cap are recommended for stability (Wortsman et al. 2023,
arXiv:2309.14322), so both are also trained at 3 and 10 times the best rate of plain training. Their constants are the
papers'. Baselines: plain training, a Kneser-Ney n-gram over bytes, and xz; a network reads a sixth of the text.

Data: the World English Bible (public domain), whole books for training, validation and test.

    python -m experiments.causal_variants
    python -m experiments.causal_variants --data.path my.txt

Expected: 2.017 bits per byte by plain training, 2.019 with z-loss, 2.021 with soft cap, 2.033 with label smoothing, and
2.276 for two tokens, which leave 90 updates of 150; n-gram 1.529, xz 1.705. At 3 and 10 times the best rate 2.28 and
2.41, with z-loss or cap as without, within 0.06. 9 minutes of processor time, 4 of them to choose the rates.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lossfns
from experiments import study
from experiments.baselines.ngrams import score_orders, xz_bits_per_byte
from experiments.data.causal import CausalText, read_causal_text, whole_blocks
from experiments.data.load import DataConfig, wording
from experiments.evaluation.compression import bits_per_byte, draw_rates
from experiments.models.pooled import init_of
from experiments.models.transformer import CausalLM, MultiTokenLM, TransformerConfig
from experiments.study import Question, Row, Training, TrainingConfig, axis, many
from experiments.study.many import Bench, methods
from train.devices.cost import count_flops
from train.objective import Context, Objective, Term
from train.optimizers import OptimizerConfig


class Arm(NamedTuple):
    """Options of the cross-entropy that is trained, and the number of tokens that are predicted at once."""

    z_loss: float = 0.0
    soft_cap: float | None = None
    label_smoothing: float = 0.0
    tokens: int = 1


PLAIN, Z_LOSS, SOFT_CAP, SMOOTHING, TWO = "plain", "z-loss", "soft cap", "label smoothing", "two tokens"
ARMS = {
    PLAIN: Arm(),
    Z_LOSS: Arm(z_loss=1e-4),
    SOFT_CAP: Arm(soft_cap=30.0),
    SMOOTHING: Arm(label_smoothing=0.1),
    TWO: Arm(tokens=2),
}
BEST, THREE, TEN = "own best", "3 times plain's best", "10 times plain's best"
FACTORS = {THREE: many.STEP, TEN: many.STEP**2}
"""Rates that are too large, as multiples of the best rate of plain training: the next two of the grid."""
STABLE, MIDDLE = (PLAIN, Z_LOSS, SOFT_CAP), 0.01
"""What is also trained at these rates, and the middle of the grid of learning rates."""
METRIC, NGRAM, XZ = "test_bits_per_byte", "n-gram", "xz after the training text"


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small causal language models."""

    data: DataConfig = DataConfig(vocab_size=1024, seq_len=128)
    """The text and its tokens."""
    model: TransformerConfig = TransformerConfig(width=64, depth=2, heads=2)
    """The network."""
    seeds: int = axis(5)
    """Number of networks of each kind, with different initial weights and data orders."""
    tuning_seeds: int = 2
    """Further networks that choose each learning rate."""
    training: Training = TrainingConfig(
        OptimizerConfig(name="adamw", learning_rate=1.0, warmup=0.05, b2=0.95, weight_decay=0.1, clip_norm=1.0),
        steps=150,
        batch_size=8,
        devices=1,
    )
    """Steps are for plain training. The optimizer's learning rate multiplies the rates tried."""
    ngram_order: int = 8
    """Longest n-gram, in bytes; the order is chosen on the validation text."""

    def fast(self) -> Config:
        """The same path on less of everything."""
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, vocab_size=512, seq_len=32, max_examples=self.data.max_examples or 600),
            model=dataclasses.replace(self.model, width=16, depth=1),
            seeds=2,
            tuning_seeds=1,
            training=dataclasses.replace(self.training, steps=6),
            ngram_order=4,
        )


def make_data(config: Config) -> CausalText:
    """Reads the splits; the tokenizer is trained on the training split only."""
    return read_causal_text(config.data)


def make_model(config: Config, vocab_size: int, tokens: int = 1) -> Any:
    """The network that predicts the next token, or several."""
    return CausalLM(config.model, vocab_size) if tokens == 1 else MultiTokenLM(config.model, vocab_size, tokens)


def make_objective(model: Any, arm: Arm) -> Objective:
    """The loss of an arm: a term for each of the next tokens."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        tokens, valid, segment_ids = batch["tokens"], batch["valid"], batch["segment_ids"]
        logits: Any = model.apply({"params": params}, tokens, valid=valid, segment_ids=segment_ids)
        if arm.tokens > 1:
            scored = lossfns.multi_token_where(tokens, heads=arm.tokens, where=valid, segment_ids=segment_ids)
            values = lossfns.multi_token_prediction(logits, tokens, where=scored, segment_ids=segment_ids)
            return {f"token_{h + 1}": Term(values[:, h], scored[:, h]) for h in range(arm.tokens)}
        scored = lossfns.next_token_where(tokens, where=valid, segment_ids=segment_ids)[:, 1:]
        options: Any = {name: value for name, value in arm._asdict().items() if name != "tokens"}
        values = lossfns.softmax_cross_entropy(logits[:, :-1], tokens[:, 1:], where=scored, **options)
        return {"token_1": Term(values, scored)}

    return objective


def operations(config: Config, vocab_size: int, arm: Arm) -> int:
    """Operations of the gradient of an arm on one batch."""
    model = make_model(config, vocab_size, arm.tokens)
    ids = np.zeros((config.training.batch_size, config.data.seq_len), np.int32)
    batch = {"tokens": ids, "valid": ids == 0, "segment_ids": ids}

    def loss(params: Any) -> Any:
        terms: Any = make_objective(model, arm)(params, batch, Context(jax.random.key(0), jnp.int32(0)))
        return sum(total / weight for total, weight in (one.sums() for one in terms.values()))

    return count_flops(jax.grad(loss), jax.eval_shape(init_of(model, batch), jax.random.key(0)))


def steps_of(config: Config, vocab_size: int, arm: Arm) -> int:
    """Updates of an arm at the compute of plain training."""
    plain, mine = (operations(config, vocab_size, one) for one in (ARMS[PLAIN], arm))
    return max(1, round(config.training.steps * plain / mine))


def make_trainers(config: Config, vocab_size: int) -> dict[str, many.Trainer]:
    """The compiled training of each arm."""
    made = {}
    for name, arm in ARMS.items():
        objective = make_objective(make_model(config, vocab_size, arm.tokens), arm)
        weights = {f"token_{head + 1}": 1.0 for head in range(arm.tokens)}
        made[name] = many.one_by_one(many.make_trainer(objective, weights, config.training.optimizer, every=1))
    return made


def train_networks(bench: Bench, text: CausalText, method: str, rate: str = BEST) -> list[Row]:
    """Tries the rates of an arm, or trains it at one and tests."""
    config, arm, vocab_size = bench.config, ARMS[method], text.tokenizer.vocab_size
    batch_size, seq_len = config.training.batch_size, config.data.seq_len
    pool, steps = whole_blocks(text.streams["train"], seq_len), steps_of(config, vocab_size, arm)
    init = init_of(make_model(config, vocab_size, arm.tokens), pool)
    runs = bench.starts(init, np.arange(len(pool["tokens"])), batch_size, steps)

    def bits(end: many.Trained, split: str) -> list[float]:
        params = {"encoder": end.params["encoder"]}  # without the blocks for further tokens
        options: Any = {"shape": (batch_size, seq_len), "soft_cap": arm.soft_cap}
        return bits_per_byte(make_model(config, vocab_size), params, text, split, **options)

    if bench.tuned is None:
        return many.tune(bench.trainers[method], pool, runs, MIDDLE, lambda end: bits(end, "validation"))
    used = bench.rate(method, MIDDLE) if rate == BEST else FACTORS[rate] * bench.rate(PLAIN, MIDDLE)
    end = many.train_at(bench.trainers[method], used, runs, pool)
    bench.write_curves({"method": method, "rate": rate}, 1, end.curves)
    if (method, rate) == (PLAIN, BEST):
        bench.run.save(jax.tree.map(lambda leaf: leaf[0], end.params), vocab_size, tokenizer=text.tokenizer)
    plain = config.training.steps * operations(config, vocab_size, ARMS[PLAIN])
    share = steps * operations(config, vocab_size, arm) / plain
    return many.rows_of({METRIC: bits(end, "test")}, learning_rate=used, operations=share)


def evaluate(bench: Bench, text: CausalText, *, method: str, rate: str = BEST) -> Row | list[Row]:
    """Networks at a rate, or a baseline."""
    if method == NGRAM:
        return score_orders(text.texts, text.document_bytes("test"), bench.config.ngram_order, METRIC)
    if method == XZ:
        return {METRIC: xz_bits_per_byte(text.texts["test"], text.texts["train"])}
    return train_networks(bench, text, method, rate)


def at(rate: str, *names: str) -> tuple[Row, ...]:
    """Settings of arms at a rate."""
    return tuple({"method": name, "rate": rate} for name in names)


BITS: Any = {"metric": METRIC, "better": "lower"}
SAVE = "z-loss of 1e-4, soft cap of 30, label smoothing of 0.1 and two tokens each save bits"
SAVED, EQUAL = "z-loss and soft cap help where the rate is too large", "z-loss and soft cap cost less than 0.02 bits"
QUESTIONS = (
    Question(**BITS, treatment=at(BEST, *ARMS)[1:], baselines=at(BEST, PLAIN), claim=SAVE),
    Question(**BITS, treatment=methods(*STABLE[1:]), baselines=methods(PLAIN), by="rate", at=(THREE, TEN), claim=SAVED),
    Question(
        **BITS, treatment=at(BEST, *STABLE[1:]), baselines=at(BEST, PLAIN), expected="same", margin=0.02, claim=EQUAL
    ),
    Question(
        **BITS,
        treatment=at(BEST, PLAIN),
        baselines=({"method": NGRAM, "chosen": True}, *methods(XZ)),
        claim="So small a network compresses better than the best n-gram and xz",
    ),
    Question(
        "operations",
        treatment=at(BEST, *ARMS),
        baselines=(1.0,),
        expected="same",
        margin=0.02,
        claim="All take the operations of plain training, within 2 %",
    ),
)


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        text = make_data(config)
        run.uses(text.streams, text.texts)
        bench = Bench(config, run, make_trainers(config, text.tokenizer.vocab_size))
        tried = run.all([{"tuned": name} for name in ARMS], lambda tuned: train_networks(bench, text, tuned))
        chosen = dataclasses.replace(bench, tuned=tried)
        grid: list[Row] = [*at(BEST, *ARMS), *at(THREE, *STABLE), *at(TEN, *STABLE), *methods(NGRAM, XZ)]
        results = run.all(grid, lambda **setting: evaluate(chosen, text, **setting), on=tried)
        sizes = ", ".join(f"{len(part):,} bytes of {split} text" for split, part in text.texts.items())
        panels = {"recommended for stability": STABLE, "other targets": (PLAIN, SMOOTHING, TWO)}
        return run.report(
            results,
            QUESTIONS,
            notes=[f"{sizes}.", chosen.table],
            figures=[lambda: draw_rates(run.path, tried, panels)],
            title=f"Additions to the loss of a causal language model of {wording(config.data).title}",
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)
