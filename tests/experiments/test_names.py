"""Names in several languages: what is read and how it is split, the encoder, the baselines, and what they are asked."""

import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from experiments import sentence_embeddings
from experiments.baselines import translation
from experiments.data import name_bags, names
from experiments.evaluation import retrieval
from experiments.models.bag import BagEncoder, bag_texts, halved, init_of
from experiments.sentence_embeddings import BLIND, INFO, LOSSES, SUPCON
from train.errors import UsageError
from train.objective import Context

CTX = Context(jax.random.key(0), jnp.int32(0), train=False)


def test_emoji_have_a_name_in_each_language_and_siblings_are_one_family():
    found = names.read_emoji()
    assert (len(found.texts), {len(texts) for texts in found.texts.values()}) == (14, {1_661})
    place = {name: i for i, name in enumerate(found.texts["en"])}
    assert found.texts["de"][place["fire extinguisher"]] == "feuerlöscher"
    assert not [name for name in place if "skin tone" in name or name in ("France", "Scotland")]
    siblings = (
        ("man artist", "woman artist", "artist"),
        ("prince", "princess", "person with crown"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
        ("man dancing", "woman dancing"),
        ("boy", "girl", "child"),
        ("merman", "mermaid", "merperson"),
        ("old man", "old woman"),
        ("men\u2019s room", "women\u2019s room"),
    )
    for group in siblings:
        assert len({found.family[place[name]] for name in group}) == 1, group
    assert found.family[place["dog"]] != found.family[place["cat"]]


def test_no_family_is_on_two_sides():
    family = np.repeat(np.arange(50), np.arange(50) % 4 + 1)
    parts = names.split_by_family(family, 3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(family)))
    sides = [set(family[part]) for part in parts]
    assert [len(side) for side in sides] == [35, 5, 10]
    assert not np.array_equal(parts[2], names.split_by_family(family, 4)[2])


def test_without_the_extra_the_names_are_html_s(monkeypatch):
    monkeypatch.setattr(names, "has_emoji", lambda: False)
    found = names.read_names()
    place = {name: i for i, name in enumerate(found.texts["Unicode"])}
    a, b = (place[f"latin {case} letter c with cedilla"] for case in ("small", "capital"))
    assert (found.texts["HTML"][a], found.texts["HTML"][b]) == ("ccedil", "Ccedil")
    assert found.family[a] == found.family[b]
    assert len(found) > 1_400


