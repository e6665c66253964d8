"""One row for each public name of lossfns: how to make its inputs, what is right, and what does not apply and why."""

import importlib
import inspect
import pkgutil

import lossfns
from tests import rows

MODULES = [importlib.import_module(f"tests.rows.{module.name}") for module in pkgutil.iter_modules(rows.__path__)]
LOSS_TABLE = {name: case for module in MODULES for name, case in module.ROWS.items()}
"""Public name -> row; a name may have more rows, told apart by the words after it."""

for _name, _case in LOSS_TABLE.items():
    if not hasattr(_case.loss, "checks"):  # a function of the row that calls the public one
        _public, _parameters = getattr(lossfns, _name.split()[0]), inspect.signature(_case.loss).parameters.values()
        _fixed = {p.name for p in _parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        _options = {p.name for p in _parameters} - _fixed
        if any(p.kind is p.VAR_KEYWORD for p in _parameters):
            _options = set(_public.checks) - _fixed
        _case.loss.checks = {name: check for name, check in _public.checks.items() if name in _options}
