"""Folder of a study, and the runs in it.

with open_study(config, __doc__) as run:
    data = make_data(config)
    results = run.all(grid(config), lambda **setting: evaluate(config, data, run, **setting))
    return run.report(results, QUESTIONS)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.study import grid, report, saved
from experiments.study.cli import mention, print_results, study_name
from experiments.study.compare import Question
from experiments.study.config import StudyConfig, axes, command_line, nested, settings
from experiments.study.grid import Clock, Function, Row
from train.devices.processes import check_same, on_process_zero, wait_for_all
from train.errors import UsageError
from train.files import check_place, child_path, is_writer, make_folder, to_json
from train.records.fingerprint import fingerprint
from train.records.progress import Progress
from train.records.workdir import environment, open_workdir

WORKER = "LOSSFNS_STUDY_WORKER"
"""Environment variable of the processes that `--jobs` starts."""
MANY = 20
"""With more runs than this, the progress bar shows the study instead of each run."""


class Measured(Exception):
    """Ends one run of a dry run, after its cost was printed."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """The folder of one run, and the options of the study."""

    path: Path
    label: str
    """Label of the progress bar; no bar if empty."""
    config: StudyConfig
    measured: dict[Path, Any]
    """States of a dry run after a few steps."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A running study, from `open_study`."""

    name: str
    doc: str
    config: StudyConfig
    path: Path
    code: str
    commit: str | None
    worker: bool = False
    data: list[str] = dataclasses.field(default_factory=list)
    known: dict[str, tuple[Row, str]] = dataclasses.field(default_factory=dict)
    """Setting and key of each known run, by name."""
    measured: dict[Path, Any] = dataclasses.field(default_factory=dict)
    workers: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def uses(self, *data: Any) -> None:
        """Declares the data of the runs, for `train.fingerprint`; results from other data are not reused."""
        self.data.append(fingerprint(data))
        check_same({"data": self.data[-1]})

    def folder(self, **setting: Any) -> Folder:
        """Returns the folder of the run with this setting, one of the settings passed to `all`."""
        name = grid.run_name(setting)
        if self.known and name not in self.known:
            raise UsageError(f"no run of the study has the setting {setting}; name all of its settings")
        label = name if len(self.known) <= MANY else ""
        return Folder(child_path(self.path / "runs", name), label, self.config, self.measured)

    def all(self, wanted: Sequence[Mapping[str, Any]], function: Function, on: Sequence[Row] = ()) -> list[Row]:
        """Executes every missing run.

        Args:
            wanted: The grid: the setting of each run, of JSON types.
            function: Called with the setting; returns a mapping, or a list of them (a curve, several probes).
            on: Results of an earlier `all`; each run depends on the ones with an agreeing setting.

        Returns:
            The rows of all runs, setting and values, in the order of the settings. Empty in a dry run.
        """
        plain = [to_json(dict(setting)) for setting in wanted]
        identities = [self._identity(setting, on) for setting in plain]
        names = [grid.run_name(setting) for setting in plain]
        if len({*names}) < len(names):
            raise UsageError("two runs of the study have the same setting; name each value of an option once")
        for name, setting, identity in zip(names, plain, identities, strict=True):
            self.known[name] = setting, grid.key_of(identity)
        if self.config.dry_run:
            _dry_run(plain, function)
            return []
        if self.config.jobs > 1 and not self.worker and not self.workers:
            _start_workers(self)
        return _make_all(self, plain, identities, function)

    def _identity(self, setting: Row, on: Sequence[Row]) -> dict[str, Any]:
        counted = {name: v for name, v in settings(self.config).items() if name not in axes(self.config)}
        parents = grid.parents_of(setting, on, self.known)
        fixed = {"setting": setting, "data.fingerprint": list(self.data), "code": self.code, "on": parents}
        return counted | fixed

    def save(self, params: Any, *arguments: Any, tokenizer: Any = None) -> None:
        """Saves a model in the folder, for `experiments.study.load`.

        Args:
            params: Its parameters, nested dicts of arrays.
            *arguments: Arguments of the study's `make_model` after the config, of JSON types.
            tokenizer: Its tokenizer, if it has one.
        """
        if not self.config.dry_run:
            on_process_zero(lambda: saved.save_model(self.path, params, arguments, tokenizer))

    def report(
        self,
        results: Sequence[Row],
        questions: Sequence[Question] = (),
        *,
        figures: Sequence[Any] = (),
        notes: Sequence[Any] = (),
        curves: Mapping[str, str] | None = None,
        title: str = "",
    ) -> dict[str, Any]:
        """Answers the questions: final table, plots, `report.md`, `summary.json`.

        Args:
            results: The rows of all runs.
            questions: The questions, stated before the run.
            figures: Additional images, or functions that draw and return one.
            notes: Paragraphs and tables, or functions that return one.
            curves: Metrics with a learning curve, and their axis labels.
            title: Heading of the report; by default the first line of the study's docstring.

        Returns:
            The summary; empty in a dry run.
        """
        if self.worker:
            raise SystemExit(0)
        if self.config.dry_run or not is_writer():
            return {}
        parts = report.Parts(figures=figures, notes=notes, curves=curves or {}, title=title)
        command = " ".join(command_line(dataclasses.replace(self.config, workdir=None, jobs=1), self.name))
        return report.write(self.path, [*results], questions, parts, command=command, doc=self.doc)


