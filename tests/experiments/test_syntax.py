"""What the study of trees measures: trees by brute force, distances by search, files, objectives by their formulas."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.stats import spearmanr

from experiments import syntax_tree
from experiments.baselines import heads as baselines
from experiments.data import treebank
from experiments.data.treebank import Sentence, TreebankConfig, arrays_of, read_conllu, read_python, tree_distances
from experiments.evaluation import tree_pictures, trees
from experiments.evaluation.structural_probe import make_probe, state_distances
from experiments.models.parser import Parser
from experiments.study import many
from train.errors import UsageError
from train.objective import Context, Term
from train.optimizers import OptimizerConfig

CTX = Context(jax.random.key(0), jnp.int32(0), train=False)


def all_trees(count):
    """Heads of all trees with one root."""
    for heads in itertools.product(range(count + 1), repeat=count):
        below = {0: 0}
        for _ in range(count):
            below |= {word: 0 for word, head in enumerate(heads, 1) if head in below}
        if len(below) == count + 1 and heads.count(0) == 1:
            yield heads


@pytest.fixture(scope="module")
def gold():
    """Random trees of 2 to 6 words, padded to 7, of which some words are scored."""
    rng = np.random.default_rng(0)
    words = np.arange(7) < rng.integers(2, 7, 12)[:, None]
    heads = np.zeros((12, 7), int)
    for row, present in zip(heads, words, strict=True):
        order = rng.permutation(present.sum()) + 1
        for place, word in enumerate(order[1:], 1):
            row[word - 1] = order[rng.integers(place)]
    return {"heads": heads, "words": words, "scored": words & (rng.random((12, 7)) < 0.8)}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_best_tree_is_that_of_brute_force(count):
    """Also where scores are far apart, where the root is the best head of all words, and where most heads tie."""
    rng = np.random.default_rng(count)
    every = np.array([*all_trees(count)])
    for kind in range(30):
        scores = rng.normal(size=(count, count + 1)) * [1, 100, 1][kind % 3] + [0, 0, 9][kind % 3] * np.eye(
            1, count + 1
        )
        scores = np.round(scores) if kind % 2 else scores
        sums = scores[np.arange(count), every].sum(-1)
        found = trees.best_trees(scores[None], np.ones((1, count), bool))[0]
        assert tuple(found) in {*map(tuple, every)}
        assert scores[np.arange(count), found].sum() == pytest.approx(sums.max(), abs=1e-9)
        np.testing.assert_array_equal(
            trees.spanning_tree(scores)[: 0 if kind % 2 else count], found[: 0 if kind % 2 else count]
        )


def test_absent_words_are_no_heads_and_have_none(gold):
    scores = np.random.default_rng(1).normal(size=(12, 7, 8))
    scores[:, :, 1:][~np.broadcast_to(gold["words"][:, None], (12, 7, 7))] = 99.0
    found = trees.best_trees(scores, gold["words"])
    assert trees.are_trees(found, gold["words"]).all()
    for i, count in enumerate(gold["words"].sum(-1)):
        np.testing.assert_array_equal(found[i, :count], trees.spanning_tree(scores[i, :count, : count + 1]))
        assert not found[i, count:].any()
        alone = trees.best_heads(scores, gold["words"])[i, :count]
        assert alone.max() <= count
        assert (alone != np.arange(1, count + 1)).all()


def test_what_is_a_tree():
    found = {heads for heads in itertools.product(range(4), repeat=3) if treebank.is_tree(heads)}
    assert found == {*all_trees(3)}
    every = np.array([*itertools.product(range(4), repeat=3)])
    assert {*map(tuple, every[trees.are_trees(every, np.ones(every.shape, bool))].tolist())} == found


def test_distances_in_a_tree_are_those_of_the_shortest_path(gold):
    found = tree_distances(gold["heads"], gold["words"])
    for i, count in enumerate(gold["words"].sum(-1)):
        joined = np.zeros((count + 1, count + 1))
        joined[np.arange(1, count + 1), gold["heads"][i, :count]] = gold["heads"][i, :count] > 0
        np.testing.assert_array_equal(found[i, :count, :count], shortest_path(joined, directed=False)[1:, 1:])
        assert not found[i, count:].any()


def test_the_closest_tree_is_that_of_scipy(gold):
    points = np.random.default_rng(2).normal(size=(12, 7, 3))
    distances = state_distances(points)
    np.testing.assert_allclose(distances[0, 1, 2], np.linalg.norm(points[0, 1] - points[0, 2]))
    found = trees.closest_trees(distances, gold["words"])
    examples = trees.right_edges(distances, gold)
    for i, count in enumerate(gold["words"].sum(-1)):
        right = minimum_spanning_tree(distances[i, :count, :count]).toarray() > 0
        np.testing.assert_array_equal(found[i, :count, :count], right | right.T)
        arcs = [{w, h - 1} for w, h in enumerate(gold["heads"][i]) if gold["scored"][i, w] and h]
        assert examples[i].tolist() == [sum({a, b} in arcs for a, b in np.argwhere(right)), len(arcs)]


def test_the_rank_correlation_is_that_of_scipy(gold):
    distances = state_distances(np.random.default_rng(3).normal(size=(12, 7, 3)))
    true, right = tree_distances(gold["heads"], gold["words"]), []
    for i, count in enumerate(gold["words"].sum(-1)):
        found = []
        for word in range(count):
            x, y = (np.delete(d[i, word, :count], word) for d in (distances, true))
            found += [spearmanr(x, y).statistic] if len({*y}) > 1 else []
        right += [np.mean(found)] if found else []
    assert trees.rank_agreement(distances, true, gold["words"]) == pytest.approx(np.mean(right))


def test_closeness_compares_words_as_far_apart():
    """Words 1 to 4 under 2, 0, 2, 1: of neighbours in the sentence 1-2 and 2-3 are joined, not 3-4; 1-4 is alone."""
    one = {"heads": np.array([[2, 0, 2, 1]]), "words": np.ones((1, 4), bool), "scored": np.ones((1, 4), bool)}
    distances = np.zeros((1, 4, 4))
    for (a, b), value in {(0, 1): 1.0, (1, 2): 2.0, (2, 3): 3.0, (0, 2): 5.0, (1, 3): 7.0, (0, 3): 11.0}.items():
        distances[0, a, b] = distances[0, b, a] = value
    assert trees.closeness(distances, one) == pytest.approx(1.5 / 3)
    by_distance = trees.by_tree_distance(distances, tree_distances(one["heads"], one["words"]), one)
    mean = (1 + 2 + 3 + 5 + 7 + 11) / 6
    np.testing.assert_allclose(by_distance[:3], [(1 + 2 + 11) / 3 / mean, (5 + 7) / 2 / mean, 3 / mean])
    assert np.isnan(by_distance[3:]).all()


ROWS = ["1\tEvi\tev\tNOUN\tNN\t_\t2\tdobj\t_\tSpaceAfter=No", "2\tgör\tgör\tVERB\tVB\t_\t0\troot\t_\t_"]


def test_a_file_of_the_user(tmp_path):
    file = tmp_path / "my.conllu"
    extra = ["# text = x", "1-2\tEvigör" + "\t_" * 8, *ROWS, "2.1\tø" + "\t_" * 8]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*extra, "", "", *ROWS]).encode())
    assert (
        read_conllu(file) == [Sentence(("Evi", "gör"), ("NOUN", "VERB"), (2, 0), ("dobj", "root"), (False, True))] * 2
    )
    with pytest.raises(UsageError, match="has 2 trees, but 50 are needed"):
        treebank.read_treebank("turkish", TreebankConfig(path=str(file)))
    file.write_text("\n\n".join(["\n".join(ROWS)] * 60))
    data = treebank.read_arrays("turkish", TreebankConfig(path=str(file)))
    assert [len(part) for part in (data.treebank.train, data.treebank.validation, data.treebank.tests["held out"])] == [
        45,
        6,
        9,
    ]
    assert data.pool["heads"][0, :3].tolist() == [2, 0, 0]
    assert data.pool["apart"][0, :2, :2].tolist() == [[0, 1], [1, 0]]
    with pytest.raises(UsageError, match="a part without sentences of 2 to 1 words"):
        treebank.read_treebank("turkish", TreebankConfig(path=str(file), longest=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tEv", "line 1 of .* has 2 columns separated by tabs, but CoNLL-U has 10"),
        (ROWS[1], "words must be numbered 1 to 1, but are 2"),
        ("\n".join(ROWS).replace("\t2\t", "\t3\t"), "a head must be a number from 0 to 2, but one is '3'"),
        ("\n".join(ROWS).replace("\t2\t", "\t_\t"), "a head must be a number from 0 to 2, but one is '_'"),
        ("\n".join(ROWS).replace("\t0\t", "\t1\t"), "the heads 2 1 are no tree with one root"),
        ("# nothing", "has no trees"),
        ("\udcff", "cannot be read as UTF-8"),
    ],
)
def test_a_file_that_is_no_treebank_is_refused(text, message, tmp_path):
    file = tmp_path / "my.conllu"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError, match=message):
        read_conllu(file)


def test_a_file_that_is_not_there():
    with pytest.raises(UsageError, match=r"There is no file 'no.conllu'; --data.path expects .* CoNLL-U"):
        read_conllu("no.conllu")


def test_the_turkish_treebank_is_the_one_that_was_measured(monkeypatch):
    """Counts, and the share of words with the next word as head, by an own reading of the file."""
    found = treebank._turkish_files()
    web = read_conllu(found["web"])
    assert (len(web), sum(len(s.words) for s in web)) == (2_541, 32_422)
    rows = [line.split("\t") for line in found["web"].read_text(encoding="utf-8").splitlines() if line[:1].isdigit()]
    scored = [row for row in rows if row[7] not in ("ig", "p")]
    right = np.mean([int(row[6]) == int(row[0]) + 1 for row in scored])
    data = arrays_of(web, 34, ["NOUN"])
    assert baselines.usual_distance(data) == 1
    examples = trees.right_heads(baselines.usual_heads(data, {"": data})[""], data)
    assert trees.share(examples) == pytest.approx(right, abs=0.002)  # the last word is clipped to itself
    monkeypatch.setattr(treebank, "_turkish_files", dict)
    assert treebank.read_treebank("turkish", TreebankConfig(most=9)).name.startswith(
        "Python's standard library (for the"
    )


def test_statements_are_trees(monkeypatch, tmp_path):
    (tmp_path / "m.py").write_text("x = f(y, 3)\n")
    monkeypatch.setattr(treebank.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    (found,) = read_python(["m", "absent"])
    assert found.words == ("Assign", "x", "Call", "f", "y", "3")
    assert found.heads == (0, 1, 1, 3, 3, 3)
    assert found.tags == ("Assign", "Name", "Call", "Name", "Name", "Constant")
    assert found.relations == ("root", "targets", "value", "func", "args", "args")


def test_baselines_learn_what_a_word_says_of_its_head():
    """After `a` the head is the next word, after `b` the one before; the last word is the root."""
    rng, sentences = np.random.default_rng(0), []
    for _ in range(60):
        words = ["b" if k and c else "a" for k, c in enumerate(rng.integers(2, size=4))]
        heads = [k if word == "b" else k + 2 for k, word in enumerate(words)]
        sentences.append(Sentence((*words, "."), ("X",) * 5, (*heads, 0), ("dep",) * 5, (True,) * 5))
    data = arrays_of(sentences, 6, ["X"])
    found = baselines.linear_heads(data, data, {"t": data})["t"]
    np.testing.assert_array_equal(found[data["words"]], data["heads"][data["words"]])
    assert baselines.heads_at(np.array([[1, -3, baselines.ROOT, 5]]), np.ones((1, 4), bool)).tolist() == [[2, 1, 0, 4]]


@pytest.fixture(scope="module")
def parser(gold):
    """A small parser with parameters, and a batch."""
    rng = np.random.default_rng(4)
    parts = np.where(gold["words"][..., None], rng.integers(1, 99, (12, 7, 3)), 0)
    batch = {
        **gold,
        "parts": parts,
        "tags": rng.integers(3, size=(12, 7)),
        "apart": tree_distances(gold["heads"], gold["words"]),
    }
    model = Parser(6, 2, 3)
    params = model.init(jax.random.key(0), parts, gold["words"])["params"]
    return model, jax.tree.map(lambda leaf: leaf + 0.1, params), batch


@pytest.mark.full
def test_padding_changes_nothing(parser):
    model, params, batch = parser
    whole = model.apply({"params": params}, batch["parts"], batch["words"])
    for i, count in enumerate(batch["words"].sum(-1)):
        states, arcs, tags = model.apply(
            {"params": params}, batch["parts"][i : i + 1, :count], np.ones((1, count), bool)
        )
        np.testing.assert_allclose(states[0], whole[0][i, :count], atol=1e-5)
        np.testing.assert_allclose(arcs[0], whole[1][i, :count, : count + 1], atol=1e-5)
        np.testing.assert_allclose(tags[0], whole[2][i, :count], atol=1e-5)
    np.testing.assert_allclose(jnp.square(whole[0]).sum(-1)[batch["words"]], 6, rtol=1e-3)


def test_losses_are_those_of_the_formulas(parser):
    model, params, batch = parser
    states, arcs, tags = map(np.asarray, model.apply({"params": params}, batch["parts"], batch["words"]))
    found = syntax_tree.make_objective(model, "arc")(params, batch, CTX)
    crf = syntax_tree.make_objective(model, "tree_crf")(params, batch, CTX)["tree_crf"]
    along_tree, along_chain, of_arcs, of_tags, of_trees = [], [], [], [], []
    for i, count in enumerate(batch["words"].sum(-1)):
        h, heads = states[i, :count] / 6**0.5, batch["heads"][i, :count]
        along_tree.append(np.mean([np.sum((h[w] - h[k - 1]) ** 2) for w, k in enumerate(heads) if k]))
        along_chain.append(np.mean([np.sum((h[w] - h[w - 1]) ** 2) for w in range(1, count)]))
        for w in range(count):
            row = np.delete(arcs[i, w, : count + 1].astype(float), w + 1)
            of_arcs.append(np.log(np.exp(row).sum()) - arcs[i, w, heads[w]])
            of_tags.append(np.log(np.exp(tags[i, w]).sum()) - tags[i, w, batch["tags"][i, w]])
        if count < 5:
            sums = [np.exp(arcs[i, np.arange(count), list(t)].sum(dtype=float)) for t in all_trees(count)]
            of_trees.append((i, np.log(sum(sums)) - arcs[i, np.arange(count), heads].sum()))
    for name, right in (
        ("arc", of_arcs),
        ("tag", of_tags),
        (syntax_tree.TREE, along_tree),
        (syntax_tree.CHAIN, along_chain),
    ):
        total, weight = found[name].sums()
        assert float(total / weight) == pytest.approx(np.mean(right), rel=1e-4), name
    for i, right in of_trees:
        assert float(crf.values[i]) == pytest.approx(right, rel=1e-4, abs=1e-5)


def test_the_probe_is_that_of_the_formula(parser):
    model, params, batch = parser
    projection = np.random.default_rng(5).normal(size=(6, 2)).astype(np.float32)
    total, weight = make_probe(model)({"encoder": params, "projection": projection}, batch, CTX)["probe"].sums()
    states, right = np.asarray(model.apply({"params": params}, batch["parts"], batch["words"])[0]), []
    for i, count in enumerate(batch["words"].sum(-1)):
        x = (states[i, :count] @ projection).astype(float)
        gaps = [abs(np.sum((x[a] - x[b]) ** 2) - batch["apart"][i, a, b]) for a in range(count) for b in range(count)]
        right.append(np.sum(gaps) / count**2)
    assert float(total / weight) == pytest.approx(np.mean(right), rel=1e-4)
    slopes = jax.grad(lambda p: make_probe(model)(p, batch, CTX)["probe"].sums()[0])(
        {"encoder": params, "projection": projection}
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slopes["encoder"]))
    assert np.any(slopes["projection"])


def test_each_run_has_its_own_weights_of_the_losses():
    """Two losses pull a number to 0 and to 1; SGD of one step at rate 0.5 lands where the weights say."""

    def objective(params, batch, ctx):
        return {"zero": Term((params - batch["x"]) ** 2, 1.0), "one": Term((params - 1 - batch["x"]) ** 2, 1.0)}

    fit = many.make_trainer(
        objective, {"zero": 1.0, "one": 1.0}, OptimizerConfig(name="sgd", learning_rate=1.0), every=1
    )
    runs = many.Runs(jnp.full(3, 0.5), jnp.full(3, 4.0), jnp.zeros((3, 1, 1), int))
    weights = {"zero": jnp.array([1.0, 0.0, 0.5]), "one": jnp.array([0.0, 1.0, 0.5])}
    pool = {"x": jnp.zeros(1)}
    np.testing.assert_allclose(fit(runs._replace(loss_weights=weights), pool).params, [0.0, 1.0, 0.5])
    one = many.Runs(
        jnp.full(1, 0.5),
        jnp.full(1, 4.0),
        jnp.zeros((1, 1, 1), int),
        loss_weights={"zero": jnp.ones(1), "one": jnp.ones(1)},
    )

    def vary(some, values):  # of the share of the second, w, the step lands at w
        return some._replace(loss_weights={"zero": 1 - values, "one": values})

    tried = many.tune(fit, pool, one, 0.2, lambda end: np.abs(end.params - 0.2), vary)
    assert many.best_rate({row["rate"]: row["loss"] for row in tried}) == pytest.approx(0.2)


def test_each_seed_has_other_few_trees():
    rows = baselines.draw_rows(200, range(6), 1_850)
    assert len({*rows.ravel().tolist()}) == 1_200


def test_wrong_arcs_are_drawn(tmp_path):
    drawn = {
        "web": [tree_pictures.Drawn(("a", "b", "c"), (2, 0, 2), (2, 3, 0))],
        "one": [tree_pictures.Drawn(("a",), (0,), (0,))],
    }
    for name in ("one", "two"):
        tree_pictures.draw_trees(tmp_path / name / "trees.png", drawn)
    assert (tmp_path / "one" / "trees.png").read_bytes() == (tmp_path / "two" / "trees.png").read_bytes()


def test_options_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"--methods may be arc cross-entropy, .* but one of them is 'tag'"):
        syntax_tree.Config(methods=("tag",))
    training = dataclasses.replace(syntax_tree.Config().training, steps=305)
    with pytest.raises(UsageError, match="--steps must be a multiple of 10, but it is 305"):
        syntax_tree.Config(training=training)


@pytest.mark.study
@pytest.mark.parametrize(("rate", "learns"), [(1.0, True), (0.0, False)])
def test_a_parser_learns_more_than_the_next_word(rate, learns, tmp_path, monkeypatch):
    monkeypatch.setattr(syntax_tree, "QUESTIONS", ())  # they ask of more than these two
    config = syntax_tree.Config(methods=("arc cross-entropy", "usual distance"), seeds=1, tuning_seeds=1)
    optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
    training = dataclasses.replace(config.training, steps=150, optimizer=optimizer)
    summary = syntax_tree.main(dataclasses.replace(config, training=training, workdir=str(tmp_path / "run")))
    rows = [row for row in summary["runs"] if row["trained_on"] == "all trees" and row["text"] == "web"]
    found = {row["method"]: row["attachment"] for row in rows}
    assert (found["arc cross-entropy"] > found["usual distance"] + 0.15) == learns
