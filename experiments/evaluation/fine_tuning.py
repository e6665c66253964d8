"""Ways to fine-tune a text classifier from a pretrained encoder, each as one program for all its runs.

`full` trains all parameters, `lora` adapters of the matrices and the head, `layers` all parameters with lower rates in
lower layers. The head starts at 0, so at first all classes are equally likely.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.halves import pack
from experiments.data.labelled import one_line
from experiments.data.tokenizers import PAD, Tokenizer
from experiments.models.transformer import Classifier
from train.errors import UsageError
from train.objective import Context, Objective, Term
from train.objectives.lora import lora_init, lora_merge

CHUNK = 128
"""Number of texts encoded at once."""


@dataclasses.dataclass(frozen=True)
class AdaptConfig:
    """Settings of the ways to fine-tune."""

    rank: int = 4
    """Rank of the adapters."""
    alpha: float = 8.0
    """Scale of the adapters: W + alpha / rank A B."""
    pattern: str = "block.*kernel"
    """Regular expression for the paths of the encoder's matrices that get adapters."""
    layer_decay: float = 0.5
    """Learning rate of a layer relative to the layer above; the head has the full rate."""


def start(model: Classifier, encoder: Any, adapt: AdaptConfig, way: str, key: jax.Array) -> Any:
    """Initial parameters of a way ("full", "lora" or "layers"); without an encoder it is random."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    params: Any = model.init(key, tokens, valid=tokens == 0)["params"]
    if encoder is None:
        return params
    if way == "lora":
        return {"adapters": lora_init(encoder, adapt.rank, adapt.pattern, key), "head": params["head"]}
    return {"encoder": encoder, "head": params["head"]}


def whole(params: Any, encoder: Any, adapt: AdaptConfig) -> Any:
    """The parameters of the whole classifier, also if only adapters of the encoder were trained."""
    if "adapters" not in params:
        return params
    return {"encoder": lora_merge(encoder, params["adapters"], alpha=adapt.alpha), "head": params["head"]}


def adapted(objective: Objective, encoder: Any, adapt: AdaptConfig) -> Objective:
    """An objective of the classifier as a function of the trained parameters."""

    def of_trained(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        terms: Any = objective(whole(params, encoder, adapt), batch, ctx)
        return dict(terms)

    return of_trained


def padded(tokens: np.ndarray) -> np.ndarray:
    """Tokens [N, T] as blocks [M, CHUNK, T]; the last is filled with its first rows."""
    rows = np.resize(np.arange(len(tokens)), -(-len(tokens) // CHUNK) * CHUNK)
    return tokens[rows].reshape(-1, CHUNK, tokens.shape[1])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(model: Classifier, method: str, params: Any, blocks: jax.Array) -> jax.Array:
    def of_block(tokens: jax.Array) -> jax.Array:
        found: Any = model.apply({"params": params}, tokens, valid=tokens != PAD, method=method)
        return found

    found: jax.Array = jax.lax.map(of_block, blocks)
    return found


def outputs(model: Classifier, method: str, params: Any, tokens: np.ndarray) -> np.ndarray:
    """Applies a method of the classifier ("__call__", "features") to tokens [N, T]."""
    found = np.asarray(_apply(model, method, params, padded(tokens)))
    return found.reshape(-1, found.shape[-1])[: len(tokens)]


def probabilities(model: Classifier, params: Any, tokens: np.ndarray) -> np.ndarray:
    """Probabilities [N, K] of tokens [N, T], in float64."""
    logits = outputs(model, "__call__", params, tokens).astype(np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shares / shares.sum(-1, keepdims=True))


def draw(label: np.ndarray, count: int, seed: int, number: int) -> np.ndarray:
    """Rows of `count` labelled examples, stratified by class; successive draws overlap only once all rows are used.

    Args:
        label: [N], the labels of all rows.
        count: Number of rows, at most N.
        seed: Seed of the order of the rows.
        number: Number of the draw: its block in that order.

    >>> label = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> first, second = (draw(label, 4, 0, number) for number in (0, 1))
    >>> np.bincount(label[first]).tolist(), sorted({*first.tolist(), *second.tolist()}) == list(range(8))
    ([2, 2], True)
    """
    order = np.random.default_rng([seed, 4]).permutation(len(label))
    place = np.empty(len(label))
    for k in np.unique(label):
        members = order[label[order] == k]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    ranked = order[np.argsort(place[order], kind="stable")]
    return ranked[(number * count + np.arange(count)) % len(label)]


def count_trained(params: Any) -> int:
    """Number of parameters."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))


class TextClassifier(Classifier):
    """A classifier with the names of its classes and the number of tokens that it reads."""

    classes: tuple[str, ...] = ()
    seq_len: int = 0


def classify(model: TextClassifier, params: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Probabilities [N, K] of the classes of texts."""
    lines = [one_line(text) for text in texts]
    return probabilities(model, params, pack(tokenizer.encode_all(lines), model.seq_len))


def answers(model: TextClassifier, params: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """A line for each text: the predicted class, its probability, and the text."""
    if not isinstance(model, TextClassifier):
        raise UsageError(
            "the model in --workdir classifies no texts; give the folder of a finished text_classification"
        )
    found = classify(model, params, tokenizer, texts)
    width = max(map(len, model.classes))
    lines = zip(found.argmax(-1), found.max(-1), texts, strict=True)
    return "\n".join(f"{model.classes[k]:<{width}}  {share:.3f}  {text}" for k, share, text in lines)


def predictions_csv(texts: Sequence[str], labels: np.ndarray, found: np.ndarray, classes: Sequence[str]) -> str:
    """A table of texts with the true class, the predicted class, and the probability of each class.

    >>> print(predictions_csv(["so, so"], np.array([0]), np.array([[0.25, 0.75]]), ("bad", "good")))
    text,label,predicted,probability of bad,probability of good
    "so, so",bad,good,0.2500,0.7500
    <BLANKLINE>
    """
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["text", "label", "predicted", *(f"probability of {name}" for name in classes)])
    for text, label, row in zip(texts, labels, found, strict=True):
        writer.writerow([text, classes[label], classes[int(row.argmax())], *(f"{share:.4f}" for share in row)])
    return page.getvalue()
