"""The losses that studies train with, and a figure for each: a loss is in use if a committed summary has a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.study.report import mean_and_spread
from train.records.report import Table


class Use(NamedTuple):
    """Networks of a study trained with a loss."""

    loss: str
    study: str
    metric: str
    setting: dict[str, Any]
    """Values that identify their rows in the summary."""


def _of(study: str, metric: str, losses: Mapping[str, str], **common: Any) -> list[Use]:
    """The uses of losses in a study, by method."""
    return [Use(loss, study, metric, {"method": method, **common}) for loss, method in losses.items()]


_RARE = {
    "softmax_cross_entropy": "cross-entropy",
    "class_balanced_weights": "class-balanced",
    "focal": "focal",
    "logit_adjusted": "logit-adjusted",
    "balanced_softmax": "balanced softmax",
    "ldam": "LDAM",
    "asymmetric": "asymmetric",
    "soft_f1": "soft F1",
    "dice": "Dice",
    "tversky": "Tversky",
    "lovasz_softmax": "Lovasz",
}
_WRONG = {
    "softmax_cross_entropy": "cross-entropy",
    "generalized_cross_entropy": "GCE",
    "symmetric_cross_entropy": "SCE",
    "normalized_active_passive": "active-passive",
    "bi_tempered": "bi-tempered",
    "bootstrapped": "bootstrapped",
    "forward_corrected": "forward-corrected",
    "early_learning": "ELR",
}
_OUTLIERS = {
    "squared_error": "MSE",
    "absolute_error": "MAE",
    "huber": "Huber",
    "tukey_biweight": "Tukey",
    "charbonnier": "Charbonnier",
    "barron": "Barron, shape 0",
    "adaptive_barron": "Barron, adaptive",
}
_HOUSES = {
    "squared_error": "the usual pipeline",
    "absolute_error": "MAE",
    "huber": "Huber",
    "log_cosh": "log-cosh",
    "gaussian_nll": "Gaussian likelihood",
    "poisson_nll": "Poisson likelihood",
    "elastic_net": "elastic net",
}
_SURFACES = {
    "squared_error": "MSE, SGD",
    "sigmoid_cross_entropy": "cross-entropy, SGD",
    "sigmoid_focal": "focal, SGD",
    "bi_tempered": "bi-tempered, SGD",
}
_MASKED = {
    "masked_lm": "MLM",
    "frequency_weighted": "frequency-weighted",
    "unlikelihood": "unlikelihood",
}
_LEVELS = {
    "hierarchical_cross_entropy": "+ words",
    "soft_cross_entropy": "+ phrases",
    "info_nce": "+ sentences",
}
_NAMES = {
    "info_nce": "InfoNCE",
    "nt_xent": "NT-Xent",
    "decoupled_contrastive": "decoupled",
    "hard_negative_contrastive": "hard negatives",
    "supcon": "SupCon",
}
_TREES = {
    "arc_cross_entropy": "arc cross-entropy",
    "dependency_tree_crf": "tree CRF",
    "tree_smoothness": "tags + tree smoothness",
    "softmax_cross_entropy": "tags",
}
_REVIEWS = {
    "masked_lm": "pretrained by masks alone",
    "nt_xent": "pretrained",
    "softmax_cross_entropy": "from scratch",
}
IN_USE: tuple[Use, ...] = (
    *_of("bert_pretrain", "mlm", {"masked_lm": "pretraining"}),
    *_of("bert_pretrain", "nsp", {"next_sentence": "pretraining"}),
    *_of("bert_pretrain", "accuracy", {"softmax_cross_entropy": "from scratch"}, test="new books", labels=128),
    *_of("causal_lm", "test_bits_per_byte", {"next_token": "network"}),
    *_of("causal_variants", "test_bits_per_byte", {"softmax_cross_entropy": "z-loss"}, rate="own best"),
    *_of("causal_variants", "test_bits_per_byte", {"multi_token_prediction": "two tokens"}, rate="own best"),
    *_of("hierarchical_lm", "bits_per_char", _LEVELS),
    *_of("imbalance", "balanced_accuracy", _RARE, data="digits"),
    *_of("landscape", "test_error", _SURFACES),
    *_of("landscape", "shift", {"huber": "Huber", "barron": "Barron, alpha 0"}, share=0.1),
    *_of("minima", "test_error", {"softmax_cross_entropy": "SGD"}),
    *_of("minima", "edge", {"squared_error": "gradient descent"}),
    *_of("mlm_variants", "masked_accuracy", _MASKED),
    *_of("mlm_variants", "books_128", {"replaced_token_detection": "replaced tokens"}),
    *_of("mlm_variants", "pair_accuracy", {"next_sentence": "MLM + NSP", "sentence_order": "MLM + SOP"}),
    *_of("optimizers", "test_error", {"softmax_cross_entropy": "adam"}, task="digits", batch=64, schedule="constant"),
    *_of("outliers", "error", _OUTLIERS, data="patients", outliers=0.1),
    *_of("robust", "accuracy", _WRONG, noise="symmetric", share=0.4),
    *_of("sentence_embeddings", "recall_at_1", _NAMES, to="other scripts"),
    *_of("simclr", "accuracy", {"nt_xent": "SimCLR", "softmax_cross_entropy": "supervised"}, labels=9),
    *_of("speech_ctc", "cer", {"ctc": "CTC", "softmax_cross_entropy": "frame-wise", "rnn_transducer": "RNN-T"}),
    *_of("syntax_tree", "uuas", _TREES, trained_on="all trees", text="web"),
    *(Use(loss, "tabular", "rmse", {"task": "regression", "arm": arm}) for loss, arm in _HOUSES.items()),
    Use("quantile", "tabular", "quantile_loss", {"task": "regression", "arm": "quantile 0.9"}),
    Use("expectile", "tabular", "expectile_loss", {"task": "regression", "arm": "expectile 0.9"}),
    Use("sigmoid_cross_entropy", "tabular", "accuracy", {"task": "classification", "arm": "the usual pipeline"}),
    *_of("text_classification", "accuracy", _REVIEWS, labels=1000),
    *_of("toy_classifier", "test_accuracy", {"sigmoid_cross_entropy": "he_normal"}, labels="dependent"),
)
"""Without helper functions (`next_token_where`, `pool_spans`) and losses used only as metrics."""


def figures_of(use: Use, summary: Mapping[str, Any]) -> list[float]:
    """The finite values of the metric in the rows of a summary that agree with the setting."""
    rows = [row for row in summary["runs"] if use.setting.items() <= row.items()]
    values = [row[use.metric] for row in rows if row.get(use.metric) is not None]
    return [float(value) for value in values if np.isfinite(value)]


def table_of(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Loss, study, networks and mean metric of each use of a loss with a figure in the summaries."""
    lines = []
    for use in sorted(IN_USE, key=lambda use: use.loss):
        figures = figures_of(use, summaries[use.study]) if use.study in summaries else []
        if figures:
            who = ", ".join(v if isinstance(v, str) else f"{name} {v:g}" for name, v in use.setting.items())
            lines.append([use.loss, use.study, who, f"{use.metric} {mean_and_spread(figures)} ({len(figures)})"])
    return Table(["loss", "study", "trained with it", "figure"], lines)
