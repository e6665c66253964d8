"""Pairs of sentences, what is measured on masked tokens, and what the study of both learns."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import mlm_variants
from experiments.baselines.neighbours import fill_by_neighbours
from experiments.data.orders import OrderText, PairSource, draw_others, eval_batches, find_pairs, make_pairs
from experiments.data.text import Corpus, Tokens
from experiments.data.tokenizers import MASK, SEP
from experiments.evaluation.masked import find_evidence, measure_evidence, measure_tokens
from experiments.evaluation.pair_words import pairs_by_words
from experiments.models.paired import ReplacedTokens, initial_net
from experiments.models.transformer import TransformerConfig, masked_places
from experiments.study import TrainingConfig, many
from experiments.study.own_rate import Trainings, by_rate, with_rate
from train.errors import UsageError
from train.objective import Context
from train.optimizers import OptimizerConfig, make_optimizer

SEQ_LEN, VOCAB, PLAIN = 24, 60, mlm_variants.PLAIN
STARTS = np.arange(VOCAB) >= 5


def corpus(documents=12, sentences=6, lengths=(4, 9), seed=0):
    """Documents of which each uses four tokens of its own."""
    rng = np.random.default_rng(seed)
    document = np.repeat(np.arange(documents), sentences)
    sizes = rng.integers(*lengths, len(document))
    ids = np.concatenate([5 + 4 * d + rng.integers(0, 4, n) for d, n in zip(document, sizes, strict=True)])
    none = np.full(len(document), -1, np.int32)
    tokens = Tokens(ids.astype(np.int32), np.concatenate([[0], np.cumsum(sizes)]), document, none)
    return tokens, Corpus(["He went."] * len(document), document, none, none)


def pairs_of(**options):
    return find_pairs(*corpus(**options), SEQ_LEN)


def parts(batch, row):
    """Both sentences of a pair."""
    tokens, segments = batch["tokens"][row][batch["valid"][row]], batch["segments"][row][batch["valid"][row]]
    first, second = tokens[segments == 0], tokens[segments == 1]
    assert (first[-1], second[-1]) == (SEP, SEP)
    return first[1:-1].tolist(), second[:-1].tolist()


def test_pairs_are_neighbours_of_one_document_that_fit():
    pairs = pairs_of()
    assert len(pairs.second) == 12 * 5
    lengths = np.diff(pairs.starts)
    assert (lengths[pairs.second] + lengths[pairs.second - 1] + 3 <= SEQ_LEN).all()
    assert len(find_pairs(*corpus(), 14).second) < 60  # in less room there are fewer


def test_text_without_ends_of_sentences_is_refused():
    tokens, text = corpus()
    with pytest.raises(UsageError, match="there are 0 pairs in 0 documents; take more text"):
        find_pairs(tokens, dataclasses.replace(text, sentences=["he went,"] * len(text.sentences)), SEQ_LEN)


@pytest.mark.parametrize("task", ["none", "next", "order"])
def test_the_answer_says_what_was_done_to_a_pair(task):
    pairs = pairs_of()
    batch = make_pairs(pairs, np.arange(60), task, np.random.default_rng(1), SEQ_LEN)
    assert batch["answer"].all() if task == "none" else 15 < batch["answer"].sum() < 45
    for row, second in enumerate(pairs.second):
        before, after = (pairs.ids[pairs.starts[i] : pairs.starts[i + 1]].tolist() for i in (second - 1, second))
        found = parts(batch, row)
        if batch["answer"][row]:
            assert found == (before, after)
        elif task == "order":
            assert found == (after, before)
        else:
            assert found[0] == before
            assert (found[1][0] - 5) // 4 != (after[0] - 5) // 4  # the tokens are of another document


def test_random_sentences_are_about_as_long_as_the_right_ones():
    pairs = pairs_of(documents=400, lengths=(1, 11))
    lengths, index = np.diff(pairs.starts), np.arange(len(pairs.second))
    others = draw_others(pairs, index, np.random.default_rng(0), SEQ_LEN)
    gaps = lengths[pairs.second[others]] - lengths[pairs.second]
    assert (pairs.document[others] != pairs.document).all()
    assert abs(gaps.mean()) < 0.1
    assert np.abs(gaps).max() <= 1


def test_batches_depend_on_seed_and_number_alone():
    first, again, other = (PairSource(pairs_of(), "next", SEQ_LEN, 0.2, s, STARTS)(3, np.arange(8)) for s in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_whole_words_are_masked_whole():
    starts = STARTS & (np.arange(VOCAB) % 2 == 0)  # odd tokens go on with a word
    batch = PairSource(pairs_of(), "none", SEQ_LEN, 0.5, 0, starts, True)(0, np.arange(60))
    ordinary = batch["labels"] >= 5
    same_word = ordinary[:, 1:] & ordinary[:, :-1] & ~starts[batch["labels"][:, 1:]]
    assert same_word.any()
    assert (batch["masked"][:, 1:] == batch["masked"][:, :-1])[same_word].all()


def test_words_tell_the_topic_and_not_the_order():
    pairs = pairs_of(documents=40 // 4, sentences=40)
    for task, low, high in (("next", 0.9, 1.0), ("order", 0.3, 0.7)):
        train, test = (eval_batches(PairSource(pairs, task, SEQ_LEN, 0.15, s, STARTS), 32) for s in (0, 1))
        assert low <= pairs_by_words(train, test, VOCAB)["word overlap"] <= high


def test_tokens_are_counted_by_how_frequent_they_are():
    batch = {"labels": np.array([[7, 8, 9, 9]]), "masked": np.array([[True, False, True, True]])}
    counts = np.zeros(10, int)
    counts[[7, 9]] = 5_000, 50
    said = np.array([[7, 9, 8]])
    found = measure_tokens(lambda batch: said, [batch], counts, 3)
    assert found == {"masked_accuracy": pytest.approx(2 / 3), "frequent_accuracy": 1.0, "rare_accuracy": 0.5}


def test_evidence_is_used_by_a_model_that_copies():
    """The model knows the two places of each token, and says what stands at the one that is not masked."""
    rng = np.random.default_rng(0)
    labels = np.stack([rng.permutation(np.arange(5, 45))[:SEQ_LEN] for _ in range(8)]).astype(np.int32)
    labels[:, 20] = labels[:, 2]
    batch = {"labels": labels, "valid": labels > 0, "segments": np.zeros_like(labels)}
    counts = np.full(45, 50)
    assert find_evidence(labels, counts, 0).distance.tolist() == [18] * 8

    def copies(batch):
        first, last = batch["tokens"][:, 2], batch["tokens"][:, 20]
        return np.where(first == MASK, last, first)[:, None]

    found = measure_evidence(copies, [batch], counts, 1)
    assert (found["gain_near"], found["gain_far"]) == (0.0, 1.0)
    assert found["evidence"] == [0, 0, 0, 0, 8, 0]
    assert (found["with"][4], found["without"][4]) == (1.0, 0.0)


def test_own_rate_multiplies_that_of_the_config():
    net = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    grads = jax.tree.map(lambda leaf: 0.3 * jnp.arange(leaf.size, dtype=float).reshape(leaf.shape), net)
    config = OptimizerConfig(name="adamw", learning_rate=0.5, weight_decay=0.1, clip_norm=1.0, warmup=0.0)
    ours, params = by_rate(config, 10), with_rate(net, 0.2)
    plain = make_optimizer(dataclasses.replace(config, learning_rate=0.1), 10)
    state, usual = ours.init(params), plain.init(net)
    for _ in range(3):
        updates, state = ours.update({"net": grads, "rate": jnp.ones(())}, state, params)
        params = optax.apply_updates(params, updates)
        theirs, usual = plain.update(grads, usual, net)
        net = optax.apply_updates(net, theirs)
    assert float(params["rate"]) == pytest.approx(0.2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params["net"], net)


def small(**options):
    config = mlm_variants.Config(model=TransformerConfig(width=8, depth=1, heads=1), **options)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=SEQ_LEN))


def numbers(count):
    return np.where(np.arange(count) < 20, 2_000, 50)


FEW = mlm_variants.NSP, mlm_variants.WORDS


@pytest.mark.parametrize(
    "method", [pytest.param(arm, marks=() if arm in FEW else pytest.mark.full) for arm in mlm_variants.ARMS]
)
def test_objective_counts_masked_tokens_pairs_and_all_tokens(method):
    config, arm = small(), mlm_variants.ARMS[method]
    batch = PairSource(pairs_of(), arm.task, SEQ_LEN, 0.15, 0, STARTS)(0, np.arange(8))
    objective = mlm_variants.make_objective(config, method, numbers(VOCAB))
    model = mlm_variants.make_model(config, VOCAB, method)

    def sums(key):
        net = initial_net(model, SEQ_LEN, key)
        terms = objective(with_rate(net, 1.0), batch, Context(key, jnp.int32(0), train=True))
        return {name: value.sums() for name, value in terms.items()}

    found = {name: tuple(map(float, pair)) for name, pair in jax.jit(sums)(jax.random.key(0)).items()}
    trained = arm.weights
    assert all(np.isfinite(found[name][0]) for name in trained)
    assert found["mlm"][1] == batch["masked"].sum()
    if method == mlm_variants.ELECTRA:
        assert found["replaced"][1] == batch["valid"].sum()
    else:
        assert found["masked_accuracy"][1] == batch["masked"].sum()
    assert found.get("pair_accuracy", (0, 0))[1] == (8 if arm.task != "none" else 0)
    assert set(trained) == {*found} - {"masked_accuracy", "pair_accuracy"}


@pytest.mark.full
def test_only_masked_tokens_are_replaced():
    batch = PairSource(pairs_of(), "none", SEQ_LEN, 0.15, 0, STARTS)(0, np.arange(8))
    model = ReplacedTokens(TransformerConfig(width=8, depth=1, heads=1), VOCAB)
    net, key = initial_net(model, SEQ_LEN, jax.random.key(0)), jax.random.key(1)
    logits, tokens, replaced = model.apply({"params": net}, batch, masked_places(batch, 5), key)
    assert (logits.shape, replaced.shape) == ((8, 5, VOCAB), (8, SEQ_LEN))
    new = np.asarray(tokens) != batch["labels"]
    assert new.any()
    assert not (new & ~batch["masked"]).any()


@pytest.mark.full
def test_encoders_of_all_methods_start_equal():
    config, data = small(), OrderText(SimpleNamespace(counts=numbers(VOCAB)), {}, STARTS, None)
    nets = [mlm_variants.initial(config, data, method, 3)["encoder"] for method in (PLAIN, mlm_variants.ELECTRA)]
    jax.tree.map(np.testing.assert_array_equal, *nets)


def test_steps_of_a_costly_method_take_the_operations_of_the_plain_one():
    made = Trainings(TrainingConfig(), {"plain": None, "costly": None}, {}, {"plain": 100, "costly": 250})
    assert (made.steps("plain", 10), made.steps("costly", 10)) == (10, 4)
    assert made.share("costly", 10) == pytest.approx(1.0)
    assert made.share("costly", 9) == pytest.approx(4 * 250 / 900)


def test_neighbours_on_both_sides_decide():
    """After 7 come 8, 8 and 9, and before 6 stands 9: so 9 is between 7 and 6, and 8 after 7 if the rest is masked."""
    fill = fill_by_neighbours(np.array([7, 8, 5, 7, 8, 5, 7, 9, 6, 5, 9, 6]), 10, prior=0.01)
    batch = {"tokens": np.array([[7, MASK, 6], [7, MASK, MASK]]), "positions": np.array([[1], [1]])}
    assert fill(batch).tolist() == [[9], [8]]


def test_comparison_needs_the_plain_method():
    with pytest.raises(UsageError, match="must hold it, got MLM \\+ NSP"):
        mlm_variants.Config(arms=(mlm_variants.NSP,))
    with pytest.raises(UsageError, match="--arms"):
        mlm_variants.Config(arms=("MLN",))


@pytest.mark.study
@pytest.mark.parametrize("rate", [2e-2, 0.0])
def test_study_learns_unless_its_rate_is_0(rate, tmp_path, monkeypatch):
    """A network of few steps knows more of masked tokens than the most frequent one, by 0.05."""
    monkeypatch.setattr(many, "tune_runs", lambda *given, **more: [{"tuned": PLAIN, "rate": rate, "loss": 1.0}])
    monkeypatch.setattr(mlm_variants, "BY_WORDS", {})
    config = mlm_variants.Config(workdir=str(tmp_path / "run"), seeds=1, arms=(PLAIN,))
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=150))
    rows = mlm_variants.main(config)["runs"]
    data = mlm_variants.make_data(config)
    source = PairSource(data.pairs["test"], "none", 64, 0.15, 0, data.starts)
    masked = np.concatenate([b["labels"][b["masked"]] for b in eval_batches(source)])
    trivial = np.mean(masked == data.counts.argmax())
    found = next(row["masked_accuracy"] for row in rows if row["method"] == PLAIN)
    assert (found > trivial + 0.05) == (rate > 0)
