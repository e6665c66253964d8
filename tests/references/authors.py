"""Values and gradients of the code that the authors of losses published, in float64.

The pieces named in `authors_calls` are taken out of checkouts and run, each alone, on inputs made from a seed:

    git clone https://github.com/OWNER/NAME DIR/OWNER+NAME      (for each line that --list prints; or a bare clone)
    python -m tests.references.authors --sources DIR

writes authors.json, with the inputs; `--check` compares with it instead. Both need torch (extra `peers`) and run what
the commits hold that are named there by their hash; no test imports this file. test_authors.py, which holds our losses
against the numbers, needs neither torch nor the checkouts. One process, so gathering over devices gathers one part.
"""

import __future__

import argparse
import ast
import functools
import importlib
import json
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np

from tests.references.authors_calls import CALLS

FILE = Path(__file__).with_suffix(".json")
MODULES = {
    "np": "numpy",
    "math": "math",
    "functools": "functools",
    "torch": "torch",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
    "dist": "torch.distributed",
    "jax": "jax",
    "jnp": "jax.numpy",
}


@functools.cache
def read(sources, repository, commit, path):
    """A file of a checkout as it was at a commit."""
    folder = Path(sources) / repository.replace("/", "+")
    command = ["git", "-C", str(folder), "show", f"{commit}:{path}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def whole(sources, repository, commit, path):
    """All of a file as a module of its own, for optimizers."""
    module = types.ModuleType(Path(path).stem)
    exec(compile(read(sources, repository, commit, path), path, "exec"), module.__dict__)
    return module


def assigns(statement, name):
    """Whether it is an assignment to this name."""
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return isinstance(statement, ast.Assign | ast.AugAssign) and any(getattr(t, "id", None) == name for t in targets)


def find(body, name):
    """The definition or assignment of a name such as `Class.method` or `outer.inner`."""
    first, _, rest = name.partition(".")
    for node in (inner for statement in body for inner in ast.walk(statement)):
        if getattr(node, "name", None) == first and isinstance(node, ast.FunctionDef | ast.ClassDef):
            return find(node.body, rest) if rest else node
        if not rest and assigns(node, first):
            return node
    raise LookupError(f"no {name}")


def span(function, first, last):
    """The statements from the first assignment to one name to the last assignment to another in the same block."""
    for node in ast.walk(function):
        for body in (getattr(node, field, []) for field in ("body", "orelse")):
            if not isinstance(body, list):  # of a lambda or a conditional expression
                continue
            starts = [i for i, s in enumerate(body) if assigns(s, first)]
            ends = [i for i, s in enumerate(body) if any(assigns(inner, last) for inner in ast.walk(s))]
            if starts and ends and starts[0] <= ends[-1]:
                return body[starts[0] : ends[-1] + 1]
    raise LookupError(f"no {first} .. {last} in {function.name}")


def load(sources, code):
    """A namespace of the pieces of a `Code`, with torch, JAX and NumPy under the names that authors give them."""
    namespace = types.SimpleNamespace(**{name: importlib.import_module(module) for name, module in MODULES.items()})
    namespace.read = functools.partial(read, sources, code.repository, code.commit)

    def compiled(statements):
        tree = ast.Module(body=statements, type_ignores=[])
        # Annotations name types that are not there: they are not evaluated.
        return compile(tree, code.repository, "exec", __future__.annotations.compiler_flag, dont_inherit=True)

    def run(statements, result, **values):
        scope = namespace.__dict__ | values
        exec(compiled(statements), scope)
        return scope[result]

    for path, names in code.pieces.items():
        tree = ast.parse(namespace.read(path))
        for name in names:
            name, _, ends = name.partition(": ")
            piece = find(tree.body, name)
            if ends:
                first, last = ends.split(" .. ")
                setattr(namespace, piece.name, functools.partial(run, span(piece, first, last), last))
                continue
            if not isinstance(piece, ast.Assign):  # what registers it elsewhere is left out
                piece.decorator_list = [d for d in piece.decorator_list if ast.unparse(d).startswith(("torch", "jax"))]
            exec(compiled([piece]), namespace.__dict__)
    return namespace


def one_process_in_float64():
    """Let torch be what the authors' code expects, but for the precision and the machine."""
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    warnings.filterwarnings("ignore")  # old code calls what torch has deprecated since


def by_torch(theirs, arrays, moving):
    import torch

    tensors = [torch.tensor(x) for x in arrays]
    for i in moving:
        tensors[i].requires_grad_(True)
    values = theirs(*tensors)
    if not moving:
        return values.numpy(), []
    gradients = torch.autograd.grad((values * torch.tensor(ramp(values))).sum(), [tensors[i] for i in moving])
    return values.detach().numpy(), [g.numpy() for g in gradients]


def by_jax(theirs, arrays, moving):
    import jax

    def total(*given):
        values = theirs(*given)
        return (values * ramp(values)).sum(), values

    gradients, values = jax.grad(total, argnums=moving, has_aux=True)(*arrays)
    return np.asarray(values), [np.asarray(g) for g in gradients]


def ramp(values):
    """Weights, so that each value has a part of its own in the gradient."""
    return np.linspace(0.5, 1.5, int(np.prod(values.shape))).reshape(values.shape)


def rounded(array):
    return [rounded(x) for x in array] if array.ndim else float(f"{array:.11g}")


def evaluate(name, sources):
    call = CALLS[name]
    arrays = [np.asarray(x) for x in call.inputs(np.random.default_rng(7))]
    theirs = functools.partial(call.theirs, load(sources, call.code))
    values, gradients = (by_jax if call.code.jax else by_torch)(theirs, arrays, call.differentiable)
    return {
        "source": [call.code.repository, call.code.commit],
        "inputs": [{"dtype": str(x.dtype), "data": x.tolist()} for x in arrays],
        "values": rounded(values),
        "gradients": [rounded(g) for g in gradients],
    }


def same(new, old):
    if new["source"] != old["source"] or new["inputs"] != old["inputs"]:
        return False
    pairs = zip([new["values"], *new["gradients"]], [old["values"], *old["gradients"]], strict=True)
    return all(np.allclose(x, y, rtol=1e-10, atol=1e-10) for x, y in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", metavar="DIR", help="folder of the checkouts, each OWNER+NAME")
    parser.add_argument("--list", action="store_true", help="print repositories and commits, and stop")
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    args = parser.parse_args()
    if args.list:
        return print(*sorted({f"{c.code.repository} {c.code.commit}" for c in CALLS.values()}), sep="\n")
    if not args.sources:
        parser.error("--sources is needed")
    one_process_in_float64()
    new = {name: evaluate(name, args.sources) for name in CALLS}
    if args.check:
        old = json.loads(FILE.read_text())
        names = new.keys() | old.keys()
        wrong = sorted(n for n in names if n not in new or n not in old or not same(new[n], old[n]))
        print(f"{len(new)} cases, {len(wrong)} differ from {FILE.name}")
        sys.exit(f"they differ: {', '.join(wrong)}" if wrong else 0)
    FILE.write_text(json.dumps(new, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    return print(f"wrote {len(new)} cases to {FILE.name}")


if __name__ == "__main__":
    main()
