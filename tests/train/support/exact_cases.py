"""Objectives with a loss and gradient that must not depend on the split of a batch, and both written plainly.

`EXPERIMENTS` has those of all experiments, `SMALL` others made to break what is easily broken. `together` makes one
objective of several, so that a split of the batch costs one compilation and not one an objective.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lossfns
from experiments import bert_pretrain, causal_lm, simclr, toy_classifier
from experiments.evaluation import few_shot
from experiments.models.transformer import Bert, CausalLM, Classifier, TransformerConfig
from experiments.models.vision import AugmentConfig, EncoderConfig
from train import Term, build_train_step, create_state, data_parallel, microbatched, penalty, term
from train.objective import Context, Objective

SIZE = 64  # 8 devices times 8 micro-batches
BACKENDS = {
    "jit": {"backend": "jit"},
    "pmap": {"backend": "pmap"},
    "shard_map": {"backend": "shard_map", "check_vma": True},
    "shard_map unchecked": {"backend": "shard_map", "check_vma": False},
}
RNG = np.random.default_rng(0)
ROWS = np.arange(SIZE)
# With 8 devices, those from the sixth on have nothing valid; with 8 micro-batches, the fourth has nothing.
VALID = (RNG.random(SIZE) < 0.7) & (ROWS < 40) & (ROWS % 8 != 3)
TINY = TransformerConfig(width=8, depth=1, heads=2)
LENGTH, VOCABULARY = 6, 13


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective with all that a step of it needs.

    `coupled` rows see the others of their micro-batch, so that each micro-batch is a batch of its own. A model that
    computes in float32 whatever it is given has a reference of that precision, `double` False.
    """

    objective: Objective
    params: Any
    batch: Any
    rates: dict[str, float]
    state: Any = None
    coupled: bool = False
    double: bool = True


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def filled(model: nn.Module, *args: Any, collection: str = "params", **kwargs: Any) -> Any:
    """Random parameters, also where a model starts from zeros, which would have zero gradients."""
    shapes = jax.eval_shape(functools.partial(model.init, **kwargs), jax.random.key(0), *args)[collection]

    def fill(path: Any, leaf: Any) -> np.ndarray:
        if len(leaf.shape) > 1:
            return normal(*leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])).astype(np.float32)
        return 0.2 * normal(*leaf.shape) + (path[-1].key in ("scale", "var"))

    return jax.tree_util.tree_map_with_path(fill, shapes)


# The experiments


