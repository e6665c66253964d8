"""Checks of a call's arguments: arrays, known keywords, and hints for other libraries' names."""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

import jax
import numpy as np

SENTENCES: Mapping[str, str] = {
    **dict.fromkeys(
        ("reduction", "reduce", "size_average", "reduction_type"),
        "nothing is averaged here, each example has its value: reduction='mean' is "
        "lossfns.weighted_mean(values, where), reduction='sum' lossfns.weighted_sum(values, where)",
    ),
    **dict.fromkeys(
        ("axis", "dim", "class_axis", "class_dim"),
        "classes and features are the last axis here: move them there with jnp.moveaxis(x, axis, -1)",
    ),
    **dict.fromkeys(
        ("weight", "weights", "sample_weight", "sample_weights", "loss_weight"),
        "weights are applied after the loss: lossfns.weighted_mean(values, weights), where class weights are "
        "class_weights[labels]",
    ),
    **dict.fromkeys(
        ("class_weight", "class_weights"),
        "weights are applied after the loss: lossfns.weighted_mean(values, class_weights[labels])",
    ),
    **dict.fromkeys(("ignore_index", "ignore_label", "ignored_index"), "give where=labels != ignore_index"),
    **dict.fromkeys(("padding_idx", "pad_id", "pad_token_id"), "give where=tokens != pad_id"),
    **dict.fromkeys(
        ("mask", "masks", "padding_mask", "attention_mask", "loss_mask", "valid_mask", "paddings"),
        "masks are boolean and True for valid entries: where=mask",
    ),
    **dict.fromkeys(
        ("num_classes", "n_classes"), "the last axis of the logits, or of the class vectors, says how many there are"
    ),
    "pos_weight": "lossfns.sigmoid_cross_entropy has positive_weight=",
    "from_logits": "logits are given, never probabilities: the logits of probabilities p are jnp.log(p), and "
    "jax.scipy.special.logit(p) for independent labels",
    "log_target": "both distributions are given as logits, of which log-probabilities are one form",
    "log_input": "the logarithm of the rate is given",
    "loss_type": "each type is a separate loss: python -m lossfns lists them",
}
"""Arguments of torch, Optax and Keras that no loss here has, and what to use instead."""

SAME: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("tau", "temp", "T", "t", "temperature", "logit_scale"), ("temperature", "student_temperature", "tau")),
    (("pos_weight", "positive_weights"), ("positive_weight",)),
    (("smoothing", "label_smooth", "smooth_eps", "eps", "epsilon"), ("label_smoothing", "smooth", "eps", "epsilon")),
    (("blank", "blank_index", "blank_label"), ("blank_id",)),
    (("input_lengths", "logit_lengths", "logit_paddings", "lengths"), ("logits_where", "frames_where")),
    (("target_lengths", "label_lengths", "label_paddings"), ("labels_where",)),
    (("lengths", "length", "seq_lens", "mask"), ("steps_where", "words_where", "tokens_where", "logits_where")),
    (("axis_names", "pmap_axis_name", "group", "process_group"), ("axis_name",)),
    (("chunk_size", "num_chunks", "chunks"), ("block_size",)),
    (("clip_range", "cliprange", "clip_eps", "epsilon", "eps", "epsilon_low", "clip_ratio"), ("clip_low", "clip")),
    (("epsilon_high", "eps_high", "clip_ratio_high"), ("clip_high",)),
    (("rng", "rngs", "prng", "seed", "prng_key"), ("key",)),
    (("softcap", "logit_cap", "final_logit_softcapping"), ("soft_cap",)),
    (("z_loss_weight", "z_loss_coef", "lse_square_scale"), ("z_loss",)),
    (("gamma_pos",), ("gamma_positive",)),
    (("gamma_neg",), ("gamma_negative",)),
    (("q", "tau", "alpha"), ("quantile", "expectile")),
    (("coef", "coefficient", "lam", "lambda_", "weight_decay", "strength"), ("weight", "strength")),
    (("beta", "kl_coef"), ("kl_weight", "beta")),
    (("delta", "beta", "threshold"), ("delta", "beta", "margin")),
    (("lambda_d",), ("desirable_weight",)),
    (("lambda_u",), ("undesirable_weight",)),
    (("p", "exponent", "norm_degree"), ("norm", "power")),
)
"""Other libraries' names of an option, and its possible names here, the likeliest first."""

