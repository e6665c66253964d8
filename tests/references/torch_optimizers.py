"""What torch's own optimizers make of the gradients that the tests of ours are given, in float64.

`python -m tests.references.torch_optimizers` writes the parameters after the last step to torch_optimizers.json, and
`--check` compares. Both need torch (extra `peers`), unlike test_torch_optimizers.py.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from tests.train.support.optimizer_oracles import RATE, gradients, parameters

FILE = Path(__file__).with_suffix(".json")
STEPS = 8
# Ours, torch's class with its settings, and the settings of ours. Only where the two mean the same: torch's NAdam has a
# schedule of its own, and most of its weight decay is coupled.
CASES = {
    "sgd": ("SGD", {}, {}),
    "momentum": ("SGD", {"momentum": 0.9}, {}),
    "nesterov": ("SGD", {"momentum": 0.7, "nesterov": True}, {"momentum": 0.7}),
    "rmsprop": ("RMSprop", {"alpha": 0.9, "momentum": 0.5}, {"momentum": 0.5}),
    "adagrad": ("Adagrad", {}, {}),
    "adadelta": ("Adadelta", {}, {}),
    "adam": ("Adam", {"betas": (0.8, 0.95)}, {"b1": 0.8, "b2": 0.95}),
    "adamw": ("AdamW", {"weight_decay": 0.3}, {"weight_decay": 0.3, "decay_pattern": "."}),
    "radam": (
        "RAdam",
        {"betas": (0.9, 0.9), "weight_decay": 0.3, "decoupled_weight_decay": True},
        {"b2": 0.9, "weight_decay": 0.3, "decay_pattern": "."},
    ),
    "amsgrad": ("Adam", {"amsgrad": True, "betas": (0.8, 0.6)}, {"b1": 0.8, "b2": 0.6}),
    "adamax": ("Adamax", {}, {}),
}


def evaluate(name):
    """The parameters after the last step, as nested lists."""
    import torch  # here, so that a collector of tests can import this file without it

    kind, settings, _ = CASES[name]
    tensors = {key: torch.tensor(w, dtype=torch.float64, requires_grad=True) for key, w in parameters().items()}
    optimizer = getattr(torch.optim, kind)(list(tensors.values()), lr=RATE, **settings)
    for grad in gradients(parameters(), STEPS):
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(grad[key])
        optimizer.step()
    return {key: tensor.detach().tolist() for key, tensor in tensors.items()}


def same(new, old):
    return new.keys() == old.keys() and all(np.allclose(new[key], old[key], rtol=1e-12, atol=1e-12) for key in new)


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    new = {"torch": torch.__version__, "cases": {name: evaluate(name) for name in CASES}}
    if parser.parse_args().check:
        old = json.loads(FILE.read_text())["cases"]
        wrong = [name for name in CASES if not same(new["cases"][name], old.get(name, {}))]
        print(f"torch {new['torch']}: {len(CASES)} cases, {len(wrong)} differ from {FILE.name}")
        sys.exit(f"they differ: {', '.join(wrong)}; run python -m tests.references.torch_optimizers" if wrong else 0)
    FILE.write_text(json.dumps(new, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"wrote {len(CASES)} cases to {FILE.name}")


if __name__ == "__main__":
    main()
