"""Runnable studies, with their models and data."""

from importlib.util import find_spec

INSTALL = "python -m pip install -c constraints.txt -e '.[experiments]'"
_NEEDED = (
    "chex",
    "flax",
    "grain",
    "matplotlib",
    "optax",
    "orbax",
    "scipy",
    "sklearn",
    "tensorflow_datasets",
    "tqdm",
    "tyro",
)


def missing_packages() -> list[str]:
    """Returns the packages that the studies import and that are not installed."""
    return [name for name in _NEEDED if find_spec(name) is None]


def how_to_install(missing: list[str]) -> str:
    """Returns an error message with the install command.

    >>> how_to_install(["tyro"])
    "the studies need tyro, which is not installed here: python -m pip install -c constraints.txt -e '.[experiments]'"
    """
    verb = "is" if len(missing) == 1 else "are"
    return f"the studies need {', '.join(missing)}, which {verb} not installed here: {INSTALL}"
