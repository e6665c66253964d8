"""Prepared data in one temporary folder a session, shared by the worker processes of pytest-xdist."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "lossfns-data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOSSFNS_DATA_DIR", str(folder))
        yield folder
