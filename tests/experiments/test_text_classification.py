"""Few labels: metrics, halves, adapters, draws, and the model that is asked."""

import csv
import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import text_classification
from experiments.baselines.tfidf import topics
from experiments.data.halves import Halves, cut_in_two, half_batches, pack
from experiments.data.labelled import Labelled
from experiments.data.tokenizers import CLS, MASK, PAD, SEP
from experiments.evaluation import few_labels
from experiments.evaluation.calibration import area_under_roc, expected_calibration_error, judge, reliability
from experiments.evaluation.fine_tuning import (
    AdaptConfig,
    TextClassifier,
    adapted,
    answers,
    draw,
    probabilities,
    start,
    whole,
)
from experiments.evaluation.halves import halves_objective
from experiments.models.transformer import Bert, TransformerConfig
from experiments.study import cli, many
from train.errors import UsageError
from train.objective import Context
from train.optimizers import OptimizerConfig

SMALL, VOCABULARY = TransformerConfig(width=8, depth=2, heads=2), 30
CTX = Context(jax.random.key(0), jnp.int32(0))


def shares(count, classes, seed=0):
    raw = np.random.default_rng(seed).exponential(size=(count, classes))
    return raw / raw.sum(1, keepdims=True)


def test_calibration_error_is_that_of_the_paper():
    found, labels = shares(200, 3), np.random.default_rng(1).integers(0, 3, 200)
    total = 0.0
    for low in range(10):  # B_m: confidence in ((m - 1) / M, m / M]
        inside = [i for i in range(200) if low / 10 < found[i].max() <= (low + 1) / 10]
        if inside:
            accuracy = sum(found[i].argmax() == labels[i] for i in inside) / len(inside)
            confidence = sum(found[i].max() for i in inside) / len(inside)
            total += len(inside) / 200 * abs(accuracy - confidence)
    assert expected_calibration_error(found, labels) == pytest.approx(total, rel=1e-12)
    right = found.argmax(-1) == labels
    assert reliability(found.max(-1), right)[0].sum() == 200


def test_area_counts_pairs_in_the_right_order():
    for classes in (2, 4):
        found, labels = shares(40, classes).round(1), np.random.default_rng(2).integers(0, classes, 40)
        areas = []
        for k in range(classes):
            ours, others = found[labels == k, k], found[labels != k, k]
            areas.append(np.mean([(a > b) + 0.5 * (a == b) for a in ours for b in others]))
        assert area_under_roc(found, labels) == pytest.approx(np.mean(areas), rel=1e-12)


def test_f1_is_that_of_the_rarest_class():
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = np.eye(2)[[0, 0, 0, 1, 1, 0]]
    assert judge(found, labels)["rare_f1"] == 0.5  # one right of two said and of two there
    assert judge(found, labels)["accuracy"] == pytest.approx(4 / 6)


def test_draws_have_each_class_in_its_share_and_overlap_only_when_all_are_used():
    label = np.repeat([0, 1, 2], [20, 60, 120])
    draws = [draw(label, 20, 3, number) for number in range(10)]
    assert sorted(np.concatenate(draws).tolist()) == list(range(200))
    for rows in draws:
        assert np.all(np.abs(np.bincount(label[rows], minlength=3) - [2, 6, 12]) <= 1)
    np.testing.assert_array_equal(np.sort(draw(label, 20, 3, 10)), np.sort(draws[0]))
    assert set(draw(label, 20, 4, 0)) != set(draws[0])


def test_halves_are_apart_and_whole_where_they_fit():
    rng = np.random.default_rng(0)
    for length in (8, 9, 30):
        ids = np.arange(5, 5 + length)
        for _ in range(20):
            first, second = cut_in_two(ids, 100, rng)
            np.testing.assert_array_equal(np.concatenate([first, second]), ids)
            assert min(len(first), len(second)) >= length // 3
            first, second = cut_in_two(ids, 4, rng)
            assert max(len(first), len(second)) <= 4
            assert not {*first} & {*second}


