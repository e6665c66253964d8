"""One training of a study: bad numbers, early stopping, precision, averages, batches of its own, and what it costs."""

import dataclasses
import io
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import causal_lm
from experiments.models.transformer import Bert, TransformerConfig
from experiments.study import Recipe, Run, Start, StudyConfig, TrainingConfig, cli, fit_model, open_study
from experiments.study.grid import read_result
from experiments.study.report import mean_curves
from experiments.study.training import count_operations
from experiments.study.workdir import Measured
from train import Context, MetricsWriter, Term, make_precision, read_metrics
from train.devices.memory import Memory, OutOfMemory
from train.errors import RunFailed, UsageError
from train.files import escape_output

SGD = optax.sgd(0.5)
GIB = 2**30


def square(params, batch, ctx):
    return {"square": Term((params["w"] - batch["x"]) ** 2 / 2, weights=1)}


RECIPE = Recipe(square, {"square": 1.0}, SGD)
TRAINING = TrainingConfig(steps=8, checkpoint_every=2, log_every=4, devices=1)


class Batches:
    """The n-th batch is n, or NaN."""

    def __init__(self, bad=()):
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


def folder(path, **options):
    return Run("square", "", StudyConfig(**options), path, "", None).folder()


def train(path, bad=(), training=TRAINING, recipe=RECIPE, validation=None, **options):
    start = Start({"w": np.float32(0)}, 0)
    place = folder(path, **options)
    return fit_model(recipe, start, Batches(bad), training=training, folder=place, validation=validation)


def halves(numbers):
    """Each step goes half the way to its batch."""
    value = 0.0
    for number in numbers:
        value += (number - value) / 2
    return value


def test_a_run_passes_over_bad_numbers(tmp_path):
    fitted = train(tmp_path, {3, 6})
    assert float(fitted.params["w"]) == halves([1, 2, 4, 5, 7, 8])
    assert int(fitted.state.step) == 8
    path = tmp_path / "runs" / "run"
    lines = [(line["step"], line["split"]) for line in read_metrics(path)]
    assert lines == [(3, "skipped"), (4, "train"), (6, "skipped"), (8, "train")]
    assert (path / "metrics.csv").read_text().splitlines()[1].split(",")[:3] == ["3", "skipped", "nan"]


def test_a_run_goes_back_and_fails_with_one_sentence(tmp_path, capsys):
    fitted = train(tmp_path / "back", {4, 5}, max_consecutive_bad=2)
    assert float(fitted.params["w"]) == halves([1, 2, 6, 7, 8])  # 3 was after the checkpoint

    def main(config):
        train(tmp_path / "lost", set(range(3, 99)), max_consecutive_bad=1)

    with pytest.raises(SystemExit) as error:
        cli.run(main, StudyConfig, "", [])
    assert error.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 1 step, up to step 6, had a loss or gradient that is not finite; 3 return(s)")


@pytest.mark.parametrize("every", [2, None])
def test_a_finished_training_is_given_back_without_a_step(tmp_path, every):
    training = dataclasses.replace(TRAINING, checkpoint_every=every)
    first = train(tmp_path, training=training)
    again = (
        fit_model(RECIPE, Start({"w": np.float32(9)}, 1), iter([]), training=training, folder=folder(tmp_path))
        if (every is None)
        else train(tmp_path, training=training)
    )
    assert float(again.params["w"]) == float(first.params["w"]) == halves(range(1, 9))
    assert int(again.state.step) == 8
    assert again.evaluate([{"x": np.array([0.0, 2.0], np.float32)}])["square"] == pytest.approx(
        np.mean((halves(range(1, 9)) - np.array([0.0, 2.0])) ** 2 / 2)
    )


def test_the_average_is_what_is_evaluated(tmp_path):
    fitted = train(tmp_path, training=dataclasses.replace(TRAINING, ema_decay=0.5))
    value, average = 0.0, 0.0
    for number in range(1, 9):
        value += (number - value) / 2
        average = 0.5 * average + 0.5 * value
    assert float(fitted.params["w"]) == float(fitted.ema["w"]) == average
    assert float(fitted.state.params["w"]) == value
    assert fitted.evaluate([{"x": np.zeros(1, np.float32)}])["square"] == pytest.approx(average**2 / 2)
    with_teacher, averaged = (
        dataclasses.replace(RECIPE, teacher_decay=0.9),
        dataclasses.replace(TRAINING, ema_decay=0.5),
    )
    with pytest.raises(UsageError, match="already averages the parameters"):
        train(tmp_path / "x", recipe=with_teacher, training=averaged)


VALUES = [5.0, 2.0, 3.0, math.nan, 4.0, 1.0]  # of the evaluations after steps 2, 4, 6, ...
PATIENT = TrainingConfig(
    steps=12, checkpoint_every=2, eval_every=2, patience=3, patience_metric="error", devices=1, log_every=12
)


