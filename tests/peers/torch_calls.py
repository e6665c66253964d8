"""Which function of torch is which loss here. It imports no torch: each call gets `torch.nn.functional` as F."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Call:
    """A row of the loss table, our options, and the same in torch: one value for each row."""

    row: str
    torch: Callable[..., Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    differentiable: tuple[int, ...] = (0,)


def _per_token(F, logits, tokens, **options):
    return F.cross_entropy(logits.transpose(1, -1), tokens.long(), reduction="none", **options)


def _next_token(F, logits, tokens):
    return F.pad(_per_token(F, logits[:, :-1], tokens[:, 1:]), (1, 0))


CALLS = {
    "softmax_cross_entropy": Call(
        "softmax_cross_entropy", lambda F, x, y: F.cross_entropy(x, y.long(), reduction="none")
    ),
    "softmax_cross_entropy, smoothed": Call(
        "softmax_cross_entropy",
        lambda F, x, y: F.cross_entropy(x, y.long(), reduction="none", label_smoothing=0.1),
        {"label_smoothing": 0.1},
    ),
    "soft_cross_entropy": Call(
        "soft_cross_entropy", lambda F, x, t: F.cross_entropy(x, t, reduction="none"), differentiable=(0, 1)
    ),
    "sigmoid_cross_entropy": Call(
        "sigmoid_cross_entropy", lambda F, x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none")
    ),
    "sigmoid_cross_entropy, weighted": Call(
        "sigmoid_cross_entropy",
        lambda F, x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none", pos_weight=x.new_tensor(3.0)),
        {"positive_weight": 3.0},
    ),
    "masked_lm": Call("masked_lm", _per_token),
    "next_token": Call("next_token", _next_token),
    "squared_error": Call("squared_error", lambda F, p, t: F.mse_loss(p, t, reduction="none"), differentiable=(0, 1)),
    "absolute_error": Call("absolute_error", lambda F, p, t: F.l1_loss(p, t, reduction="none"), differentiable=(0, 1)),
    "huber": Call("huber", lambda F, p, t: F.huber_loss(p, t, reduction="none"), differentiable=(0, 1)),
    "huber, narrow": Call(
        "huber", lambda F, p, t: F.huber_loss(p, t, reduction="none", delta=0.5), {"delta": 0.5}, (0, 1)
    ),
}
