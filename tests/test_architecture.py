"""The laws of the house, read from the sources: who may import whom, what nobody imports, and what is public."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lossfns
from lossfns import _catalogue
from tests.cases import CASES

ROOT = Path(__file__).parents[1]
ROOMS = ("lossfns", "train", "experiments")
FILES = [path.relative_to(ROOT) for room in (*ROOMS, "tests") for path in sorted((ROOT / room).rglob("*.py"))]
SOURCES = [path for path in FILES if path.parts[0] in ROOMS]
LIBRARIES = [path for path in SOURCES if path.parts[0] in ("lossfns", "train")]
PARTS = ["Config", "make_data", "make_model", "make_objective", "main"]


def definitions(path):
    """Names of the classes and functions of a file, from the top."""
    tree = ast.parse((ROOT / path).read_text())
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def assigned(path):
    """Names that a file defines itself, at its top."""
    names = {*definitions(path)}
    for node in ast.parse((ROOT / path).read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


STUDIES = {
    path.stem: path for path in SOURCES if len(path.parts) == 2 and path.stem[0] != "_" and path.parts[0] == ROOMS[2]
}


def imported(path, text=None):
    """Full names of all modules that a file imports anywhere in it, relative ones and those in functions included."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text() if text is None else text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = list(path.parts[: len(path.parts) - node.level]) if node.level else []
            module = ".".join([*package, *filter(None, [node.module])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            names |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return names


def rooms_of(names):
    return {name.split(".")[0] for name in names}


def test_all_ways_to_import_are_seen():
    text = "import a.b\nfrom c import d\ndef f():\n  from . import e\n  from .g import h\n  __import__('i')\n"
    names = imported(Path("experiments/x.py"), text)
    assert names == {"a.b", "c", "c.d", "experiments", "experiments.e", "experiments.g", "experiments.g.h", "i"}


@pytest.mark.parametrize("path", LIBRARIES, ids=str)
def test_libraries_know_nothing_of_each_other_nor_of_what_uses_them(path):
    own = path.parts[0]
    assert rooms_of(imported(path)) & {"lossfns", "train", "experiments", "tests", "notebooks"} <= {own}


@pytest.mark.parametrize("path", [path for path in LIBRARIES if path.parts[0] == "lossfns"], ids=str)
def test_a_family_uses_only_the_public_names_of_another(path):
    """What two families share stands in a module of `lossfns` with a leading underscore."""
    families = {child.name for child in (ROOT / "lossfns").iterdir() if child.is_dir() and child.name[0] != "_"}
    names = imported(path)
    for name in names:
        room, *family = name.split(".")
        if room == "lossfns" and {*family[:1]} & families - {path.parts[1]}:
            is_module = any(other.startswith(f"{name}.") for other in names)
            assert is_module or family[-1] in lossfns.__all__, f"{path} imports {name}"


WINGS = {"optimizers": set(), "objectives": {"optimizers"}, "devices": set(), "records": {"devices"}}
"""The wings of `train`, and which others each of them may import. All may import the spine, which lies on top."""


@pytest.mark.parametrize("wing", WINGS)
def test_wings_meet_in_the_spine(wing):
    paths = [path for path in SOURCES if path.parts[:2] == ("train", wing)]
    assert paths
    others = {name.split(".")[1] for path in paths for name in imported(path) if name.startswith("train.")}
    assert others & WINGS.keys() <= {wing} | WINGS[wing]


def test_train_is_a_spine_with_wings():
    assert {path.parts[1] for path in SOURCES if path.parts[0] == "train" and len(path.parts) > 2} == WINGS.keys()


def test_no_module_has_the_name_of_a_standard_one():
    assert not [path for path in SOURCES if path.stem in sys.stdlib_module_names]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[0] == "train"], ids=str)
def test_a_name_has_one_address(path):
    """Only an `__init__` re-exports names that another file defines."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "train":
            source = ROOT / node.module.replace(".", "/")
            for alias in node.names:
                assert path.stem == "__init__" or alias.asname != alias.name
                module = source.with_suffix(".py")
                if path.stem != "__init__":
                    assert module.exists() or (source / f"{alias.name}.py").exists(), f"{path} imports {alias.name}"
                if module.exists():
                    assert alias.name in assigned(module), f"{path} imports {alias.name} from {node.module}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_source_imports_the_tests_or_the_notebooks(path):
    assert not rooms_of(imported(path)) & {"tests", "notebooks"}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] != "tests"], ids=str)
def test_no_study_is_imported(path):
    """Not under TYPE_CHECKING either: what two files share stands in neither of them."""
    assert not imported(path) & {f"experiments.{study}" for study in STUDIES}


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_is_one_file_with_its_parts_in_order(study):
    assert [name for name in definitions(STUDIES[study]) if name in PARTS] == PARTS
    assert (ROOT / STUDIES[study]).read_text().count("\n") <= 250


def test_only_studies_stand_on_top_of_the_experiments():
    entries = {path.name for path in (ROOT / "experiments").iterdir() if path.name != "__pycache__"}
    wings = {"study", "evaluation", "baselines", "data", "models", "benchmarks"}
    assert entries == {"__init__.py", "__main__.py", *wings} | {f"{study}.py" for study in STUDIES}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[:2] == ("experiments", "study")], ids=str)
def test_the_harness_is_plain_functions_of_few_parameters(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in names if name != "self"]) <= 7, node.name
        if isinstance(node, ast.ClassDef):
            assert {ast.unparse(base) for base in node.bases} <= {"NamedTuple", "Exception"}, node.name


RUNS_CODE = Path("tests/references/authors.py")
"""The one file that runs what it reads, only as a command of its own: published losses, of commits named by hash."""
UNWANTED = {"tensorflow", "tf", "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_tensorflow_pickle_or_eval(path):
    tree = ast.parse((ROOT / path).read_text())
    assert not rooms_of(imported(path)) & UNWANTED
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    run = {node.func.id for node in calls if isinstance(node.func, ast.Name)} & {"eval", "exec", "compile"}
    assert run == ({"exec", "compile"} if path == RUNS_CODE else set())
    pickled = [keyword for node in calls for keyword in node.keywords if keyword.arg == "allow_pickle"]
    assert all(isinstance(keyword.value, ast.Constant) and keyword.value.value is False for keyword in pickled)


BLOCKED = ("grain", "tensorflow_datasets", "tensorflow", "experiments", "tests")


def test_the_libraries_import_without_grain_tfds_and_tensorflow():
    program = f"""
