"""One row for each public name of lossfns: how to make its inputs, what is right, and what does not apply and why."""

from tests.rows import classification, contrastive, language, reduce, regression, regularizers

MODULES = (classification, contrastive, language, reduce, regression, regularizers)
LOSS_TABLE = {name: case for module in MODULES for name, case in module.ROWS.items()}
"""Public name -> row; a name may have more rows, told apart by the words after it."""
