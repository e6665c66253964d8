import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields, replace

import numpy as np
import optax
import pytest
import tyro

from train.errors import UsageError
from train.optimizers import OPTIMIZERS, OptimizerConfig, check_parameters, describe, make_optimizer
from train.paths import check_matches, map_with_path, paths_of

PLAIN = OptimizerConfig(name="sgd", schedule="constant")
LAYERED = {
    "embed": {"embedding": np.ones((2, 2))},
    "encoder": [{"layer_0": {"bias": np.ones(2)}}, {"layer_1": {"kernel": np.ones((2, 2))}}],
    "blocks": {"2": {"kernel": np.ones((2, 2))}},
    "head": {"kernel": np.ones((2, 2)), "bias": np.ones(2)},
}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "adamv"}, "unknown optimizer 'adamv', did you mean 'adam"),
        ({"name": "Lamb"}, "did you mean 'lamb'"),
        ({"name": "qqq"}, "unknown optimizer 'qqq'. Choose one of: sgd"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin', did you mean 'cosine'"),
        ({"learning_rate": -1e-3}, "learning_rate must be a finite number from 0 up, not -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"learning_rate": float("inf")}, "learning_rate must be"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), not 1.0"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\)"),
        ({"name": "momentum", "momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"eps": 0.0}, "eps must be a finite number above 0"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"l1": -0.1}, "l1 must be"),
        ({"l2": -0.1}, "l2 must be"),
        ({"clip_norm": 0.0}, "clip_norm must be a finite number above 0"),
        ({"clip_value": -1.0}, "clip_value must be"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\]"),
        ({"layer_decay": 1.1}, "layer_decay must be"),
        ({"final_fraction": 2.0}, r"final_fraction must be in \[0, 1\]"),
        ({"warmup": -1}, "warmup must be a fraction of the run below 1 or a whole number of steps, not -1"),
        ({"cooldown": 1.5}, "cooldown must be a fraction"),
        ({"freeze": "("}, "freeze='\\(' is not a regular expression"),
        ({"layer_pattern": "layer"}, "needs a group"),
        ({"name": "adam", "weight_decay": 0.1}, "choose adamw"),
        ({"name": "sgd", "momentum": 0.9}, "sgd has no momentum: .* momentum, nesterov, rmsprop, muon"),
        ({"name": "adafactor", "b2": 0.9}, "adafactor has no b2"),
        ({"b3": 0.5}, "adamw has no b3: .* adan"),
        ({"name": "adan", "b3": 1.0}, r"b3 must be in \[0, 1\)"),
        ({"bias_correction": True}, "chosen for prodigy and dadapt_adamw only, not for adamw"),
        ({"proximal_l1": -1.0}, "proximal_l1 must be"),
        ({"plateau_factor": 1.0}, r"plateau_factor must be in \(0, 1\)"),
        ({"plateau_window": 0}, "plateau_window must be a whole number from 1 up, not 0"),
        ({"plateau_patience": 0}, "plateau_patience must be"),
        ({"plateau_cooldown": -1}, "plateau_cooldown must be"),
        ({"plateau_tolerance": 0.0}, "plateau_tolerance must be"),
        ({"plateau_minimum": 2.0}, "plateau_minimum must be"),
        ({"lookahead_every": 0}, "lookahead_every must be"),
        ({"lookahead_rate": 0.0}, "lookahead_rate must be"),
        ({"sam_radius": 0.0}, "sam_radius must be"),
        ({"sophia_gamma": 0.0}, "sophia_gamma must be"),
        ({"sophia_every": 0}, "sophia_every must be"),
        (
            {"overrides": {"head": {"rate_factor": -1.0}}},
            r"overrides\['head'\]\['rate_factor'\] must be a finite number from 0 up, not -1.0",
        ),
        ({"overrides": {"head": {"b2": 1.0}}}, r"overrides\['head'\]\['b2'\] must be in \[0, 1\)"),
        ({"overrides": {"a{1,2}": {"b2": 1.0}}}, r"overrides\['a\{1,2\}'\]\['b2'\] must be in \[0, 1\)"),
        (
            {"overrides": {"head": {"eps": None}}},
            r"overrides\['head'\]\['eps'\] must be a finite number above 0, not None",
        ),
        ({"overrides": {"head": {"b2": "x"}}}, r"overrides\['head'\]\['b2'\] must be in \[0, 1\), not 'x'"),
        ({"overrides": {"(": {"weight_decay": 1.0}}}, r"overrides='\(' is not a regular expression"),
        ({"overrides": {"head": {"rate_facto": 1.0}}}, r"unknown setting in overrides\['head'\] .* mean 'rate_factor'"),
        ({"overrides": {"head": 0.1}}, r"expected overrides\['head'\] as settings by name, .*, got 0.1"),
        ({"overrides": {"head": {}}}, r"expected overrides\['head'\] as settings by name, .*, got {}"),
        ({"overrides": "head"}, r"expected overrides as {pattern: {setting: value}}, got 'head'"),
        (
            {"overrides": {"head": {"name": "sdg"}}},
            r"unknown optimizer in overrides\['head'\] 'sdg', did you mean 'sgd'",
        ),
        ({"overrides": {"head": {"name": "prodigy"}}}, r"overrides\['head'\] cannot mix prodigy"),
        (
            {"name": "schedule_free_sgd", "schedule": "constant", "overrides": {"x": {"name": "sgd"}}},
            "cannot mix schedule_free_sgd",
        ),
        ({"name": "schedule_free_sgd"}, "use schedule=constant, not cosine"),
        ({"name": "schedule_free_adamw", "schedule": "constant", "b1": 0.0}, "b1 must be above 0"),
        (
            {"name": "schedule_free_sgd", "schedule": "constant", "overrides": {"x": {"b1": 0.5}}},
            "one b1 for all parameters",
        ),
        ({"name": "schedule_free_sgd", "schedule": "constant", "lookahead_every": 5}, "leave lookahead_every at None"),
        ({"name": "schedule_free_sgd", "schedule": "constant", "plateau_factor": 0.5}, "leave plateau_factor at None"),
        ({"name": "schedule_free_sgd", "schedule": "constant", "proximal_l1": 0.1}, "average of schedule_free_sgd"),
        ({"proximal_l1": 0.1, "lookahead_every": 5}, "the average of lookahead_every would lose"),
        ({"name": "prodigy", "proximal_l1": 0.1}, "prodigy keeps to itself"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(kwargs, message):
    with pytest.raises(UsageError, match=message) as caught:
        OptimizerConfig(**kwargs)
    assert "\n" not in str(caught.value)


def test_patterns_that_match_nothing_list_what_there_is():
    params = LAYERED
    for kwargs in (
        {"freeze": "decoder"},
        {"decay_pattern": "decoder"},
        {"layer_pattern": r"decoder_(\d)", "layer_decay": 0.5},
    ):
        config = replace(PLAIN, **kwargs)
        with pytest.raises(UsageError, match=r"decoder.* matches none of the 6 parameter paths.*blocks/2/kernel"):
            make_optimizer(config, 10, params)
        with pytest.raises(UsageError, match="matches none"):
            make_optimizer(config, 10).init(params)
    with pytest.raises(UsageError, match="nothing is left to train"):
        make_optimizer(replace(PLAIN, freeze="."), 10, params)
    with pytest.raises(
        UsageError, match=r"of the 20 parameter paths; they look like: 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.\."
    ):
        check_matches("x", [0] * 20, "freeze")
    check_parameters(replace(PLAIN, layer_pattern=r"decoder_(\d)"), params)  # Not used, so not asked for.


def test_describe_has_one_line_for_each_link():
    config = OptimizerConfig(
        name="lamb",
        learning_rate=0.5,
        schedule="wsd",
        warmup=100,
        clip_value=3,
        clip_norm=1,
        l1=0.1,
        l2=0.2,
        decay_pattern="w$",
    )
    assert describe(config).splitlines() == [
        "clip each entry to +-3",
        "clip to global norm 1",
        "L1 penalty 0.1 on parameters matching 'w$'",
        "L2 penalty 0.2 on parameters matching 'w$'",
        "adam: b1 0.9, b2 0.999, eps 1e-06",
        "decoupled weight decay 0.01 on parameters matching 'w$'",
        "trust ratio on parameters matching 'w$'",
        "learning rate 0.5: warm-up over 100 steps, then stable, then over 0.2 of the run linear to 0",
    ]
    assert len({describe(OptimizerConfig(name=name, schedule="constant")) for name in OPTIMIZERS}) == len(OPTIMIZERS)


@dataclass(frozen=True)
class Config:
    """A study."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=0.5))
    """How it is trained."""


def command_line(*args):
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        try:
            result = tyro.cli(Config, args=list(args))
        except SystemExit as stop:
            result = stop.code
    return result, " ".join(out.getvalue().replace("│", " ").split())


def test_the_command_line_sets_explains_and_refuses():
    config, _ = command_line("--optimizer.name", "lion", "--optimizer.b2", "0.95", "--optimizer.warmup", "0.1")
    assert config == Config(OptimizerConfig(name="lion", learning_rate=0.5, b2=0.95, warmup=0.1))
    groups = [
        "--optimizer.overrides",
        "embed",
        "rate_factor",
        "0.1",
        "b1",
        "0.8",
        "head",
        "rate_factor",
        "3",
        "kernel",
        "name",
        "muon",
    ]
    config, _ = command_line(*groups, "--optimizer.sam-radius", "0.05", "--optimizer.centralize")
    assert config.optimizer.overrides == {
        "embed": {"rate_factor": 0.1, "b1": 0.8},
        "head": {"rate_factor": 3.0},
        "kernel": {"name": "muon"},
    }
    assert (config.optimizer.sam_radius, config.optimizer.centralize) == (0.05, True)
    code, text = command_line("--help")
    assert code == 0
    for setting in fields(OptimizerConfig):
        assert f"--optimizer.{setting.name.replace('_', '-')}" in text
    assert "Linear warm-up of the learning rate from 0" in text
    assert "Settings of some parameters only, by regular expressions searched in their paths" in text
    code, text = command_line("--optimizer.learning-rate", "-1")
    assert code == 2
    assert "learning_rate must be a finite number from 0 up" in text


def test_paths_name_every_kind_of_node():
    tree = {"a": [1, (2,)], "b": optax.EmaState(count=3, ema={"c": 4})}
    assert paths_of(tree) == ["a/0", "a/1/0", "b/count", "b/ema/c"]
    assert paths_of(5) == [""]
    assert map_with_path(lambda path, x, y: (path, x + y), {"a": 1}, {"a": 2}) == {"a": ("a", 3)}