_KEY = "give a key, such as jax.random.key(0)"
_CONVERT = "convert it with jnp.asarray(...)"


@dataclasses.dataclass(frozen=True)
class Signature:
    """The parameters of a function, read once from its annotations."""

    function: str
    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    arrays: Mapping[str, tuple[type, ...]]
    """Array arguments -> other types they accept, such as None."""
    optional: frozenset[str]
    """Arguments that may be None."""
    defaults: Mapping[str, Any]
    """Options with a default -> the default."""
    takes_more: bool
    """Whether it takes any number of positional arrays."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Signature":
        """Reads the signature of a function."""
        parameters = inspect.signature(function).parameters.values()
        fixed = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
        unions = (typing.Union, types.UnionType)
        known = {p.name: get_args(a) if get_origin(a := p.annotation) in unions else (a,) for p in fixed}
        keywords = tuple(p.name for p in fixed if p.kind is p.KEYWORD_ONLY)
        # A keyword that may be a number is a hyper-parameter, with its own check.
        return cls(
            function.__name__,
            tuple(p.name for p in fixed if p.kind is not p.KEYWORD_ONLY),
            keywords,
            {
                name: tuple(kind for kind in kinds if kind is not jax.Array)
                for name, kinds in known.items()
                if jax.Array in kinds and not (name in keywords and {float, int} & {*kinds})
            },
            frozenset(name for name, kinds in known.items() if type(None) in kinds),
            {p.name: p.default for p in fixed if p.kind is p.KEYWORD_ONLY and p.default is not p.empty},
            len(fixed) < len(parameters),
        )

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raises TypeError for unknown arguments, and for array arguments that are not arrays."""
        if len(args) > len(self.positional) and not self.takes_more:
            raise TypeError(self._too_many(len(args)))
        for name, value in zip(self.positional, args, strict=False):
            if not isinstance(value, jax.Array) and name in self.arrays:
                check_convertible(name, value, self.arrays[name])
        for name, value in kwargs.items():
            if not isinstance(value, jax.Array) and name in self.arrays:
                check_convertible(name, value, self.arrays[name])
            elif name not in self.keywords and name not in self.positional:
                raise TypeError(self._unknown(name))

    def _too_many(self, count: int) -> str:
        arrays, options = _listed(self.positional), _listed([f"{name}=" for name in self.keywords])
        by_name = f"; options are given by name: {options}" if options else ""
        return f"{self.function}() takes {len(self.positional)} by position, {arrays}, got {count}{by_name}"

    def _unknown(self, word: str) -> str:
        start, names = f"{self.function}() has no argument {word!r}", (*self.positional, *self.keywords)
        here = [name for words, ours in SAME if word in words for name in ours if name in names]
        if here:
            return f"{start}; it is {here[0]}= here"
        if word in SENTENCES:
            return f"{start}; {SENTENCES[word]}"
        close = difflib.get_close_matches(word, names, n=2, cutoff=0.6)
        if close:
            return f"{start}; did you mean {' or '.join(f'{name}=' for name in close)}?"
        options = f" and the options {_listed(self.keywords)}" if self.keywords else " and no options"
        return f"{start}; it takes {_listed(self.positional)}{options}"


def check_convertible(name: str, value: Any, others: tuple[type, ...]) -> None:
    """Raises unless the value is a JAX array, a NumPy array of numbers or of one of the other types."""
    if isinstance(value, others) or (float in others and isinstance(value, int)):
        return
    if value is None:
        raise TypeError(f"{name} must be an array, got None")
    if not isinstance(value, np.ndarray | np.generic):
        remedy = _KEY if name == "key" else _CONVERT
        raise TypeError(f"{name} must be an array, got {_shown(value)}; {remedy}")
    if value.dtype.kind in "OSUMm":
        raise TypeError(f"{name} must be an array of numbers, got dtype {value.dtype} (shape {value.shape})")


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r}" if isinstance(value, int | float | str) else type(value).__name__


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
