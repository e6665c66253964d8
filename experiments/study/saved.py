"""Saving and loading of trained models.

model, params, tokenizer = load("runs/causal_lm")
logits = model.apply({"params": params}, tokens, valid=tokens >= 0)
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from experiments.data.tokenizers import read_tokenizer, tokenizer_files
from experiments.study.config import from_settings
from train.devices.sharding import gather
from train.errors import UsageError
from train.files import dump_json, make_folder, to_json, write_atomic
from train.paths import path_of
from train.records.state_layout import check_layout, flatten_state, rebuild

PARAMETERS, MODEL = "parameters.safetensors", "model.json"


class Loaded(NamedTuple):
    """A trained model of a study, ready to use or to train further."""

    model: Any
    params: Any
    tokenizer: Any


def save_model(workdir: Path, params: Any, arguments: Sequence[Any], tokenizer: Any = None) -> None:
    """Writes `model/`: parameters as safetensors, arguments of `make_model`, tokenizer."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    for keys, _ in leaves:
        bad = [key for key in keys if not isinstance(getattr(key, "key", None), str) or "/" in key.key]
        if bad:
            raise UsageError(f"expected parameters in nested dicts with plain names, got {path_of(keys)!r}")
    folder = workdir / "model"
    make_folder(folder)
    arrays = {path_of(keys): np.ascontiguousarray(leaf) for keys, leaf in leaves}
    write_atomic(folder / PARAMETERS, save(arrays))
    for name, content in (tokenizer_files(tokenizer) if tokenizer is not None else {}).items():
        write_atomic(folder / name, content)
    write_atomic(folder / MODEL, dump_json({"arguments": to_json(list(arguments))}))


def load(workdir: str | os.PathLike[str]) -> Loaded:
    """Loads the model of a study's folder.

    Args:
        workdir: The folder of a finished study, such as `runs/causal_lm`.

    Returns:
        The model (a Flax module from the study's `make_model`), its parameters, and its tokenizer or None.

    Raises:
        UsageError: The folder has no model.
    """
    workdir = Path(workdir)
    try:
        values = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
        made = json.loads((workdir / "model" / MODEL).read_text(encoding="utf-8"))
        arrays = load_file(workdir / "model" / PARAMETERS)
        study = importlib.import_module(f"experiments.{values.pop('study')}")
    except (OSError, ValueError, KeyError, ModuleNotFoundError) as error:
        raise UsageError(
            f"{workdir} contains no model ({error}); give the folder of a finished study that saves one"
        ) from error
    model = study.make_model(from_settings(study.Config, values), *made["arguments"])
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *groups, last = name.split("/")
        place = params
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = array
    return Loaded(model, params, read_tokenizer(workdir / "model"))


def write_state(path: Path, state: Any) -> None:
    """Writes the whole training state of a finished run without checkpoints."""
    leaves, description = flatten_state(gather(state))
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    write_atomic(path, save(arrays, metadata={"layout": json.dumps(description)}))


def read_state(path: Path, state: Any) -> Any:
    """Returns the state from `write_state`, in the layout of the given state; None if there is no file.

    Raises:
        UsageError: It has another layout, or is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            layout = json.loads(file.metadata()["layout"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except Exception as error:  # safetensors raises its own exceptions
        raise UsageError(f"{path} is damaged ({error}); delete its folder, and the run is executed again") from error
    check_layout(state, layout)
    return rebuild(state, arrays)