def test_a_batch_of_halves_is_masked_and_repeatable():
    texts = [np.arange(5, 5 + n) for n in (20, 3, 25, 12)]
    make = Halves(texts, VOCABULARY, 10, seed=1)
    batch, again = make(7, np.array([0, 2])), make(7, np.array([0, 2]))
    for name in batch:
        np.testing.assert_array_equal(batch[name], again[name])
    assert batch["tokens"].shape == (4, 10)
    words = [{*row[row > MASK]} for row in batch["labels"]]
    assert words[0] <= {*texts[0]}
    assert words[2] <= {*texts[0]}
    assert not words[0] & words[2]
    assert (batch["labels"][:, 0] == CLS).all()
    assert all(row[valid][-1] == SEP for row, valid in zip(batch["labels"], batch["valid"], strict=True))
    same = batch["tokens"] == batch["labels"]
    assert same[~batch["masked"]].all()
    assert not batch["masked"][~batch["valid"]].any()
    with pytest.raises(UsageError, match="3 texts have 8 tokens or more, expected at least 4 to pretrain on halves"):
        half_batches(texts, VOCABULARY, batch_size=4, seq_len=10)


def classifier(seed=0):
    model = TextClassifier(SMALL, VOCABULARY, 2, classes=("bad", "good"), seq_len=6)
    encoder = start(model, None, AdaptConfig(), "full", jax.random.key(seed))["encoder"]
    tokens = np.random.default_rng(seed).integers(5, VOCABULARY, (9, 6)).astype(np.int32)
    return model, encoder, {"tokens": tokens, "label": np.arange(9) % 2}


def test_every_way_starts_at_equal_probabilities_and_trains_what_it_says():
    model, encoder, batch = classifier()
    adapt = AdaptConfig(rank=2)
    for way in ("full", "lora", "layers"):
        params = start(model, encoder, adapt, way, jax.random.key(1))
        np.testing.assert_allclose(probabilities(model, whole(params, encoder, adapt), batch["tokens"]), 0.5)
        params["head"]["kernel"] = jnp.asarray(np.ones((8, 2)) * [1.0, -1.0], jnp.float32)
        objective = adapted(text_classification.make_objective(model), encoder, adapt)

        def loss(params, objective=objective):
            return objective(params, batch, CTX)["text_class"].values.mean()

        moved = {
            "/".join(str(key.key) for key in path): float(jnp.abs(leaf).max())
            for path, leaf in jax.tree_util.tree_flatten_with_path(jax.grad(loss)(params))[0]
        }
        if way == "lora":  # B is 0, so only it has a gradient, and no weight of the encoder is trained
            assert {path.split("/")[0] for path in moved} == {"adapters", "head"}
            assert all(
                ("/block_" in path) and (value > 0) == path.endswith("/b")
                for path, value in moved.items()
                if path.startswith("adapters")
            )
        else:
            assert moved["encoder/embedding/embedding"] > 0
        assert moved["head/kernel"] > 0


def test_lower_layers_have_lower_rates():
    model, encoder, batch = classifier()
    texts = Labelled("made", [""] * 9, batch["label"].astype(np.int32), ("bad", "good"))
    data = few_labels.Data((texts, texts), None, (batch["tokens"], batch["tokens"]), (np.zeros((9, 1)),) * 2)
    plain = dataclasses.replace(
        text_classification.Config().fast().training,
        optimizer=OptimizerConfig(learning_rate=1.0, schedule="constant", weight_decay=0.0),
    )
    config = text_classification.Config(training=plain, seeds=1, adapt=AdaptConfig(layer_decay=0.5))
    objective = text_classification.make_objective(model)
    lab = few_labels.Lab(config, None, data, model, objective, lambda kind: encoder, tried=[])
    moved = {}
    for method in (few_labels.PRETRAINED, few_labels.LAYERS):
        fit, runs, _ = few_labels.networks(lab, method, [np.arange(8)])
        params = jax.tree.map(jnp.asarray, runs.params)
        params["head"]["kernel"] = jnp.asarray(np.ones((1, 8, 2)) * [1.0, -1.0], jnp.float32)
        end = many.train_at(fit, 1e-5, runs._replace(params=params), few_labels.pool_of(lab))
        moved[method] = jax.tree.map(lambda a, b: float(jnp.abs(a - b).mean()), end.params, params)
    rates = jax.tree.map(lambda a, b: b / a if a else 1.0, *moved.values())
    assert rates["head"]["kernel"] == pytest.approx(1, rel=0.02)
    for name, wanted in (("block_1", 0.5), ("block_0", 0.25)):
        assert rates["encoder"][name]["mlp_in"]["kernel"] == pytest.approx(wanted, rel=0.02)
    assert rates["encoder"]["embedding"]["embedding"] == pytest.approx(0.125, rel=0.02)


