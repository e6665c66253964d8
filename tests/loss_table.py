"""One row for each public name of lossfns: how to make its inputs, what is right, and what does not apply and why."""

import importlib
import pkgutil

from tests import rows

MODULES = [importlib.import_module(f"tests.rows.{module.name}") for module in pkgutil.iter_modules(rows.__path__)]
LOSS_TABLE = {name: case for module in MODULES for name, case in module.ROWS.items()}
"""Public name -> row; a name may have more rows, told apart by the words after it."""