@pytest.mark.parametrize(("suffix", "line"), [("tsv", 'a "{0}"\tb, {0}'), ("csv", '"a ""{0}""","b, {0}"')])
def test_pairs_of_a_user(tmp_path, suffix, line):
    path = tmp_path / f"pairs.{suffix}"
    path.write_text("".join(line.format(i) + "\n" for i in range(120)) + line.format(7) + "\n", encoding="utf-8-sig")
    found = names.read_pairs(str(path))
    assert (found.texts["first"][3], found.texts["second"][3]) == ('a "3"', "b, 3")
    assert found.family[7] == found.family[120] != found.family[8]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.txt", b"a\tb\n", r"as a UTF-8 file .tsv or .csv with two texts a line, got '.*pairs.txt'$"),
        ("gone.tsv", None, "gone.tsv', and there is no such file"),
        ("pairs.tsv", b"a\tb\nc\n", "line 2 of .*: expected two texts, got 1 in 1 columns; correct or delete it"),
        ("pairs.tsv", b"a\t \n", "line 1 of .*: expected two texts, got 1 in 2 columns"),
        ("pairs.csv", b"a,b,c\n", "line 1 of .*: expected two texts, got 3 in 3 columns"),
        ("pairs.csv", b"a,b\n\n", "line 2 of .*: expected two texts, got 0 in 0 columns"),
        ("pairs.tsv", b"\xff\t\xfe\n", "cannot be read as UTF-8 text .*; save it as UTF-8"),
        ("pairs.tsv", b"same\tother\n" * 500, "at least 100 pairs in .* count once; got 1 of 500 lines"),
        ("pairs.csv", b"", "at least 100 pairs in .*; got 0 of 0 lines"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        names.read_pairs(str(tmp_path / name))


def grams_of(text):
    """N-grams of one to three characters of each word between spaces, counted."""
    counts = collections.Counter()
    for word in text.lower().split():
        for size in (1, 2, 3):
            for start in range(len(word) + 3 - size):
                counts[f" {word} "[start : start + size]] += 1
    return counts


def test_random_vectors_of_n_grams_have_nearly_the_cosines_of_their_counts():
    texts = ["red heart", "Red apple", "green apple", "x"]
    bags, features = bag_texts(texts, 100_000), 4_096
    params = init_of(BagEncoder(100_000, features), np.ones(100_000, np.float32))(jax.random.key(0))
    z = BagEncoder(100_000, features).apply({"params": params}, bags.grams, bags.weights)
    vectors = [{gram: 1 + math.log(count) for gram, count in grams_of(text).items()} for text in texts]
    dot = lambda a, b: sum(a[gram] * b.get(gram, 0.0) for gram in a)  # noqa: E731
    right = [[dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for b in vectors] for a in vectors]
    np.testing.assert_allclose(retrieval.cosines(z, z), right, atol=4 / features**0.5)
    a, b = halved(bags, 0)
    np.testing.assert_array_equal(a.weights + b.weights, bags.weights)
    assert not np.any((a.weights > 0) & (b.weights > 0))


def test_batches_name_each_concept_in_different_languages():
    rng, count = np.random.default_rng(0), 10
    concepts = np.stack([rng.permutation(count)[:6] for _ in range(50)])
    rows = name_bags.draw_names(concepts, count, [1, 3, 4], rng, each=3)
    assert rows.shape == (50, 18)
    np.testing.assert_array_equal(rows % count, np.tile(concepts, 3))
    languages = (rows // count).reshape(50, 3, 6)
    assert np.all(languages[:, 0] == 0)
    assert {*languages[:, 1:].ravel()} == {1, 3, 4}
    assert np.all(languages[:, 1] != languages[:, 2])


def test_the_linear_map_is_ridge_regression(monkeypatch):
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice([*"abcdefg"], 6)) for _ in range(40)]
    texts = {"a": words, "b": [word[::-1] + "x" for word in words]}
    split = np.split(np.arange(40), [24, 32])
    monkeypatch.setattr(translation, "PENALTIES", (0.5,))
    monkeypatch.setattr(translation, "WEIGHTS", (2.0,))
    found = translation.translate(texts, split, ((1, 2),))
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 2), sublinear_tf=True).fit(words + texts["b"])
    x, y = (vectorizer.transform(texts[side]).toarray() for side in "ab")
    predicted = Ridge(alpha=0.5, fit_intercept=False).fit(x[:24], y[:24]).predict(x[32:])
    mapped = predicted / np.linalg.norm(predicted, axis=1, keepdims=True) @ y[32:].T
    np.testing.assert_allclose(found[translation.MAP].scores["b"], mapped, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found[translation.BOTH].scores["b"], mapped + 2 * x[32:] @ y[32:].T, rtol=1e-6)
    np.testing.assert_allclose(found[translation.TFIDF].scores["b"], x[32:] @ y[32:].T, rtol=1e-6)


def test_recall_counts_the_right_answers_among_the_first():
    scores = {"a": np.eye(20), "b": np.ones((20, 20)), "c": -np.eye(20)}
    one, two = retrieval.recalls({"good": ["a"], "bad": ["b", "c"]}, scores)
    assert (one["to"], one["recall_at_1"], one["curve"]) == ("good", 1.0, [1.0] * 6)
    # All equal: rank 9.5, of which the first ten count; last of all: rank 19, of which the first twenty do.
    assert (two["recall_at_1"], two["recall_at_10"], two["curve"][-2:]) == (0.0, 0.5, [1.0, 1.0])
    assert two["recall_at_10 examples"] == [0.5] * 20
    assert retrieval.misses(scores) == pytest.approx(2 / 3)


