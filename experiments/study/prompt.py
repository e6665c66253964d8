"""The command `python -m experiments sample FOLDER PROMPT`: continuations by the language model of a finished study."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.data.tokenizers import UNK, Tokenizer
from experiments.models.sampling import sample, texts_of
from experiments.models.transformer import CausalLM
from experiments.study.cli import print_results
from experiments.study.saved import load
from train.errors import UsageError


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Prints continuations of a prompt."""

    folder: tyro.conf.Positional[str]
    """Folder of a finished study of a language model, such as runs/causal_lm."""
    prompt: tyro.conf.Positional[str] = ""
    """Beginning of the text; empty for a text from the start."""
    tokens: int = 100
    """Maximum number of tokens to write; a text also ends at the model's end token."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Draw among this many likeliest tokens (None: all)."""
    top_p: float = 1.0
    """Draw among the likeliest tokens with this total probability."""
    seed: int = 0
    """Seed of the random numbers."""
    count: int = 1
    """Number of texts."""


def check(options: SampleOptions) -> None:
    """Refuses numbers out of range; tyro would print errors from `__post_init__` in a box."""
    for name, least in (("tokens", 1), ("count", 1), ("seed", 0), ("top_k", 1)):
        if (value := getattr(options, name)) is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, but it is {value}")
    if not 0 <= options.temperature < math.inf:
        raise UsageError(f"--temperature must be a number from 0 on, but it is {options.temperature}")
    if not 0 < options.top_p <= 1:
        raise UsageError(f"--top-p must be above 0 and at most 1, but it is {options.top_p}")


def sample_prompt(words: list[str], studies: Mapping[str, str]) -> None:
    """Prints texts that begin with a prompt."""
    options = tyro.cli(SampleOptions, prog="python -m experiments sample", args=words)
    for text in continuations(options):
        print_results(text)


def continuations(options: SampleOptions) -> list[str]:
    """Returns the texts.

    Raises:
        UsageError: An option is out of range, the folder has no language model, or its tokenizer has no token for a
            character of the prompt.
    """
    check(options)
    model, params, tokenizer = load(options.folder)
    if not isinstance(model, CausalLM) or tokenizer is None:
        raise UsageError(
            f"the model in {options.folder} is no language model but a {type(model).__name__}; give the folder of a "
            "finished causal_lm"
        )
    given = prompt_ids(options.prompt, tokenizer)
    settings: dict[str, Any] = json.loads((Path(options.folder) / "config.json").read_text(encoding="utf-8"))
    rows = sample(
        model,
        params,
        jax.random.key(options.seed),
        length=1 + len(given) + options.tokens,
        rows=options.count,
        temperature=options.temperature,
        prompt=given,
        window=settings["data"]["seq_len"],
        top_k=options.top_k,
        top_p=options.top_p,
    )
    return texts_of(rows.tolist(), tokenizer)


def prompt_ids(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the tokens of a prompt."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the prompt {prompt!a} is no text in UTF-8; type it again") from error
    ids: list[int] = tokenizer.encode(prompt).tolist()
    if UNK in ids:
        unknown = [letter for letter in dict.fromkeys(prompt) if UNK in tokenizer.encode(letter)]
        raise UsageError(
            f"the tokenizer never saw {' '.join(unknown) or repr(prompt)}, so the model knows nothing of it; give a "
            "prompt in the characters of its training text"
        )
    return ids
