"""Metrics for TensorBoard, in addition to `metrics.jsonl`; only this module needs the package tensorboardX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from train.errors import UsageError
from train.files import check_place, child_path, make_folder


def summary_writer() -> Any:
    """The class of tensorboardX that writes; an error in one sentence if it is not installed."""
    try:
        import tensorboardX
    except ImportError as error:
        raise UsageError(
            "logs for TensorBoard need the package tensorboardX, which is not installed; run "
            "`pip install 'lossfns[tensorboard]'`, or leave them out"
        ) from error
    return tensorboardX.SummaryWriter


class TensorBoard:
    """Writes each split to its own folder, so that TensorBoard draws the splits in one plot.

    A thread of tensorboardX writes every ten seconds; a killed process loses the rest.

    Args:
        folder: Parent of the folders of the splits.
        after: Number of finished steps; TensorBoard hides later ones that an earlier process logged.
    """

    def __init__(self, folder: str | os.PathLike[str], *, after: int = 0) -> None:
        self._make = summary_writer()
        self._folder, self._after = check_place(folder, "a folder for TensorBoard"), after
        self._writers: dict[str, Any] = {}

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Logs the numbers of one split at one step."""
        if split not in self._writers:
            folder = make_folder(child_path(self._folder, split), "the folder for TensorBoard")
            self._writers[split] = self._make(os.fspath(folder), purge_step=self._after + 1, flush_secs=10)
        for name, value in values.items():
            self._writers[split].add_scalar(name, float(value), step)

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()
