"""Train steps of common models, compiled for devices that this machine lacks.

Each is compiled from shapes alone. `STEPS` names them; `compile_step` compiles one for a target.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import lossfns
from experiments.benchmarks.scaling import MODELS
from experiments.benchmarks.targets import TARGETS
from experiments.models.transformer import SHARDING_RULES, Bert, CausalLM, Dense, Encoder, TransformerConfig, mean_over
from experiments.models.vit import ViT
from train.devices.mesh import BATCH_AXES, make_mesh
from train.devices.sharding import state_shardings
from train.microbatch import microbatched
from train.objective import Context, Objective, term
from train.optimizers import OptimizerConfig, make_optimizer
from train.parallel import data_parallel
from train.state import create_state
from train.step import build_train_step

Shapes = Mapping[str, jax.ShapeDtypeStruct]
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BASE = TransformerConfig(width=768, depth=12, heads=12)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with its loss and a batch.

    Attributes:
        init: Makes its parameters.
        objective: Maps a mesh (or None) to the objective.
        batch: Maps a number of examples to the shapes of a batch.
    """

    init: Callable[[], Any]
    objective: Callable[[Any], Objective]
    batch: Callable[[int], Shapes]


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def on_mesh(loss: Callable[..., Any], mesh: Any) -> Callable[..., Any]:
    """A loss of hidden states, head and labels on a mesh: rows stay on their devices, the vocabulary on `tensor`.

    Only the head is gathered, over `fsdp`. Without a mesh, returns the loss itself.
    """
    if mesh is None:
        return loss
    rows = P(BATCH_AXES)

    def local(hidden: Any, head: Any, labels: Any) -> Any:
        return loss(hidden, head, labels, axis_name="tensor")

    spread: Callable[..., Any] = jax.shard_map(local, mesh=mesh, in_specs=(rows, P("tensor"), rows), out_specs=rows)
    return spread