def judge(fitted):
    return {"error": VALUES[int(fitted.state.step) // 2 - 1]}


def test_a_run_stops_early_and_gives_the_best(tmp_path):
    for _ in range(2):  # the second time it is finished
        fitted = train(tmp_path, training=PATIENT, validation=judge)
        assert (int(fitted.state.step), float(fitted.params["w"])) == (4, halves(range(1, 5)))
    whole = dataclasses.replace(PATIENT, patience=None)
    assert int(train(tmp_path / "whole", training=whole, validation=judge).state.step) == 12


def test_patience_without_what_it_needs_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"between two evaluations \(2\) must be a multiple of .* \(4\)"):
        train(tmp_path, training=dataclasses.replace(PATIENT, checkpoint_every=4), validation=judge)
    with pytest.raises(UsageError, match="needs an evaluation on validation data, which this training does not have"):
        train(tmp_path, training=PATIENT)


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    with pytest.raises(Measured) as measured:
        train(tmp_path / "run", training=dataclasses.replace(TRAINING, steps=100), dry_run=True)
    assert measured.value.args[0] > 0
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "parameters             1\n" in printed
    assert "100" in printed


@pytest.mark.parametrize("split", [("--encoder-chunks", 2), None])
def test_a_study_names_its_own_options(tmp_path, monkeypatch, split):
    def fail(*args, **kwargs):
        raise OutOfMemory(64, 1, 1, Memory(10 * GIB, temporaries=40 * GIB), 40 * GIB)

    monkeypatch.setattr("experiments.study.training.fit", fail)
    with pytest.raises(RunFailed) as caught:
        train(tmp_path, recipe=dataclasses.replace(RECIPE, split=split))
    named = "--encoder-chunks 4 (about 30.0 GiB)" if split else "--accumulate 2 (about 30.0 GiB)"
    assert f"; try {named}" in str(caught.value)


def reinforce(state):
    """Actions drawn from the policy of the state, with their rewards; all randomness from its key and step."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, 7), state.step)
    actions = jax.random.categorical(key, jnp.broadcast_to(state.params["logits"], (16, 3)))
    return {"action": actions, "reward": (actions == 1).astype(jnp.float32)}


def policy_gradient(params, batch, ctx):
    log_probs = jax.nn.log_softmax(params["logits"])[batch["action"]]
    return {"policy": Term(-log_probs * batch["reward"], weights=1), "reward": Term(batch["reward"])}


def test_on_policy_learning_resumes_exactly(tmp_path):
    recipe = Recipe(policy_gradient, {"policy": 1.0}, optax.adam(0.1))
    training = TrainingConfig(steps=12, checkpoint_every=5, log_every=1, devices=1)

    def learn(path, steps=12, policy=reinforce):
        start = Start({"logits": np.zeros(3, np.float32)}, 3)
        place = folder(path)
        return fit_model(recipe, start, policy, training=dataclasses.replace(training, steps=steps), folder=place)

    def killed(state):
        if int(state.step) == 7:
            raise KeyboardInterrupt
        return reinforce(state)

    whole = learn(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "killed", policy=killed)
    resumed = learn(tmp_path / "killed")
    np.testing.assert_array_equal(resumed.params["logits"], whole.params["logits"])
    assert resumed.params["logits"][1] > resumed.params["logits"][0]
    lines = [read_metrics(tmp_path / name / "runs" / "run") for name in ("whole", "killed")]
    assert lines[0] == lines[1]


def test_a_mean_curve_has_the_runs_that_are_finite(tmp_path):
    for run, losses in (("a", [1.0, math.nan, 3.0]), ("b", [3.0, 4.0, math.inf])):
        (tmp_path / run).mkdir()
        with MetricsWriter(tmp_path / run) as writer:
            for step, loss in enumerate(losses):
                writer.write(step, "train", {"loss": loss})
    curves = mean_curves([tmp_path / "a", tmp_path / "b"], "train", {"loss": "loss (nats)", "none": "nothing"})
    assert curves == {"loss (nats)": ([0, 1, 2], [2.0, 4.0, 3.0])}


def transformer_case(name):
    """Objective, parameters and batch of a tiny model, with the precision of that name."""
    model = TransformerConfig(width=16, depth=1, heads=2)
    config = causal_lm.Config(model=model, training=TrainingConfig(precision=name))
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
def test_a_result_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"result\.json is damaged .* delete it, and its run is executed again"):
        read_result(tmp_path, "key")
    assert path.read_text(encoding="latin-1") == text


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
    wanted = pytest.raises(UsageError, match="expected --workdir as text in UTF-8")
    with wanted, open_study(StudyConfig(workdir=workdir), ""):
        pass


def test_operations_of_a_step_are_those_of_its_products():
    def objective(params, batch, ctx):
        return {"value": Term(jnp.sum((batch @ params["w"]) ** 2, -1), 1)}

    start = Start(lambda: {"w": jnp.ones((3, 5))}, 0)
    recipe, training = Recipe(objective, {"value": 1.0}, SGD), TrainingConfig(devices=1)
    batch = np.ones((7, 3), np.float32)
    assert count_operations(recipe, start, batch, training) == 2 * (2 * 7 * 3 * 5)  # forward, and of the weights
    started = dataclasses.replace(start, params=start.params())
    assert count_operations(recipe, started, batch, training) == 2 * (2 * 7 * 3 * 5)
