"""JAX's initializers by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jax.nn import initializers
from jax.nn.initializers import Initializer

from train.errors import check_name

INITIALIZERS: Mapping[str, Callable[[], Initializer]] = MappingProxyType(
    {
        "gaussian": lambda: initializers.normal(stddev=0.02),
        "truncated_gaussian": lambda: initializers.truncated_normal(stddev=0.02),
        "xavier_uniform": initializers.xavier_uniform,
        "xavier_normal": initializers.xavier_normal,
        "he_uniform": initializers.he_uniform,
        "he_normal": initializers.he_normal,
        "lecun_normal": initializers.lecun_normal,
        "orthogonal": initializers.orthogonal,
        "zeros": lambda: initializers.zeros,
    }
)
"""Functions without arguments that make the initializers, by name."""


def make_initializer(name: str) -> Initializer:
    """Returns an initializer: a function `(key, shape, dtype) -> array`, as Flax layers accept.

    With n_in and n_out the numbers of inputs and outputs of a `[n_in, n_out]` kernel, the variances are

        gaussian, truncated_gaussian   0.02^2 before truncation at two standard deviations
        xavier_uniform, xavier_normal  2 / (n_in + n_out)
        he_uniform, he_normal          2 / n_in
        lecun_normal                   1 / n_in
        orthogonal                     1 / max(n_in, n_out): orthonormal rows or columns
        zeros                          0

    Args:
        name: One of `INITIALIZERS`.

    Conventions:
        As in BERT's code, `truncated_gaussian` has this deviation before truncation; its samples have a standard
        deviation of 0.0176. The `he`, `xavier` and `lecun` normals of JAX are truncated and corrected for it.

    References:
        Glorot and Bengio 2010; He et al. 2015, arXiv:1502.01852; Saxe et al. 2014, arXiv:1312.6120; Devlin et al. 2019,
        arXiv:1810.04805.

    >>> import jax
    >>> make_initializer("zeros")(jax.random.key(0), (2,))
    Array([0., 0.], dtype=float32)
    """
    return INITIALIZERS[check_name("initializer", name, INITIALIZERS)]()
