import importlib
import pkgutil
import subprocess
import sys

import train

HEAVY = [
    "matplotlib",
    "orbax",
    "grain",
    "tensorflow",
    "tensorflow_datasets",
    "flax",
    "sklearn",
    "lossfns",
    "experiments",
]


def test_importing_train_is_light():
    """Plots, checkpoints and data are imported where they are used; neither losses nor experiments are known at all."""
    code = f"import sys, train; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_module_is_not_hidden_by_a_function():
    """The spine and the wings, by the names under which they stand in the folder."""
    modules = [module.name for module in pkgutil.iter_modules(train.__path__)]
    assert all(importlib.import_module(f"train.{name}") is getattr(train, name) for name in modules)