def gpt(name: str, *, recompute: bool) -> Model:
    """A causal language model of `scaling.MODELS`, with bfloat16 products and the loss from its hidden states."""
    size = MODELS[name]
    config = TransformerConfig(width=size.width, depth=size.depth, heads=size.width // 64, recompute=recompute)
    network = CausalLM(config, size.vocab, "bfloat16")

    def objective(mesh: Any) -> Objective:
        loss = on_mesh(lossfns.linear_cross_entropy, mesh)

        def of_batch(params: Any, batch: Any, ctx: Context) -> Any:
            tokens = batch["tokens"]
            hidden: Any = network.apply(
                {"params": params}, tokens[:, :-1], valid=tokens[:, :-1] >= 0, train=True, method=_hidden
            )
            head = params["encoder"]["embedding"]["embedding"]
            return {"main": term(loss, hidden.astype("bfloat16"), head.astype("bfloat16"), tokens[:, 1:])}

        return of_batch

    def init() -> Any:
        return network.init(jax.random.key(0), jnp.zeros((1, 8), int), valid=jnp.ones((1, 8), bool))["params"]

    return Model(init, objective, lambda count: {"tokens": _ints(count, size.seq_len + 1)})


def _hidden(model: CausalLM, tokens: jax.Array, **options: Any) -> jax.Array:
    return model.encoder(tokens, **options)


def bert() -> Model:
    """BERT base: 512 tokens, 76 of them predicted, and next-sentence prediction."""
    network = Bert(BASE, 30_522, "bfloat16")

    def of_batch(params: Any, batch: Any, ctx: Context) -> Any:
        out: Any = network.apply(
            {"params": params},
            batch["tokens"],
            valid=batch["tokens"] > 0,
            segments=batch["segments"],
            positions=batch["positions"],
            train=True,
        )
        mlm = term(lossfns.masked_lm, out.mlm_logits, batch["labels"], where=batch["labels"] > 0)
        return {"main": mlm, "nsp": term(lossfns.next_sentence, out.nsp_logits, batch["is_next"])}

    def init() -> Any:
        tokens = jnp.zeros((1, 8), int)
        return network.init(jax.random.key(0), tokens, valid=tokens == 0, segments=tokens, positions=tokens[:, :2])[
            "params"
        ]

    def batch(count: int) -> Shapes:
        of_tokens = {name: _ints(count, 512) for name in ("tokens", "segments")}
        return of_tokens | {"positions": _ints(count, 76), "labels": _ints(count, 76), "is_next": _ints(count)}

    return Model(init, lambda mesh: of_batch, batch)


def vit() -> Model:
    """ViT-B/16 on grey images of 224 x 224, with 1,000 classes."""
    network = ViT(BASE, 1_000, 16, "bfloat16")

    def of_batch(params: Any, batch: Any, ctx: Context) -> Any:
        logits: Any = network.apply({"params": params}, batch["image"], True)
        return {"main": term(lossfns.softmax_cross_entropy, logits, batch["label"], label_smoothing=0.1)}

    def init() -> Any:
        return network.init(jax.random.key(0), jnp.zeros((1, 224, 224)))["params"]

    def batch(count: int) -> Shapes:
        return {"image": jax.ShapeDtypeStruct((count, 224, 224), jnp.float32), "label": _ints(count)}

    return Model(init, lambda mesh: of_batch, batch)


class Clip(nn.Module):
    """ViT-B/32 for images and a Transformer of width 512 for captions, both to 512 features."""

    @nn.compact
    def __call__(self, batch: Any) -> tuple[Any, Any]:
        """Features of both."""
        image: Any = ViT(BASE, 512, 32, "bfloat16", name="image")(batch["image"], True)
        config = TransformerConfig(width=512, depth=12, heads=8)
        encoder = Encoder(config, 49_408, causal=True, dtype="bfloat16", name="text")
        tokens = batch["tokens"]
        hidden = encoder(tokens, valid=tokens >= 0, train=True)
        return image, Dense(512, name="project")(mean_over(hidden, tokens > 0))


def clip(chunks: int) -> Model:
    """CLIP ViT-B/32 with its encoders run in chunks, which is exact.

    The features of captions travel from device to device, so that each image is compared with all of them.
    """
    network = Clip()

    def encode(params: Any, rows: Any) -> Any:
        return network.apply({"params": params}, rows)

    def of_batch(params: Any, batch: Any, ctx: Context) -> Any:
        image, text = microbatched(encode, chunks)(params["towers"], batch)
        options: Any = {"axis_name": ctx.axis_name, "ring": ctx.axis_name is not None}
        return {"main": term(lossfns.clip, image, text, scale=jnp.exp(params["log_scale"]), **options)}

    def init() -> Any:
        rows = {"image": jnp.zeros((1, 224, 224)), "tokens": jnp.zeros((1, 8), int)}
        return {"towers": network.init(jax.random.key(0), rows)["params"], "log_scale": jnp.log(1 / 0.07)}

    def batch(count: int) -> Shapes:
        return {"image": jax.ShapeDtypeStruct((count, 224, 224), jnp.float32), "tokens": _ints(count, 77)}

    return Model(init, lambda mesh: of_batch, batch)


@dataclasses.dataclass(frozen=True)
class Step:
    """A model on a target.

    Attributes:
        model: Makes the model.
        target: Name in `TARGETS`.
        examples: Number of examples in a batch, over all devices.
        mesh: Sizes of `fsdp` and `tensor`; None for the backend on devices in a line, with all parameters on each.
        backend: How the step is placed on them.
        checks: Whether the step checks its values.
    """

    model: Callable[[], Model]
    target: str
    examples: int
    mesh: Mapping[str, int] | None = None
    backend: Literal["jit", "shard_map", "pmap"] = "jit"
    checks: bool = False


def small() -> Model:
    """GPT of 124 million parameters."""
    return gpt("125M", recompute=False)


def large() -> Model:
    """GPT of 1.3 billion parameters, with blocks recomputed in the backward pass."""
    return gpt("1.3B", recompute=True)


STEPS = {
    "BERT base, v5e": Step(bert, "v5e", 16),
    "BERT base, 4 v5e, pmap": Step(bert, "4 v5e", 64, backend="pmap"),
    "BERT base, 8 H100, pmap": Step(bert, "8 H100", 256, backend="pmap"),
    "BERT base, 256 v5e": Step(bert, "256 v5e", 4_096, backend="shard_map"),
    "GPT 124M, v5e": Step(small, "v5e", 8),
    "GPT 124M, H100, checks": Step(small, "H100", 32, checks=True),
    "GPT 124M, 8 H100": Step(small, "8 H100", 256, backend="shard_map"),
    "GPT 1.3B, H100": Step(large, "H100", 8),
    "GPT 1.3B, 8 H100, fsdp 8": Step(large, "8 H100", 64, {"fsdp": 8}),
    "GPT 1.3B, 8 H100, fsdp 2 x tensor 4": Step(large, "8 H100", 16, {"fsdp": 2, "tensor": 4}),
    "GPT 1.3B, 256 v5e, fsdp 16": Step(large, "256 v5e", 256, {"fsdp": 16}),
    "GPT 1.3B, 4 v5p, fsdp 4": Step(large, "4 v5p", 16, {"fsdp": 4}),
    "ViT-B/16, v5e": Step(vit, "v5e", 64),
    "ViT-B/16, 8 H100": Step(vit, "8 H100", 1_024, backend="shard_map"),
    "CLIP ViT-B/32, H100": Step(functools.partial(clip, 64), "H100", 32_768),
    "CLIP ViT-B/32, 8 H100": Step(functools.partial(clip, 8), "8 H100", 32_768, backend="shard_map"),
    "CLIP ViT-B/32, v5e": Step(functools.partial(clip, 256), "v5e", 32_768),
    "CLIP ViT-B/32, 256 v5e": Step(functools.partial(clip, 1), "256 v5e", 32_768, backend="shard_map"),
}


def compile_step(step: Step) -> jax.stages.Compiled:
    """Compiles a train step with AdamW, donating its state."""
    model, devices = step.model(), TARGETS[step.target].devices
    mesh = None if step.mesh is None else make_mesh(devices=devices, **step.mesh)
    optimizer = make_optimizer(OptimizerConfig(name="adamw"), 1_000)
    state = jax.eval_shape(lambda: create_state(model.init(), optimizer, key=0))
    made = build_train_step(model.objective(mesh), optimizer, loss_weights={"main": 1.0}, checks=step.checks)
    if mesh is None:
        placed = data_parallel(made, step.backend, devices)
    else:
        shardings = state_shardings(state, mesh, SHARDING_RULES)
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
        placed = data_parallel(made, mesh=mesh)
    lowered: jax.stages.Lowered = placed.lower(state, model.batch(step.examples))  # type: ignore[attr-defined]
    # Without a device Triton's products cannot be tuned, and the default tiles do not fit image patches.
    images = TARGETS[step.target].platform == "cuda" and "image" in model.batch(1)
    return lowered.compile({"xla_gpu_enable_triton_gemm": False} if images else None)


def collectives(program: str) -> dict[str, dict[str, int]]:
    """The results of each kind of collective in a compiled program, with their number; a loop counts once.

    >>> collectives("%a = (f32[2]{0}, bf16[3,4]{1,0}) all-reduce(%x, %y), channel_id=1")
    {'all-reduce': {'f32[2]': 1, 'bf16[3,4]': 1}}
    >>> collectives("%a = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=1")
    {'collective-permute': {'f32[2]': 1}}
    >>> collectives("%a = ((f32[2]{0}), f32[2]{0}) all-reduce-start(%x), channel_id=1")
    {'all-reduce': {'f32[2]': 1}}
    """
    found: dict[str, dict[str, int]] = {}
    for line in program.splitlines():
        match = re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if match:
            results, kind, start = match.groups()
            arrays = re.findall(r"[a-z]+\d*\[[\d,]*\]", results)
            if start:  # the start of a collective may list its operands first, and on TPU flags last
                arrays = [array for array in arrays if array != "u32[]"]
                arrays = arrays[-line[match.end() :].partition("), ")[0].count("%") :]
            of_kind = found.setdefault(kind, {})
            for array in arrays:
                of_kind[array] = of_kind.get(array, 0) + 1
    return found


def bytes_of(array: str) -> int:
    """Bytes of an array of a compiled program.

    >>> bytes_of("bf16[3,4]")
    24
    """
    dtype, shape = re.fullmatch(r"([a-z]+\d*)\[([\d,]*)\]", array).groups()  # type: ignore[union-attr]
    bits = int(re.sub(r"\D", "", dtype) or 8)
    return bits * math.prod(int(n) for n in shape.split(",") if n) // 8
