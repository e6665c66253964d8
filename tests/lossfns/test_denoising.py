"""Span corruption: the texts can be put together again, and the sizes are T5's."""

import jax
import numpy as np
import pytest

from lossfns import corrupt_spans, span_corruption

FIRST = 999


def restored(out, row, eos=None):
    """Each sentinel of the inputs replaced by what follows it in the targets."""
    inputs = np.asarray(out.inputs[row])[np.asarray(out.inputs_where[row])].tolist()
    targets = np.asarray(out.targets[row])[np.asarray(out.targets_where[row])].tolist()
    if eos is not None:
        assert inputs.pop() == eos
        assert targets.pop() == eos
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token > FIRST - 50:
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    assert all(spans.values())
    assert list(spans) == [FIRST - k for k in range(len(spans))]
    text = [token for x in inputs for token in (spans[x] if x > FIRST - 50 else [x])]
    return text, sum(map(len, spans.values())), len(spans)


@pytest.mark.parametrize("eos", [None, 1])
def test_texts_of_any_length_can_be_put_together_again(eos):
    tokens = np.random.default_rng(0).integers(2, 500, (6, 40))
    lengths = np.array([40, 39, 20, 2, 1, 0])
    out = corrupt_spans(jax.random.key(1), tokens, lengths, first_sentinel=FIRST, eos_id=eos)
    for row, (n, cut, spans) in enumerate(zip(lengths, [6, 6, 3, 1, 0, 0], [2, 2, 1, 1, 0, 0], strict=True)):
        assert restored(out, row, eos) == (tokens[row, :n].tolist(), cut, spans)


def test_every_cut_is_as_likely_as_every_other():
    # Of six tokens three go in two spans, and the first stays: 2 ways to part 3 x 2 ways to part 3.
    tokens = np.tile(np.arange(6), (4000, 1))
    out = corrupt_spans(jax.random.key(2), tokens, first_sentinel=FIRST, rate=0.5, mean_length=1.5)
    _, counts = np.unique(np.asarray(out.inputs), axis=0, return_counts=True)
    assert len(counts) == 4
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.03)  # four standard deviations


def test_a_length_that_does_not_exist_has_a_loss_of_nan():
    out = corrupt_spans(jax.random.key(3), np.ones((2, 8), int), np.array([9, 8]), first_sentinel=FIRST)
    logits = np.zeros((*out.targets.shape, FIRST + 1), np.float32)
    values = np.asarray(span_corruption(logits, out.targets, where=out.targets_where))
    assert np.isnan(values[0]).all()
    np.testing.assert_allclose(values[1, np.asarray(out.targets_where[1])], np.log(FIRST + 1), rtol=1e-6)