def info_nce(a, b, temperature):
    """Mean of both directions, for each pair."""
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
    scores = np.exp(a @ b.T / temperature)
    own = np.diagonal(scores)
    return (-np.log(own / scores.sum(1)) - np.log(own / scores.sum(0))) / 2


def test_objectives_on_a_batch():
    config = dataclasses.replace(sentence_embeddings.Config(), buckets=64, features=8)
    texts = [f"word{i} {i * 7}" for i in range(32)]
    bags, model = bag_texts(texts, 64), sentence_embeddings.make_model(config)
    params = init_of(model, np.ones(64, np.float32))(jax.random.key(1))
    concept = np.tile(np.arange(16), 2)
    batch = {"grams": bags.grams, "weights": bags.weights, "concept": concept, "temperature": np.full(32, 0.2)}
    z = np.einsum("nld,nl->nd", np.asarray(params["table"], np.float64)[bags.grams], bags.weights)
    values = {
        name: sentence_embeddings.make_objective(model, name)(params, batch, CTX)["contrastive"].values
        for name in LOSSES
    }
    np.testing.assert_allclose(values[INFO], info_nce(z[:16], z[16:], 0.2)[None], rtol=1e-4)
    few = [info_nce(z[i : i + 4], z[16 + i : 20 + i], 0.2) for i in range(0, 16, 4)]
    np.testing.assert_allclose(values["InfoNCE, 1/4 of the negatives"], few, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values["InfoNCE, 1/16 of the negatives"], np.zeros((16, 1)), atol=1e-6)
    supcon = np.asarray(values[SUPCON]).reshape(2, 16).mean(0)  # with two names of each it is NT-Xent
    np.testing.assert_allclose(supcon, values["NT-Xent"][0], rtol=1e-4)


def test_a_method_does_not_see_the_languages_that_it_leaves_out():
    config = dataclasses.replace(sentence_embeddings.Config().fast(), seeds=2, tuning_seeds=1)
    data = sentence_embeddings.make_data(config)
    bench = sentence_embeddings.Bench(config, None, {}, [])
    count, codes = len(data.names), [*data.names.texts]
    for method, left in ((INFO, set()), (BLIND, {"pt", "zh"})):
        rows = np.asarray(sentence_embeddings.draw_batches(bench, data, method).rows)
        assert {codes[language] for language in np.unique(rows // count)} == {*codes} - left
        assert {*np.unique(rows % count)} <= {*data.split[0].tolist()}
        assert rows.shape == (2, 20, 64)
        assert all(len({*batch[:32].tolist()}) == 32 for batch in rows[0])  # no concept is its own negative


@pytest.mark.parametrize("option", [{"batch_size": 8}, {"steps": 5}])
def test_trainings_too_short_to_be_cut_are_refused(option):
    usual = sentence_embeddings.Config()
    with pytest.raises(UsageError, match="expected --batch-size of at least 16 and --steps of at least 10"):
        dataclasses.replace(usual, training=dataclasses.replace(usual.training, **option))


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(1.0, True), (0.0, False)])
def test_translations_are_found_that_tf_idf_does_not_find(rate, learns, tmp_path, monkeypatch):
    monkeypatch.setattr(sentence_embeddings, "QUESTIONS", ())  # they ask of more than one method
    monkeypatch.setattr(sentence_embeddings, "RANGES", ((1, 3),))
    usual = sentence_embeddings.Config(methods=(INFO,), temperatures=(0.1,), buckets=16_384, features=32, seeds=2)
    optimizer = dataclasses.replace(usual.training.optimizer, learning_rate=rate)
    training = dataclasses.replace(usual.training, optimizer=optimizer)
    summary = sentence_embeddings.main(dataclasses.replace(usual, training=training, workdir=str(tmp_path / "run")))
    rows = [row for row in summary["runs"] if row["to"] == "Latin script"]
    recall = {m: np.mean([row["recall_at_1"] for row in rows if row["method"] == m]) for m in (INFO, "TF-IDF")}
    assert (recall[INFO] > recall["TF-IDF"] + 0.1) == learns
