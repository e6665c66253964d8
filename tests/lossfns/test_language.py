"""Language losses and BERT's masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossfns import (
    apply_mlm_mask,
    masked_lm,
    next_sentence,
    next_token,
    next_token_where,
    sentence_order,
    weighted_mean,
)

MASK, VOCABULARY, SPECIAL = 3, 40, (0, 1, 2)


def test_masked_lm_counts_the_chosen_positions_only():
    logits = jnp.log(jnp.array([[[3.0, 1.0], [1.0, 1.0], [1.0, 3.0]]]))
    masked = jnp.array([[True, False, True]])
    values = masked_lm(logits, jnp.array([[0, -100, 0]]), where=masked)
    np.testing.assert_allclose(values, [[np.log(4 / 3), 0, np.log(4)]], rtol=1e-6)
    np.testing.assert_allclose(weighted_mean(values, masked), (np.log(4 / 3) + np.log(4)) / 2, rtol=1e-6)


@pytest.mark.parametrize("loss", [next_sentence, sentence_order])
@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8])
def test_a_true_answer_is_class_0(loss, dtype):
    logits = jnp.array([[9.0, 0.0], [9.0, 0.0]])
    values = loss(logits, jnp.array([1, 0], dtype))
    assert values[0] < 1e-3
    np.testing.assert_allclose(values[1], 9, rtol=1e-4)


def test_an_answer_other_than_0_and_1_is_nan():
    assert np.isnan(next_sentence(jnp.zeros((3, 2)), jnp.array([2, -1, -100]))).all()


def test_pair_losses_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"last axis of 2 classes, got shape \(4,\)"):
        next_sentence(jnp.zeros(4), jnp.zeros(4, int))
    with pytest.raises(TypeError, match="is_next must have an integer or boolean dtype, got float32"):
        next_sentence(jnp.zeros((4, 2)), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"in_order must have the shape \(4,\).*got \(3,\)"):
        sentence_order(jnp.zeros((4, 2)), jnp.zeros(3, int))


def surprise(logits, tokens, scored):
    """Token by token, from the definition."""
    logits = np.asarray(logits, np.float64)
    out = np.zeros(tokens.shape)
    for row, t in np.argwhere(scored):
        before = logits[row, t - 1]
        out[row, t] = np.log(np.exp(before).sum()) - before[tokens[row, t]]
    return out


def test_next_token_belongs_to_the_token_predicted():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 6, 5)).astype(np.float32), rng.integers(0, 5, (2, 6))
    everything = np.broadcast_to(np.arange(6) > 0, (2, 6))
    np.testing.assert_allclose(next_token(logits, tokens), surprise(logits, tokens, everything), rtol=1e-5)


def test_next_token_with_padding_and_packed_segments():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 6, 5)).astype(np.float32), rng.integers(0, 5, (2, 6))
    where = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
    segments = np.array([[1, 1, 2, 2, 0, 0], [1, 1, 1, 2, 2, 1]])
    scored = np.array([[0, 1, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0]], bool)
    np.testing.assert_array_equal(next_token_where(tokens, where=where, segment_ids=segments), scored)
    values = next_token(logits, tokens, where=where, segment_ids=segments)
    np.testing.assert_allclose(values, surprise(logits, tokens, scored), rtol=1e-5)
    # The mask that weighs the term may as well be the mask of the loss.
    np.testing.assert_array_equal(next_token(logits, tokens, where=jnp.asarray(scored)), values)


def test_logits_that_predict_nothing_do_not_matter():
    logits = np.zeros((1, 4, 5), np.float32)
    logits[:, 1] = np.nan  # predicts position 2, the first of the second segment
    logits[:, 3] = np.inf  # predicts what comes after the end
    tokens, segments = jnp.zeros((1, 4), int), jnp.array([[1, 1, 2, 2]])
    values, slopes = jax.value_and_grad(lambda x: next_token(x, tokens, segment_ids=segments).sum())(logits)
    np.testing.assert_allclose(values, 2 * np.log(5), rtol=1e-6)
    np.testing.assert_array_equal(slopes[0, [1, 3]], 0)


def test_next_token_of_short_rows_and_wrong_shapes():
    assert next_token(jnp.zeros((2, 1, 3)), jnp.zeros((2, 1), int)).tolist() == [[0.0], [0.0]]
    assert next_token(jnp.zeros((2, 0, 3)), jnp.zeros((2, 0), int)).shape == (2, 0)
    with pytest.raises(ValueError, match=r"tokens must have the shape \(2, 4\).*got \(2, 3\)"):
        next_token(jnp.zeros((2, 4, 5)), jnp.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"segment_ids must have the shape \(2, 4\) of tokens, got \(4,\)"):
        next_token(jnp.zeros((2, 4, 5)), jnp.zeros((2, 4), int), segment_ids=jnp.zeros(4, int))


def mask(seed, tokens, **options):
    options = {"mask_id": MASK, "vocab_size": VOCABULARY, "special": SPECIAL} | options
    return apply_mlm_mask(jax.random.key(seed), jnp.asarray(tokens), **options)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.15, 0.5, 1.0])
def test_exactly_the_rounded_number_is_chosen_in_every_row(rate):
    tokens = np.full((41, 40), 7)
    for row in range(41):
        tokens[row, row:] = 0  # row r has r tokens to choose from
    masked = np.asarray(mask(0, tokens, rate=rate).masked)
    expected = [min(m, max(1, round(rate * m))) for m in range(41)]
    np.testing.assert_array_equal(masked.sum(-1), expected)
    assert not masked[tokens == 0].any()


def test_mask_random_and_kept_shares_and_what_is_never_touched():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, (2000, 50))
    where = rng.random((2000, 50)) < 0.9
    out = jax.tree.map(np.asarray, mask(0, tokens, where=jnp.asarray(where), rate=0.5))
    np.testing.assert_array_equal(out.labels, tokens)
    np.testing.assert_array_equal(out.tokens[~out.masked], tokens[~out.masked])
    assert not out.masked[~where].any()
    assert not out.masked[np.isin(tokens, (*SPECIAL, MASK))].any()
    chosen, new, old = out.masked.sum(), out.tokens[out.masked], out.labels[out.masked]
    # About 40,000 draws: the standard error of a share is below 0.0025; a random token is the old one in 1 of 36.
    assert abs((new == MASK).mean() - 0.8) < 0.01
    assert abs((new == old).mean() - (0.1 + 0.1 / 36)) < 0.01
    drawn = new[(new != MASK) & (new != old)]
    assert abs(len(drawn) / chosen - 0.1 * 35 / 36) < 0.01
    # Evenly over the 36 ordinary tokens, each about 105 times.
    counts = np.bincount(drawn, minlength=VOCABULARY)
    assert not counts[:4].any()
    assert counts[4:].min() > 105 / 2
    assert counts[4:].max() < 105 * 2


def test_every_maskable_position_is_as_likely():
    masked = np.asarray(mask(1, np.full((4000, 10), 9), rate=0.2).masked)
    # Share 0.2 of 4,000 rows: standard error 0.0063.
    np.testing.assert_allclose(masked.mean(0), 0.2, atol=0.03)


def test_random_tokens_skip_special_ones_anywhere_in_the_vocabulary():
    out = mask(2, np.full((300, 30), 4), special=(0, 5, 6, 8), mask_id=9, vocab_size=10, mask_share=0, random_share=1)
    assert set(np.unique(out.tokens)) == {1, 2, 3, 4, 7}


def test_same_key_same_mask_and_rows_differ():
    tokens = np.full((2, 60), 7)
    first, again, other = mask(0, tokens), mask(0, tokens), mask(1, tokens)
    np.testing.assert_array_equal(first.masked, again.masked)
    assert (first.masked != other.masked).any()
    assert (first.masked[0] != first.masked[1]).any()


def test_whole_words_are_chosen_whole_and_never_too_many():
    rng = np.random.default_rng(0)
    words = np.cumsum(rng.random((500, 30)) < 0.6, axis=-1)
    words[:, -3:] = -1
    tokens = np.full((500, 30), 7)
    tokens[:, 0] = 1
    masked = np.asarray(mask(0, tokens, word_ids=jnp.asarray(words), rate=0.3).masked)
    number = round(0.3 * 26)
    assert masked.sum(-1).max() == number
    assert masked.sum(-1).mean() > number - 0.5
    assert not masked[:, 0].any()
    assert not masked[:, -3:].any()
    for row in range(500):
        for word in np.unique(words[row, 1:-3]):
            pieces = masked[row, 1:-3][words[row, 1:-3] == word]
            assert pieces.all() or not pieces.any()


def test_masking_composes_with_jit_and_keeps_the_dtype():
    tokens = jnp.full((2, 20), 7, jnp.uint16)
    jitted = jax.jit(lambda key, t: apply_mlm_mask(key, t, mask_id=MASK, vocab_size=VOCABULARY))
    inside, outside = jitted(jax.random.key(0), tokens), mask(0, tokens, special=())
    jax.tree.map(np.testing.assert_array_equal, inside, outside)
    assert inside.tokens.dtype == jnp.uint16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.5}, "rate must be between 0 and 1, got 1.5"),
        ({"mask_share": 0.8, "random_share": 0.3}, "must sum to at most 1, got 0.8"),
        ({"mask_id": 40}, r"mask_id must be in 0 .. vocab_size - 1 = 39, got 40"),
        ({"special": range(40)}, "all 40 tokens of the vocabulary are special"),
        ({"where": jnp.ones(3, bool)}, r"where must have the shape \(2, 4\) of the result, got \(3,\)"),
        ({"word_ids": jnp.ones((2, 3), int)}, r"word_ids must have the shape \(2, 4\) of tokens, got \(2, 3\)"),
    ],
)
def test_masking_refuses_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        mask(0, np.full((2, 4), 7), **options)


def test_masking_wants_token_numbers_as_special():
    with pytest.raises(TypeError, match="a mask of positions is given as where=~mask"):
        mask(0, np.full((2, 4), 7), special=np.zeros((2, 4), bool))
