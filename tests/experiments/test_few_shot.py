"""Fine-tuning: the head starts as a linear probe of its encoder, and training continues from there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.baselines.linear import fit_linear
from experiments.data.bible import GROUPS
from experiments.data.passages import Passages
from experiments.evaluation.few_shot import FewShotConfig, Tuning, make_learner
from experiments.models.transformer import Classifier, TransformerConfig
from experiments.study import Run, StudyConfig

MODEL, VOCABULARY, LENGTH = TransformerConfig(width=16, depth=1, heads=2), 40, 6


def passages(each: int, seed: int) -> Passages:
    """Passages in which tokens tell the class: two in five are from its own part of the vocabulary."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(GROUPS)), each)
    own = 5 + 4 * label[:, None] + rng.integers(0, 4, (len(label), LENGTH))
    tokens = np.where(rng.random(own.shape) < 0.4, own, rng.integers(5, VOCABULARY, own.shape)).astype(np.int32)
    valid = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (len(label), 1))
    return Passages(tokens, valid, label, label, [""] * len(label))


def learner(pretrained, **tuning):
    given = Tuning(steps=(tuning.pop("steps"),), probe_c=(0.3,), **tuning)
    config = FewShotConfig(budgets=(4,), pretrained=given, scratch=given)
    model, encoder = Classifier(MODEL, VOCABULARY, len(GROUPS)), None
    if pretrained:
        row = jnp.zeros((1, LENGTH), int)
        encoder = jax.jit(model.init)(jax.random.key(7), row, valid=row == 0)["params"]["encoder"]
    return make_learner(config, model, LENGTH, (lambda: encoder) if pretrained else None), encoder


def folder(path):
    return Run("few_shot", "", StudyConfig(), path, "", None).folder()


@pytest.mark.parametrize("pretrained", [True, False])
def test_without_training_the_classifier_is_the_probe(pretrained, tmp_path):
    learn, encoder = learner(pretrained, steps=1, rates=(0.0,))
    labelled, test = passages(4, 0), passages(10, 1)
    predicted = learn(labelled, 4, 3, folder(tmp_path))(test)

    model = Classifier(MODEL, VOCABULARY, len(GROUPS))
    row = jnp.zeros((1, LENGTH), int)
    params = jax.jit(model.init)(jax.random.key(3), row, valid=row == 0)["params"]
    params = params if encoder is None else {**params, "encoder": encoder}
    features = jax.jit(lambda t, v: model.apply({"params": params}, t, valid=v, method="features"))
    probe = fit_linear(np.asarray(features(labelled.tokens, labelled.valid)), labelled.label, c=0.3)
    np.testing.assert_array_equal(predicted, probe.predict(np.asarray(features(test.tokens, test.valid))))
    assert len({*predicted}) > 2


def test_training_fits_what_the_probe_leaves(tmp_path):
    labelled = passages(8, 0)
    accuracy = {}
    for rate in (0.0, 10.0):
        learn, _ = learner(False, steps=60, rates=(rate,), embedding_rate=10.0)
        accuracy[rate] = np.mean(learn(labelled, 4, 0, folder(tmp_path / str(rate)))(labelled) == labelled.label)
    assert accuracy[10.0] > max(0.9, accuracy[0.0] + 0.1)
