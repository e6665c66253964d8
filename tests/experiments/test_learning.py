"""The first studies learn: each beats its trivial baseline by a margin, and not with learning rate 0."""

import dataclasses
import importlib
import math

import numpy as np
import pytest


def margin(name, rows):
    """How much better the networks are than the trivial baseline."""
    figures = {
        "bert_pretrain": lambda: math.log(512) - mean(rows, "mlm", method="pretraining"),  # nats, of a guess
        "causal_lm": lambda: 3.8 - mean(rows, "test_bits_per_byte", method="network"),  # 9 bits for each token
        "simclr": lambda: accuracy(rows, "SimCLR") - accuracy(rows, "random encoder"),
        "toy_classifier": lambda: mean(rows, "test_accuracy", labels="dependent", method="he_normal") - 0.5,
    }
    return figures[name]()


def mean(rows, metric, **setting):
    return np.mean([row[metric] for row in rows if setting.items() <= row.items()])


def accuracy(rows, method):
    return mean(rows, "accuracy", method=method, labels=3)


LEARNS = {
    "bert_pretrain": (80, 1.0, 0.5),
    "causal_lm": (60, 1.0, 0.8),
    "simclr": (200, 3.0, 0.03),  # fewer steps than usual need a larger rate
    "toy_classifier": (800, 1.0, 0.2),
}
"""Updates of the fast config, its rate as a multiple of the usual one, and the margin."""


@pytest.mark.study
@pytest.mark.parametrize("name", LEARNS)
@pytest.mark.parametrize("learns", [True, False])
def test_a_study_learns_unless_its_rate_is_0(name, learns, tmp_path):
    module = importlib.import_module(f"experiments.{name}")
    steps, factor, least = LEARNS[name]
    config = module.Config(workdir=str(tmp_path / "run")).fast()
    optimizer = config.training.optimizer
    optimizer = dataclasses.replace(optimizer, learning_rate=factor * optimizer.learning_rate if learns else 0.0)
    training = dataclasses.replace(config.training, optimizer=optimizer, steps=steps)
    found = margin(name, module.main(dataclasses.replace(config, training=training))["runs"])
    assert found > least if learns else found < least / 2
