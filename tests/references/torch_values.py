"""Values and gradients of torch's own losses, in float64, for the inputs of the loss table.

`python -m tests.references.torch_values` writes them to torch_values.json with the inputs they are for;
`--check` recomputes them and compares with that file. Both need torch (extra `peers`), unlike test_torch.py.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from tests.cases import CASES
from tests.references.torch_calls import CALLS

FILE = Path(__file__).with_suffix(".json")


def evaluate(row, call):
    """Inputs, values, and gradients of the sum of values times a ramp of weights, all as nested lists."""
    import torch  # here, so that a collector of tests can import this file without it

    case = CASES[row]
    inputs = [np.asarray(x) for x in case.inputs()]
    floating = [np.issubdtype(x.dtype, np.floating) for x in inputs]
    tensors = [torch.tensor(x, dtype=torch.float64 if f else None) for x, f in zip(inputs, floating, strict=True)]
    for i in call.differentiable:
        tensors[i].requires_grad_(True)
    values = call.torch(torch.nn.functional, *tensors)
    weights = torch.linspace(0.5, 1.5, values.numel(), dtype=torch.float64).reshape(values.shape)
    gradients = torch.autograd.grad((values * weights).sum(), [tensors[i] for i in call.differentiable])
    return {
        "row": row,
        "options": call.options,
        "differentiable": list(call.differentiable),
        "inputs": [{"dtype": str(x.dtype), "data": x.tolist()} for x in inputs],
        "values": values.detach().tolist(),
        "gradients": [g.tolist() for g in gradients],
    }


def evaluate_all():
    import torch

    return {"torch": torch.__version__, "cases": {name: evaluate(call.row, call) for name, call in CALLS.items()}}


def differences(new, old):
    """Names with numbers that differ from the file."""

    def same(a, b):
        if a["row"] != b["row"] or a["options"] != b["options"] or a["inputs"] != b["inputs"]:
            return False
        pairs = zip([a["values"], *a["gradients"]], [b["values"], *b["gradients"]], strict=True)
        return all(np.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in pairs)

    names = new["cases"].keys() | old["cases"].keys()
    in_both = new["cases"].keys() & old["cases"].keys()
    return sorted(name for name in names if name not in in_both or not same(new["cases"][name], old["cases"][name]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    new = evaluate_all()
    if parser.parse_args().check:
        wrong = differences(new, json.loads(FILE.read_text()))
        print(f"torch {new['torch']}: {len(new['cases'])} cases, {len(wrong)} differ from {FILE.name}")
        sys.exit(f"they differ: {', '.join(wrong)}; run python -m tests.references.torch_values" if wrong else 0)
    FILE.write_text(json.dumps(new, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"wrote {len(new['cases'])} cases to {FILE.name}")


if __name__ == "__main__":
    main()
