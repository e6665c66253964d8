"""One case for each public name of lossfns: how to make its inputs, what is right, and what does not apply and why.

A file for each module of lossfns, with the same name.
"""

import importlib
import inspect
import pkgutil

import lossfns

_MODULES = [importlib.import_module(module.name) for module in pkgutil.walk_packages(__path__, f"{__name__}.")]
CASES = {name: case for module in _MODULES for name, case in getattr(module, "CASES", {}).items()}
"""Public name -> case; a name may have more cases, told apart by the words after it."""

for _name, _case in CASES.items():
    if not hasattr(_case.loss, "checks"):  # a function of the case that calls the public one
        _public, _parameters = getattr(lossfns, _name.split()[0]), inspect.signature(_case.loss).parameters.values()
        _fixed = {p.name for p in _parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        _options = {p.name for p in _parameters} - _fixed
        if any(p.kind is p.VAR_KEYWORD for p in _parameters):
            _options = set(_public.checks) - _fixed
        _case.loss.checks = {name: check for name, check in _public.checks.items() if name in _options}