@contextlib.contextmanager
def open_study(config: StudyConfig, doc: str | None) -> Iterator[Run]:
    """Opens the study's folder for this process only, and prints its path.

    Args:
        config: The config; to resume a study it must be equal, except for axes and names in `allow_changed`.
        doc: The study's docstring; its first line is the report's heading.

    Yields:
        The run.

    Raises:
        UsageError: The folder belongs to another config, or another process is writing there.
    """
    name, worker = study_name(type(config)), os.environ.get(WORKER) is not None
    usual = child_path("runs", f"{name}-fast" if config.fast_dev_run else name)
    path = usual if config.workdir is None else check_place(config.workdir, "--workdir")
    code = grid.code_fingerprint(Path(sys.modules[type(config).__module__].__file__ or ""))
    git = environment()["git"]
    run = Run(name, doc or "", config, path, code, git and git["commit"] + ("+" if git["dirty"] else ""), worker)
    if config.dry_run:
        mention(f"{name}: a dry run, nothing is written")
        yield run
        return
    values = {"study": name, **nested(settings(config))}
    check_same({"config": values, "workdir": str(path)})
    if not worker:
        allowed = {*config.allowed_names, *axes(config)}
        on_process_zero(lambda: open_workdir(path, values, allow_changed=allowed))
        mention(f"{name}: writing to {os.path.relpath(path)}")
    try:
        yield run
    except BaseException:
        for process in run.workers:
            process.terminate()  # it saves its state and exits
        raise
    finally:
        for process in run.workers:
            process.wait()


def _make_all(run: Run, wanted: list[Row], identities: list[dict[str, Any]], function: Function) -> list[Row]:
    """Loop of `Run.all`: executes each run that is missing and not claimed by another process."""
    names = [grid.run_name(setting) for setting in wanted]
    keys = [run.known[name][1] for name in names]
    places = [child_path(run.path / "runs", name) for name in names]
    found = {i: rows for i in range(len(wanted)) if (rows := grid.read_result(places[i], keys[i])) is not None}
    wait_for_all("results read")  # before process 0 writes more of them
    parent = os.getppid()
    with Progress(len(wanted), start=len(found), label=run.name, enabled=len(wanted) > MANY and is_writer()) as shown:
        while len(found) < len(wanted):
            before = len(found)
            for i in range(len(wanted)):
                if i in found or not grid.claim(places[i], identities[i], run.config.allowed_names):
                    continue
                try:  # another process may have finished it since
                    rows = grid.read_result(places[i], keys[i])
                    found[i] = rows if rows is not None else _make(run, wanted[i], keys[i], function)
                finally:
                    grid.release(places[i])
                shown.update(len(found))
                if run.worker and os.getppid() != parent:
                    raise SystemExit("the process that started this one has ended")
            for i in range(len(wanted)):
                if i not in found and (rows := grid.read_result(places[i], keys[i])) is not None:
                    found[i] = rows
            if len(found) == before:
                time.sleep(0.2)  # other processes are executing all remaining runs
    return [row for i in range(len(wanted)) for row in found[i]]


def _make(run: Run, setting: Row, key: str, function: Function) -> list[Row]:
    clock, place = Clock(), child_path(run.path / "runs", grid.run_name(setting))
    values = function(**setting)
    grid.write_result(place, key, setting, values, {"commit": run.commit, **clock.read()})
    if is_writer():
        rows = grid.read_result(place, key)
        assert rows is not None
        return rows
    return [setting | dict(row) for row in ([values] if isinstance(values, Mapping) else values)]


def _dry_run(wanted: Sequence[Row], function: Callable[..., Any]) -> None:
    """Tries the first setting of each method and prints the estimated time of all runs."""
    seconds: dict[Any, float] = {}
    for setting in wanted:
        method = setting.get("method")
        if method in seconds:
            continue
        clock = Clock()
        try:
            function(**setting)
            seconds[method] = clock.read()["wall_seconds"]
        except Measured as measured:
            seconds[method] = float(measured.args[0])
    total = sum(seconds[setting.get("method")] for setting in wanted)
    print_results(f"all {len(wanted)} runs: about {total / 60:.1f} min, without the evaluation of trained models")


def _start_workers(run: Run) -> None:
    """Starts processes with the same command that share the runs; their output goes to `jobs/N.log`."""
    if not is_writer() or getattr(getattr(run.config, "processes", None), "join", False):
        raise UsageError("--jobs needs a study in one process; leave it at 1 with --processes.join")
    command = command_line(dataclasses.replace(run.config, workdir=str(run.path.absolute())), run.name)
    folder = run.path / "jobs"
    make_folder(folder)
    environment = os.environ | {WORKER: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for number in range(1, run.config.jobs):
        with open(folder / f"{number}.log", "wb") as log:
            words = [sys.executable, *command[1:]]
            run.workers.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
