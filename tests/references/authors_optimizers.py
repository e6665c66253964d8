"""What the code that authors published makes of the gradients that the tests of our optimizers are given, in float64.

`python -m tests.references.authors_optimizers --sources DIR` writes the parameters after the last step to
authors_optimizers.json, and `--check` compares. DIR holds checkouts as for `tests.references.authors`, of the
repositories and commits that are named here; names and commits are committed, never the code. It needs torch (extra
`peers`), unlike test_authors_optimizers.py.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tests.references.authors import whole
from tests.references.torch_optimizers import same
from tests.train.support.optimizer_oracles import gradients, parameters

FILE = Path(__file__).with_suffix(".json")


class Case(NamedTuple):
    """A class of a file at a commit with its settings, those of ours, the rate and the number of steps."""

    repository: str
    commit: str
    path: str
    theirs: tuple[str, dict]
    ours: dict
    rate: float = 0.01
    steps: int = 25


_ADAN = ("sail-sg/Adan", "2c65beaf400775753b155da4082c3819fea689b9", "adan.py")
_PRODIGY = ("konstmish/prodigy", "3efb213ee8af5a6bf76f28726398433a847b38e9", "prodigyopt/prodigy.py")
_DADAPT = ("facebookresearch/dadaptation", "c984980213a989ff7cac1e3d68c19a2257bcd571", "dadaptation/dadapt_adam.py")
_FREE = ("facebookresearch/schedule_free", "70785b53e778d0e872c0bbb75ff4ee54ee10c291")
_FREE_ADAMW = (*_FREE, "schedulefree/adamw_schedulefree_reference.py")
_FREE_SGD = (*_FREE, "schedulefree/sgd_schedulefree_reference.py")
_ADOPT = ("iShohei220/adopt", "6468572b4b3688a2f056b796b071da540568520e", "src/adopt/adopt.py")
_DECAY = {"weight_decay": 0.3}
_COUPLED = {"weight_decay": 0.1}
CASES = {
    "adan": Case(*_ADAN, ("Adan", {"foreach": False}), {}),
    "adan, decay": Case(*_ADAN, ("Adan", {"foreach": False, "no_prox": True, **_DECAY}), _DECAY),
    "prodigy": Case(*_PRODIGY, ("Prodigy", _COUPLED), _COUPLED, 1.0, 10),
    "prodigy, corrected": Case(
        *_PRODIGY, ("Prodigy", {"use_bias_correction": True}), {"bias_correction": True}, 1.0, 40
    ),
    "dadapt_adamw": Case(*_DADAPT, ("DAdaptAdam", {"decouple": True, **_COUPLED}), _COUPLED, 1.0, 10),
    "dadapt_adamw, corrected": Case(
        *_DADAPT, ("DAdaptAdam", {"use_bias_correction": True}), {"bias_correction": True}, 1.0, 40
    ),
    "schedule_free_adamw": Case(*_FREE_ADAMW, ("AdamWScheduleFreeReference", _DECAY), _DECAY),
    "schedule_free_sgd": Case(*_FREE_SGD, ("SGDScheduleFreeReference", _DECAY), _DECAY),
    "adopt": Case(*_ADOPT, ("ADOPT", {"foreach": False}), {}),
}


def problem(case):
    """The parameters, and gradients that keep to a direction where a step size has to be found."""
    if case.rate != 1:
        return parameters(), gradients(parameters(), case.steps)
    params = jax.tree.map(np.zeros_like, parameters())
    main = gradients(params, 1)[0]
    return params, [jax.tree.map(lambda g, n: g + 0.2 * n, main, noise) for noise in gradients(params, case.steps)]


def evaluate(case, sources):
    """The parameters after the last step, as nested lists."""
    import torch  # here, so that a collector of tests can import this file without it

    module = whole(sources, case.repository, case.commit, case.path)
    kind, settings = case.theirs
    params, grads = problem(case)
    tensors = {key: torch.tensor(w, dtype=torch.float64, requires_grad=True) for key, w in params.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = getattr(module, kind)(list(tensors.values()), lr=case.rate, **settings)
        if hasattr(optimizer, "train"):
            optimizer.train()
        for grad in grads:
            for key, tensor in tensors.items():
                tensor.grad = torch.tensor(grad[key])
            optimizer.step()
    return {key: tensor.detach().tolist() for key, tensor in tensors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", metavar="DIR", required=True, help="folder of the checkouts, each OWNER+NAME")
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    args = parser.parse_args()
    new = {name: evaluate(case, args.sources) for name, case in CASES.items()}
    if args.check:
        old = json.loads(FILE.read_text())
        wrong = [name for name in CASES if not same(new[name], old.get(name, {}))]
        print(f"{len(new)} cases, {len(wrong)} differ from {FILE.name}")
        sys.exit(f"they differ: {', '.join(wrong)}" if wrong else 0)
    FILE.write_text(json.dumps(new, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"wrote {len(new)} cases to {FILE.name}")


if __name__ == "__main__":
    main()