def bert() -> Case:
    model, tokens = Bert(TINY, VOCABULARY), RNG.integers(5, VOCABULARY, (SIZE, LENGTH)).astype(np.int32)
    lengths = RNG.integers(2, LENGTH + 1, (SIZE, 1))
    batch = {
        "tokens": tokens,
        "valid": np.arange(LENGTH) < lengths,
        "segments": (np.arange(LENGTH) >= lengths // 2).astype(np.int32),
        "masked": (RNG.random((SIZE, LENGTH)) < 0.4) & VALID[:, None],
        "labels": RNG.integers(5, VOCABULARY, (SIZE, LENGTH)).astype(np.int32),
        "is_next": RNG.integers(0, 2, SIZE).astype(np.int32),
    }
    one = tokens[:1]
    params = filled(model, one, valid=one > 0, segments=one * 0, positions=one[:, :1])
    objective = bert_pretrain.make_objective(model, np.ones(VOCABULARY, int), 3)
    return Case(objective, params, batch, {"mlm": 1.0, "nsp": 0.5}, double=False)


def fine_tuning() -> Case:
    model, tokens = Classifier(TINY, VOCABULARY, 3), RNG.integers(5, VOCABULARY, (SIZE, LENGTH)).astype(np.int32)
    valid = np.arange(LENGTH) < RNG.integers(1, LENGTH + 1, (SIZE, 1))
    batch = {"tokens": tokens, "valid": valid, "label": RNG.integers(0, 3, SIZE).astype(np.int32)}
    params = filled(model, tokens[:1], valid=valid[:1])
    return Case(few_shot.make_objective(model), params, batch, {"loss_group": 1.0}, double=False)


def causal() -> Case:
    model, tokens = CausalLM(TINY, VOCABULARY), RNG.integers(5, VOCABULARY, (SIZE, LENGTH)).astype(np.int32)
    valid = (np.arange(LENGTH) < RNG.integers(0, LENGTH + 1, (SIZE, 1))) & VALID[:, None]
    segment_ids = np.where(valid, 1 + (np.arange(LENGTH) >= RNG.integers(2, LENGTH, (SIZE, 1))), 0).astype(np.int32)
    batch = {"tokens": tokens, "valid": valid, "segment_ids": segment_ids, "bytes": valid.sum(1).astype(np.int32)}
    params = filled(model, tokens[:1], valid=valid[:1])
    return Case(causal_lm.make_objective(model), params, batch, {"next_token": 1.0}, double=False)


def images(method: str, chunks: int = 1) -> Case:
    """Without augmentation, because its keys differ by micro-batch and device.

    Of 3 channels some pixel has the same value in all, and embeddings of noise are nearly equal: rounding errors then
    grow by a thousand, on one device as well. So there are more channels, and images that differ.
    """
    config = simclr.Config(
        model=EncoderConfig(channels=(8,), features=16, projection=8),
        augment=AugmentConfig(0.0, 0.0, 0.0, 0.0),
        encoder_chunks=chunks,
    )
    drawn = 255 * (RNG.random((SIZE, 4, 4, 1)) < 0.3)
    batch = {
        "view_a": drawn.astype(np.uint8),
        "view_b": (0.7 * drawn + 20).astype(np.uint8),
        "label": RNG.integers(0, 3, SIZE).astype(np.int32),
    }
    model = simclr.make_model(config, method, 3)
    params = filled(model, jnp.zeros((1, 4, 4, 1)))
    rates = {"nt_xent" if method == "SimCLR" else "cross_entropy": 1.0}
    return Case(simclr.make_objective(model, method, config, 255.0), params, batch, rates, coupled=method == "SimCLR")


def toy() -> Case:
    model = toy_classifier.make_model(toy_classifier.Config(hidden=4), "he_normal")
    x = normal(SIZE, 1)
    batch = {"x": x, "y": (x[:, 0] > 0.2).astype(np.float32), "valid": VALID}
    return Case(toy_classifier.make_objective(model), filled(model, x), batch, {"bce": 1.0})


# Made to break what is easily broken


def regression_batch() -> dict[str, np.ndarray]:
    cell = RNG.random((SIZE, 3)) * (RNG.random((SIZE, 3)) < np.linspace(0.05, 1, SIZE)[:, None])
    return {"x": normal(SIZE, 4), "y": normal(SIZE, 3), "row": VALID, "cell": cell.astype(np.float32)}


def masked() -> Case:
    """Uneven masks."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        error = jnp.tanh(batch["x"] @ params["w"]) - batch["y"]
        return {"square": Term(jnp.sum(error**2, -1), batch["row"])}

    return Case(objective, {"w": normal(4, 3)}, regression_batch(), {"square": 1.0})


def several() -> Case:
    """Tasks with a denominator each, on parameters that they share."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        hidden = jnp.tanh(batch["x"] @ params["w"])
        labels = batch["y"].argmax(-1)
        return {
            "class": term(lossfns.softmax_cross_entropy, hidden @ params["v"], labels, where=batch["row"]),
            "quartic": Term((hidden - batch["y"]) ** 4, batch["cell"]),
            "decay": penalty(jnp.sum(params["w"] ** 2)),
        }

    rates = {"class": 1.0, "quartic": 0.5, "decay": 0.1}
    return Case(objective, {"w": normal(4, 3), "v": normal(3, 3)}, regression_batch(), rates)


def self_weighing() -> Case:
    """A metric that counts only where the model is sure of itself."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        error = batch["x"] @ params["w"] - batch["y"]
        return {
            "absolute": Term(jnp.sum(jnp.sqrt(error**2 + 1), -1), batch["row"]),
            "confident": Term(error[:, 0] ** 2, jnp.abs(error[:, 1]) < 1),
            "soft": Term(error, jax.nn.sigmoid(error)),
        }

    return Case(objective, {"w": normal(4, 3)}, regression_batch(), {"absolute": 1.0})


def contrastive(chunks: int = 1) -> Case:
    """Negatives from the whole micro-batch, over all devices; the encoder in parts."""

    def encode(params: Any, rows: Any) -> Any:
        return {"z": jnp.tanh(rows @ params["w"]) @ params["v"]}

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        run = microbatched(encode, chunks)
        a, b = run(params, batch["x"])["z"], run(params, batch["x"] + batch["noise"])["z"]
        return {"nt_xent": term(lossfns.nt_xent, a, b, temperature=0.5, axis_name=ctx.axis_name)}

    params = {"w": normal(4, 5), "v": normal(5, 3)}
    batch = {"x": normal(SIZE, 4), "noise": 0.3 * normal(SIZE, 4)}
    return Case(objective, params, batch, {"nt_xent": 1.0}, coupled=True)


class Normalised(nn.Module):
    """A batch norm between two layers."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        hidden = nn.Dense(5)(x)
        norm = nn.BatchNorm(use_running_average=False, axis_name=self.axis_name, use_fast_variance=False)
        return nn.Dense(3)(jnp.tanh(norm(hidden)))


def batch_statistics() -> Case:
    """Statistics of the micro-batch over all devices, through which gradients flow, and their running average."""

    def objective(params: Any, batch: Any, ctx: Context) -> tuple[dict[str, Term], Any]:
        variables = {"params": params, "batch_stats": ctx.state["batch_stats"]}
        out: Any
        out, new = Normalised(ctx.axis_name).apply(variables, batch["x"], mutable=["batch_stats"])
        return {"square": Term(jnp.sum((out - batch["y"]) ** 2, -1), batch["row"])}, dict(new)

    params = filled(Normalised(), normal(2, 4))
    state = {"batch_stats": filled(Normalised(), normal(2, 4), collection="batch_stats")}
    return Case(objective, params, regression_batch(), {"square": 1.0}, state=state, coupled=True)


EXPERIMENTS = {
    "bert_pretrain": bert(),
    "few_shot": fine_tuning(),
    "causal_lm": causal(),
    "simclr": images("SimCLR"),
    "simclr in chunks": images("SimCLR", chunks=2),
    "simclr, supervised": images("supervised"),
    "toy_classifier": toy(),
}
SMALL = {
    "masked": masked(),
    "several": several(),
    "self-weighing": self_weighing(),
    "contrastive": contrastive(),
    "batch statistics": batch_statistics(),
}
CASES = EXPERIMENTS | SMALL


def together(cases: dict[str, Case]) -> Case:
    """One objective of several, each with parameters, rows and state of its own; a term is called CASE/TERM."""

    def objective(params: Any, batch: Any, ctx: Context) -> Any:
        terms, states = {}, dict(ctx.state)
        for name, case in cases.items():
            found = case.objective(params[name], batch[name], dataclasses.replace(ctx, state=ctx.state[name]))
            if isinstance(found, tuple):
                found, states[name] = found
            terms |= {f"{name}/{term}": value for term, value in found.items()}
        return terms, states

    return Case(
        objective,
        {name: case.params for name, case in cases.items()},
        {name: case.batch for name, case in cases.items()},
        {f"{name}/{term}": rate for name, case in cases.items() for term, rate in case.rates.items()},
        state={name: case.state for name, case in cases.items()},
    )


@functools.cache
def reference(name: str, groups: int = 1) -> tuple[dict[str, tuple[float, float]], Any, Any]:
    """Sums of all terms, gradient and new state of a case, the whole batch on one device.

    A micro-batch of coupled rows is a group of its own, and the groups are taken one after the other. Nothing of the
    train step is used: values times weights are added up, then divided.
    """
    case = CASES[name]

    def loss(params: Any, state: Any) -> Any:
        found: dict[str, list[Any]] = {}
        for group in range(groups):
            rows = jax.tree.map(lambda x, g=group: jnp.asarray(x[g::groups]), case.batch)
            ctx = Context(jax.random.key(0), jnp.zeros((), jnp.int32), state=state)
            terms = case.objective(params, rows, ctx)
            terms, state = terms if isinstance(terms, tuple) else (terms, state)
            for key, given in terms.items():
                values = jnp.asarray(given.values) * 1.0
                weights = jnp.ones(()) if given.weights is None else jax.lax.stop_gradient(given.weights * 1.0)
                weights = jnp.broadcast_to(weights, values.shape)
                found.setdefault(key, []).append((jnp.sum(values * weights), jnp.sum(weights)))
        sums = {key: tuple(sum(column) for column in zip(*pairs, strict=True)) for key, pairs in found.items()}
        return sum(rate * sums[key][0] / sums[key][1] for key, rate in case.rates.items()), (sums, state)

    with jax.enable_x64(case.double):
        dtype = jnp.float64 if case.double else jnp.float32
        params, state = jax.tree.map(lambda x: jnp.asarray(x, dtype), (case.params, case.state))
        grads, (sums, new) = jax.jit(jax.grad(loss, has_aux=True))(params, state)
        return jax.tree.map(np.asarray, (sums, grads, new))


# Its updates are nothing, and its state is the gradient that it was given: after a descent of one step it could only
# be had with the rounding of the parameters.
KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def take_step(case: Case, devices: int, accumulate: int, backend: str) -> tuple[Any, Any]:
    """State and metrics of one step; the state's `opt_state` is the gradient."""
    step = build_train_step(case.objective, KEEP, loss_weights=case.rates, accumulate=accumulate)
    step = data_parallel(step, devices=jax.devices()[:devices], **BACKENDS[backend])
    # Waited for: steps in flight on more devices than cores can deadlock.
    return jax.block_until_ready(step(create_state(case.params, KEEP, key=0, state=case.state), case.batch))


def deviation(found: Any, expected: Any) -> float:
    """Length of the difference of two trees over the length of the expected one."""
    pairs = [
        (np.float64(a), np.float64(b)) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ]
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(b**2) for _, b in pairs)))