def test_the_objective_is_the_cross_entropy_of_one_batch():
    model, encoder, batch = classifier()
    batch["tokens"][0, 4:] = PAD
    params = {
        "encoder": encoder,
        "head": {"kernel": jnp.asarray(np.ones((8, 2)) * [0.5, -0.5], jnp.float32), "bias": jnp.zeros(2)},
    }
    terms = text_classification.make_objective(model)(params, batch, CTX)
    found = probabilities(model, params, batch["tokens"])
    np.testing.assert_allclose(terms["text_class"].values, -np.log(found[np.arange(9), batch["label"]]), rtol=1e-5)
    short = probabilities(model, params, batch["tokens"][:1, :4])
    np.testing.assert_allclose(found[0], short[0], rtol=1e-5)  # padding is not read


def test_pretraining_knows_the_halves():
    model = Bert(SMALL, VOCABULARY)
    batch = Halves([np.arange(5, 29), np.arange(28, 8, -1)], VOCABULARY, 12, seed=0)(0, np.array([0, 1]))
    row = jnp.zeros((1, 12), jnp.int32)
    params = model.init(jax.random.key(0), row, valid=row == 0, segments=row, positions=row[:, :1], method="masked")[
        "params"
    ]
    terms = halves_objective(model, 2, 0.5)(params, batch, CTX)
    places = {
        "valid": batch["valid"],
        "segments": jnp.zeros_like(batch["tokens"]),
        "positions": row[:, :1].repeat(4, 0),
    }
    _, means = model.apply({"params": params}, batch["tokens"], **places, method="masked")
    z = np.asarray(means, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cosines = np.exp(z @ z.T / 0.5)
    each = [-np.log(cosines[i, (i + 2) % 4] / (cosines[i].sum() - cosines[i, i])) for i in range(4)]
    np.testing.assert_allclose(terms["halves"].values, [(each[0] + each[2]) / 2, (each[1] + each[3]) / 2], rtol=1e-5)
    assert terms["masked_words"].values.shape == (4, 2)


def test_packing_keeps_the_beginning():
    assert pack([np.array([7, 8]), np.array([7, 8, 9, 10])], 5).tolist() == [[CLS, 7, 8, SEP, PAD], [CLS, 7, 8, 9, SEP]]


def own_file(path, count=240):
    """Texts with words of their class."""
    rng, words = np.random.default_rng(0), [["good", "lovely", "great"], ["stale", "awful", "bad"]]
    lines = []
    for i in range(count):
        label = i % 2
        said = [
            words[label][k] if rng.random() < 0.5 else f"word{k + rng.integers(40)}" for k in rng.integers(0, 3, 12)
        ]
        lines.append(json.dumps({"review": f"{' '.join(said)} {i}", "stars": [5, 1][label]}))
    path.write_text("\n".join(lines))


@pytest.mark.full
def test_a_file_is_learnt_saved_loaded_and_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_file(tmp_path / "mine.jsonl")
    small = ["--data.path", "mine.jsonl", "--data.text-column", "review", "--data.label-column", "stars"]
    arguments = ["--fast-dev-run", "--workdir", "run", *small, "--steps", "60"]
    cli.run(text_classification.main, text_classification.Config, "", arguments)
    with open("run/predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert {row["label"] for row in rows} == {"1", "5"}
    assert np.mean([row["label"] == row["predicted"] for row in rows]) > 0.7
    capsys.readouterr()
    asked = ["--workdir", "run", "--ask", rows[0]["text"], rows[1]["text"]]
    cli.run(text_classification.main, text_classification.Config, "", asked)
    for line, row in zip(capsys.readouterr().out.splitlines(), rows, strict=False):
        label, share, *_ = line.split()
        assert label == row["predicted"]
        assert float(share) == pytest.approx(float(row[f"probability of {label}"]), abs=6e-4)


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(text_classification.main, text_classification.Config, "", ["--workdir", str(tmp_path), "--ask", "a"])
    assert stop.value.code == 2
    assert "contains no model" in capsys.readouterr().err


def test_a_model_of_another_study_is_not_asked():
    with pytest.raises(UsageError, match="classifies no texts; give the folder of a finished text_classification"):
        answers(Bert(SMALL, VOCABULARY), {}, None, ["a"])


def test_topics_of_few_words_are_fewer():
    texts = ["one apple", "two apple", "three pears", "apple pears"]
    features, others = topics(texts, ["apple", "nothing known"], 50)
    assert features.shape[0] == 4
    assert features.shape[1] == others.shape[1] < 4
    assert others[0].any()
    assert not others[1].any()
    assert topics(["one", "two", "three"], ["one"], 2)[0].shape == (3, 2)
    with pytest.raises(UsageError, match="the texts have no words"):
        topics(["a", "b"], ["c"], 2)


def test_a_class_without_labels_has_no_probability():
    texts = Labelled("made", ["good day", "bad day", "good bad"], np.array([0, 2, 1]), ("a", "b", "c"))
    data = few_labels.Data((texts, texts), None, (None, None), (np.eye(3), np.eye(3)))
    lab = few_labels.Lab(text_classification.Config(), None, data, None, None, None)
    for method in (few_labels.TFIDF, few_labels.LSA):
        found = few_labels.of_words(lab, method, np.array([0, 1]), 10.0, 1)
        np.testing.assert_allclose(found.sum(1), 1)
        assert not found[:, 1].any()
        assert found[:2].argmax(1).tolist() == [0, 2]
        np.testing.assert_array_equal(few_labels.of_words(lab, method, np.array([1]), 10.0, 1), np.eye(3)[[2, 2, 2]])


def test_fewer_labels_than_a_batch_are_refused():
    with pytest.raises(UsageError, match="--labels must be at least the --batch-size of 16, but one is 8"):
        text_classification.Config(labels=(8, 200))


@pytest.mark.faults
def test_killed_study_ends_like_one_that_was_not(tmp_path, monkeypatch):
    def run(folder):
        config = dataclasses.replace(text_classification.Config().fast(), workdir=str(folder), fast_dev_run=True)
        return text_classification.main(config)

    whole_run, calls, tune = run(tmp_path / "whole"), [], few_labels.tune

    def die_at_the_second(*args, **setting):
        calls.append(setting)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tune(*args, **setting)

    monkeypatch.setattr(few_labels, "tune", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    found = run(tmp_path / "run")
    assert calls[1] == calls[2]
    assert len(calls) == len(text_classification.METHODS) + 1
    assert found["runs"] == whole_run["runs"]


@pytest.mark.study
@pytest.mark.parametrize("rate", [3e-3, 0.0])
def test_a_network_learns_unless_its_rate_is_0(rate, tmp_path, monkeypatch):
    """From 1,000 labels; guessing gives an area of 0.5."""
    config = text_classification.Config(labels=(1_000,), seeds=2, tuning_seeds=1, workdir=str(tmp_path / "run"))
    data = dataclasses.replace(config.data, seq_len=32)
    config = dataclasses.replace(config, data=data)
    monkeypatch.setattr(few_labels, "tune", lambda lab, tuned, labels: [{"rate": rate, "loss": 0.0}])
    monkeypatch.setattr(text_classification, "METHODS", (few_labels.SCRATCH,))
    monkeypatch.setattr(text_classification, "QUESTIONS", ())
    monkeypatch.setattr(text_classification, "deliver", lambda lab, labels: {})
    monkeypatch.setattr(text_classification, "pictures", lambda *given: ())
    monkeypatch.setattr(text_classification, "pretrained", lambda *given: SimpleNamespace(params={"encoder": {}}))
    areas = [row["auc"] for row in text_classification.main(config)["runs"] if "auc" in row]
    assert (np.mean(areas) > 0.6) == (rate > 0)
