"""Which function of torch is which loss here. It imports no torch: each call gets `torch.nn.functional` as F."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tests.cases._shared import HEAD


@dataclasses.dataclass(frozen=True)
class Call:
    """A case of `tests.cases`, our options, and the same in torch: one value for each row."""

    row: str
    torch: Callable[..., Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    differentiable: tuple[int, ...] = (0,)


def _per_token(F, logits, tokens, **options):
    return F.cross_entropy(logits.transpose(1, -1), tokens.long(), reduction="none", **options)


def _ctc(F, logits, labels, frames, lengths):
    log_p = logits.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(
        log_p, labels.long(), frames.long(), lengths.long(), blank=0, reduction="none", zero_infinity=True
    )


def _info_nce(F, a, b, scale):
    return F.cross_entropy(scale * a @ b.T, _numbers(F, a), reduction="none")


def _clip(F, a, b):
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return (_info_nce(F, a, b, 1 / 0.07) + _info_nce(F, b, a, 1 / 0.07)) / 2


def _nt_xent(F, a, b):
    """Both views as anchors; the similarity with itself is taken out of the softmax."""
    z = F.normalize(F.pad(a[:, None], (0, 0, 0, 1)) + F.pad(b[:, None], (0, 0, 1, 0)), dim=-1).reshape(-1, a.shape[1])
    scores = z @ z.T / 0.5
    scores = scores.masked_fill(scores.new_ones(scores.shape).triu().tril() > 0, float("-inf"))
    partners = _numbers(F, z) + 1 - 2 * (_numbers(F, z) % 2)
    return F.cross_entropy(scores, partners, reduction="none").reshape(-1, 2).mean(-1)


def _numbers(F, x):
    return F.one_hot(x.new_ones(len(x)).cumsum(0).long() - 1).argmax(-1)


def _fake_quantize(F, x):
    import torch

    return torch.fake_quantize_per_tensor_affine(x, 0.5, 0, -4, 3)


def _moved_grid(F, x):
    import torch

    return torch.fake_quantize_per_tensor_affine(x, 0.5, 12, 0, 15)


def _divergence(F, logits, target_logits):
    return F.kl_div(logits.log_softmax(-1), target_logits.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def _sequence_log_probs(F, logits, tokens, answer):
    values = -_per_token(F, logits[:, :-1], tokens[:, 1:])
    return (values * answer[:, 1:]).sum(-1)


def _dpo(F, chosen, rejected, reference_chosen, reference_rejected):
    return -F.logsigmoid(0.1 * ((chosen - rejected) - (reference_chosen - reference_rejected)))


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
    "smooth_l1": Call(
        "smooth_l1", lambda F, p, t: F.smooth_l1_loss(p, t, reduction="none", beta=0.5), {"beta": 0.5}, (0, 1)
    ),
    "gaussian_nll": Call(
        "gaussian_nll",
        lambda F, p, v, t: F.gaussian_nll_loss(p, t, v.exp(), full=True, reduction="none"),
        {"full": True},
        (0, 1, 2),
    ),
    "poisson_nll": Call("poisson_nll", lambda F, x, t: F.poisson_nll_loss(x, t, reduction="none")),
    "cosine_distance": Call(
        "cosine_distance",
        lambda F, p, t: F.cosine_embedding_loss(p, t, p.new_ones(len(p)), reduction="none"),
        differentiable=(0, 1),
    ),
    "multiclass_hinge": Call(  # torch divides by the number of classes
        "multiclass_hinge",
        lambda F, x, y: F.multi_margin_loss(x, y.long(), reduction="none") * x.shape[-1],
        {"form": "weston_watkins"},
    ),
    "kl_divergence": Call("kl_divergence", _divergence, differentiable=(0, 1)),
    "knowledge_distillation": Call(
        "knowledge_distillation", lambda F, s, t: 16 * _divergence(F, s / 4, t / 4), {"temperature": 4.0}
    ),
    "reverse_kl": Call("reverse_kl", lambda F, s, t: _divergence(F, t, s)),
    "entropy_bonus": Call("entropy_bonus", lambda F, x: (x.softmax(-1) * x.log_softmax(-1)).sum(-1)),
    "fitnet_hint": Call(
        "fitnet_hint",
        lambda F, s, t: F.mse_loss(s, t, reduction="none").mean((1, 2)),
        {"half": False, "average": True},
    ),
    "byol": Call("byol", lambda F, p, t: 2 - 2 * F.cosine_similarity(p, t, dim=-1)),
    "simsiam": Call("simsiam", lambda F, p, t: -F.cosine_similarity(p, t, dim=-1)),
    "next_sentence": Call("next_sentence", lambda F, x, y: F.cross_entropy(x, 1 - y.long(), reduction="none")),
    "replaced_token_detection": Call(
        "replaced_token_detection",
        lambda F, x, tokens, original: F.binary_cross_entropy_with_logits(
            x, (tokens != original).to(x.dtype), reduction="none"
        ),
    ),
    "ctc": Call("ctc", _ctc, {"zero_infinity": True}),
    "info_nce": Call("info_nce", lambda F, q, k: _info_nce(F, q, k, 1.0), differentiable=(0, 1)),
    "clip": Call("clip", _clip, differentiable=(0, 1)),
    "nt_xent": Call("nt_xent", _nt_xent, differentiable=(0, 1)),
    "sequence_log_probs": Call("sequence_log_probs", _sequence_log_probs),
    "dpo": Call("dpo", _dpo, differentiable=(0, 1)),
    "bradley_terry": Call("bradley_terry", lambda F, c, r: -F.logsigmoid(c - r), differentiable=(0, 1)),
    "slic_hinge": Call(
        "slic_hinge",
        lambda F, c, r: F.margin_ranking_loss(c, r, c.new_ones(c.shape), margin=1.0, reduction="none"),
        differentiable=(0, 1),
    ),
    "linear_cross_entropy": Call(
        "linear_cross_entropy",
        lambda F, h, y: F.cross_entropy(F.linear(h, h.new_tensor(HEAD)), y.long(), reduction="none"),
    ),
    "fake_quantize": Call("fake_quantize", _fake_quantize, {"bits": 3, "scale": 0.5}),
    "fake_quantize, moved": Call(
        "fake_quantize", _moved_grid, {"bits": 4, "scale": 0.5, "zero_point": 12, "signed": False}
    ),
}