import sys
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it now raises
import importlib, pkgutil
for package in ("lossfns", "train"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_losses_and_the_train_step_do_not_load_each_other():
    for room, other in (("lossfns", "train"), ("train", "lossfns")):
        program = f"import {room}, sys; sys.exit(any(name.split('.')[0] == {other!r} for name in sys.modules))"
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def public_functions():
    names = [name for name in vars(lossfns) if not name.startswith("_")]
    return {name for name in names if callable(getattr(lossfns, name)) and not isinstance(getattr(lossfns, name), type)}


def test_every_public_loss_has_a_case_and_every_case_a_loss():
    assert {name.split(" ")[0] for name in CASES} == public_functions()


def test_cases_and_oracles_mirror_the_modules():
    modules = {path.relative_to("lossfns") for path in LIBRARIES if path.parts[0] == "lossfns"}
    for folder in ("tests/cases", "tests/oracles"):
        files = {path.relative_to(folder) for path in FILES if path.is_relative_to(folder)}
        assert {path for path in files if path.name not in ("__init__.py", "_shared.py")} <= modules
    for name in CASES:
        module = getattr(lossfns, name.split(" ")[0]).__module__.removeprefix("lossfns.")
        assert name in importlib.import_module(f"tests.cases.{module}").CASES


def test_every_public_name_is_reexported_and_documented():
    for name in public_functions():
        function = getattr(lossfns, name)
        module = importlib.import_module(function.__module__)
        assert function.__module__.startswith("lossfns.")
        assert getattr(module, name) is function
        for part in ("Args:", "Returns:", ">>> "):
            assert part in (function.__doc__ or ""), f"{name} lacks {part}"


# Functions that no paper made: sums of what is there, shapes and masks.
NO_PAPER = {
    "absolute_error", "cosine_distance", "gather_labelled", "hierarchical_cross_entropy", "l2", "log_squared_error",
    "multi_token_where", "next_token_where", "poisson_nll", "pool_spans", "prefix_lm_where", "sigmoid_cross_entropy",
    "squared_error", "weighted_mean", "weighted_sum",
}  # fmt: skip


def test_every_loss_with_a_paper_names_it():
    assert {name for name in public_functions() if "References:" not in getattr(lossfns, name).__doc__} == NO_PAPER


def test_every_cited_paper_is_in_the_bibliography_and_every_entry_is_cited():
    texts = {path: (ROOT / path).read_text() for path in SOURCES if path.parts[0] == "lossfns"}
    papers = _catalogue.papers()
    known = {paper.fields[name].lower() for paper in papers for name in ("eprint", "doi") if name in paper.fields}
    for path, text in texts.items():
        ids = {m[1].lower() for pattern in (_catalogue.ARXIV, _catalogue.DOI) for m in pattern.finditer(text)}
        assert ids <= known, f"{path} cites what lossfns/references.bib lacks: {sorted(ids - known)}"
    docs = "\n".join(texts.values())
    assert not [paper.key for paper in papers if paper.place_in(docs) < 0]


def test_at_least_150_bad_calls_are_refused():
    # The cases' own; for every case but functions of parameters the suite adds some made from its inputs.
    assert sum(len(case.bad_calls) for case in CASES.values()) >= 150


LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60
LONG: dict[str, str] = {}
"""Path, or path:function, and why it is better in one piece."""


def lengths(path):
    """Lines of a file, and of each function in it without its docstring."""
    text = (ROOT / path).read_text()
    yield str(path), text.count("\n"), LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            is_doc = ast.get_docstring(node) is not None
            doc = first.end_lineno - first.lineno + 1 if is_doc else 0
            yield f"{path}:{node.name}", node.end_lineno - node.lineno + 1 - doc, LINES_OF_A_FUNCTION


def test_no_file_and_no_function_is_too_long():
    long = {name: lines for path in SOURCES for name, lines, most in lengths(path) if lines > most}
    assert long.keys() == LONG.keys(), long


def test_names_imported_for_others_only_are_marked():
    """`from x import y as y` in an __init__ makes y public; anything else there would be public by accident."""
    tree = ast.parse((ROOT / "lossfns/__init__.py").read_text())
    types, typing, *imports, version, names, fallback = tree.body[1:]
    assert [ast.unparse(node) for node in (types, typing)] == ["import types as _types", "import typing as _typing"]
    assert [ast.unparse(node.targets[0]) for node in (version, names)] == ["__version__", "__all__"]
    assert [node.name for node in ast.walk(fallback) if isinstance(node, ast.FunctionDef)] == ["__getattr__"]
    for node in imports:
        assert isinstance(node, ast.ImportFrom)
        assert all(alias.asname == alias.name for alias in node.names)
