"""Runs of a study: bad numbers are passed over and show in the metrics, precision is a policy, curves may have gaps."""

import dataclasses
import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import causal_lm, cli
from experiments.models.transformer import Bert, TransformerConfig
from experiments.runs import mean_curves, run_all, train_run, values_of
from train import (
    Context,
    MetricsWriter,
    Term,
    build_train_step,
    create_state,
    make_precision,
    read_metrics,
    skip_nonfinite,
)
from train.errors import UsageError
from train.files import escape_output

SGD = optax.sgd(0.5)


def square(params, batch, ctx):
    return {"square": Term((params - batch["x"]) ** 2 / 2, weights=1)}


STEP = jax.jit(skip_nonfinite(build_train_step(square, SGD, loss_weights={"square": 1.0})))


class Batches:
    """The n-th batch is n, or NaN."""

    def __init__(self, bad):
        self.bad, self.position = bad, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        return {"x": np.full(2, math.nan if self.position in self.bad else self.position, np.float32)}

    def get_state(self):
        return self.position

    def set_state(self, position):
        self.position = position


def train(folder, bad, **options):
    options = dataclasses.replace(cli.StudyConfig(), **options)
    state = create_state(np.float32(0), SGD, key=0)
    return train_run(folder, state, STEP, Batches(bad), steps=8, checkpoint_every=2, log_every=4, options=options)


def halves(numbers):
    """Each step goes half the way to its batch."""
    value = 0.0
    for number in numbers:
        value += (number - value) / 2
    return value


def test_a_run_passes_over_bad_numbers(tmp_path):
    state = train(tmp_path, {3, 6})
    assert float(state.params) == halves([1, 2, 4, 5, 7, 8])
    assert int(state.step) == 8
    lines = [(line["step"], line["split"]) for line in read_metrics(tmp_path)]
    assert lines == [(3, "skipped"), (4, "train"), (6, "skipped"), (8, "train")]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1].split(",")[:3] == ["3", "skipped", "nan"]


def test_a_run_goes_back_and_fails_with_one_sentence(tmp_path, capsys):
    state = train(tmp_path / "back", {4, 5}, max_consecutive_bad=2)
    assert float(state.params) == halves([1, 2, 6, 7, 8])  # 3 was after the checkpoint

    def main(config):
        train(Path(config.workdir), set(range(3, 99)), max_consecutive_bad=1)

    with pytest.raises(SystemExit) as error:
        cli.run(main, cli.StudyConfig, "square", "", ["--workdir", str(tmp_path / "lost")])
    assert error.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 1 step, up to step 6, had a loss or gradient that is not finite; 3 return(s)")


def test_a_mean_curve_has_the_runs_that_are_finite(tmp_path):
    for run, losses in (("a", [1.0, math.nan, 3.0]), ("b", [3.0, 4.0, math.inf])):
        (tmp_path / run).mkdir()
        with MetricsWriter(tmp_path / run) as writer:
            for step, loss in enumerate(losses):
                writer.write(step, "train", {"loss": loss})
    curves = mean_curves([tmp_path / "a", tmp_path / "b"], "train", {"loss": "nats", "none": "nothing"})
    assert curves == {"nats": ([0, 1, 2], [2.0, 4.0, 3.0])}


def transformer_case(name):
    """Objective, parameters and batch of a tiny model, with the precision of that name."""
    config = causal_lm.Config(model=TransformerConfig(width=16, depth=1, heads=2), precision=name)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=6))
    model = causal_lm.make_model(config, 23)
    rng = np.random.default_rng(0)
    valid = np.ones((4, 6), bool)
    batch = {
        "tokens": rng.integers(5, 23, (4, 6)).astype(np.int32),
        "valid": valid,
        "segment_ids": valid.astype(np.int32),
        "bytes": np.array([9, 3, 7, 0], np.int32),
    }
    params = jax.jit(lambda: causal_lm.initial_parameters(model, config, 0))()
    return make_precision(name).wrap(causal_lm.make_objective(model), cast=False), params, batch


def test_a_transformer_in_each_precision():
    def gradient(name):
        objective, params, batch = transformer_case(name)
        ctx = Context(jax.random.key(0), jnp.int32(0), loss_scale=make_precision(name).loss_scale())

        def loss(params):
            total, weight = objective(params, batch, ctx)["next_token"].sums()
            return total / weight

        value, grads = jax.jit(jax.value_and_grad(loss))(params)
        leaves = jax.tree.leaves(grads)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, grads, value)))
        return float(value), np.concatenate([np.ravel(leaf) for leaf in leaves])

    value, exact = gradient("float32")
    for name, epsilon in (("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        rounded_value, rounded = gradient(name)
        assert rounded_value == pytest.approx(value, rel=epsilon)
        error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert epsilon / 50 < error < 4 * epsilon


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_multiplies_in_its_type(dtype):
    shapes = {"valid": jnp.ones((1, 4), bool), "segments": jnp.zeros((1, 4), int), "positions": jnp.zeros((1, 1), int)}
    model, tokens = Bert(TransformerConfig(width=8, depth=1, heads=2), 11, dtype), jnp.zeros((1, 4), int)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, **shapes))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    text = jax.jit(lambda params: model.apply(params, tokens, **shapes)).lower(params).as_text()
    products = re.findall(
        r"dot_general.* : \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\) -> tensor<[\dx]*x(\w+)>", text
    )
    short = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
    # Six in the block, two of the masked-LM head; the pooler and the head of the pair are small and stay as they are.
    assert sorted(products) == sorted([(short, short, "f32")] * 8 + [("f32", "f32", "f32")] * 2)


@pytest.mark.parametrize("text", ["{}", "[1]", "[", "3", "[" * 100_000, "\xff"], ids=ascii)
def test_results_of_another_form_are_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"results\.json is damaged .* delete it, and its runs are made again"):
        run_all(path, [{"seed": 0}], dict, progress=False)
    assert path.read_text(encoding="latin-1") == text


def test_a_result_without_the_number_is_named():
    for results in ([{"seed": 0}], [{"seed": 0, "accuracy": None}]):
        with pytest.raises(UsageError, match="a result has no finite 'accuracy'"):
            values_of(results, "accuracy", seed=0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_that_is_not_utf8_takes_every_letter(monkeypatch, encoding):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    escape_output()
    print("Ł ± \udcff")
    stdout.flush()
    written = stdout.buffer.getvalue().decode(encoding)
    assert written.endswith("\\udcff\n")
    assert ("Ł" in written, "±" in written) == (encoding == "utf-8", encoding != "ascii")


def test_the_catalogue_is_printed_where_output_is_ascii():
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    subprocess.run([sys.executable, "-m", "lossfns"], env=env, check=True, stdout=subprocess.DEVNULL, timeout=100)


@pytest.mark.parametrize("workdir", ["", "a\0b", "a\udcff"])
def test_a_workdir_that_can_be_none_ends_in_a_sentence(capsys, workdir):
    with pytest.raises(UsageError, match="expected --workdir as text in UTF-8"):
        cli.start(dataclasses.replace(cli.StudyConfig(), workdir=workdir), "study")
