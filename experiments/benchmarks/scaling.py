"""Plans from one device to a pod: formulas for memory, FLOPs, collective bytes and possible utilisation.

    python -m experiments.benchmarks.scaling

prints the tables of docs/scaling.md. Nothing is measured: the numbers follow from the sizes of a model, the peak rates
that the vendors publish and the formulas below, which the tests compare with the real model, the real optimizers and
the counts of the compiler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

STATE_BYTES = {"sgd": 4, "momentum": 8, "lion": 8, "muon": 8, "adamw": 12}
"""Bytes per parameter between two steps: the parameter and its optimizer state, both in float32. Muon stores one number
per entry of a matrix; its two numbers for other parameters (embeddings, scales) are not counted here."""
GRADIENT_BYTES = 4
"""Gradients are accumulated in float32."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes of `experiments.models.transformer.CausalLM`: tied embedding, feed-forward layer of 4 widths."""

    name: str
    depth: int
    width: int
    vocab: int
    seq_len: int

    @property
    def matrices(self) -> int:
        """Number of entries in matrix products: 12 width^2 per block, and the output layer."""
        return 12 * self.depth * self.width**2 + self.vocab * self.width

    @property
    def parameters(self) -> int:
        """Number of parameters, including scale and bias of two norms per block and of two more."""
        return self.matrices + (4 * self.depth + 4) * self.width

    @property
    def flops_per_token(self) -> int:
        """FLOPs per token, forward and backward: 6 per matrix entry, and 12 depth width seq_len for the attention.

        Full attention is counted, as the model computes it; a causal kernel needs half.
        """
        return 6 * self.matrices + 12 * self.depth * self.width * self.seq_len


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Published peak rates of one device: FLOP/s in bfloat16 without sparsity, bytes, and bytes/s in one direction."""

    name: str
    flops: float
    memory: float
    fast_link: float
    """Rate of the links inside an island: NVLink, or all ICI ports of a chip."""
    island: int
    """Devices with fast links to each other: a node, or a TPU pod."""
    slow_link: float
    """A device's share of the network between islands."""


HARDWARE = {
    "H100": Hardware("H100 SXM", 989e12, 80e9, 450e9, 8, 50e9),
    "v5e": Hardware("TPU v5e", 197e12, 16e9, 200e9, 256, 3.125e9),
    "v5p": Hardware("TPU v5p", 459e12, 95 * 2**30, 600e9, 8960, 6.25e9),
    "v6e": Hardware("TPU v6e", 918e12, 32e9, 400e9, 256, 12.5e9),
}
MODELS = {
    "125M": Model("125M", 12, 768, 50_304, 1024),
    "1.3B": Model("1.3B", 24, 2048, 50_304, 2048),
    "8B": Model("8B", 37, 4096, 128_256, 8192),
    "70B": Model("70B", 86, 8192, 128_256, 4096),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A model on a mesh of `data` x `fsdp` x `tensor` devices."""

    model: Model
    hardware: Hardware
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    tokens: int = 8192
    """Tokens per step for each group of `tensor` devices, which share the same tokens."""
    optimizer: str = "adamw"
    gathered_bytes: int = 4
    """Bytes of a gathered parameter: 4 in float32, 2 if it is cast first."""

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.data * self.fsdp * self.tensor

    @property
    def state_bytes(self) -> float:
        """Bytes of parameters, optimizer state and gradients on a device."""
        each = STATE_BYTES[self.optimizer] + GRADIENT_BYTES
        return each * self.model.parameters / (self.fsdp * self.tensor)

    @property
    def kept_bytes(self) -> float:
        """Bytes of all activations for the backward pass, in bfloat16 with fused attention: Korthikanti et al. 2022.

        (10 + 24 / tensor) width bytes per token and block (arXiv:2205.05198, without the attention scores).
        """
        return (10 + 24 / self.tensor) * self.model.width * self.model.depth * self.tokens

    @property
    def recomputes(self) -> bool:
        """Whether blocks are recomputed: otherwise less than a fifth of the memory would be free."""
        whole = self._gathered(self.model.parameters)
        return self.state_bytes + self.kept_bytes + whole > 0.8 * self.hardware.memory

    @property
    def gathered_memory(self) -> float:
        """Bytes of gathered parameters: all of them, or one block and the embedding if blocks are recomputed."""
        block = self.model.width * (12 * self.model.width + self.model.vocab)
        return self._gathered(block if self.recomputes else self.model.parameters)

    def _gathered(self, parameters: float) -> float:
        return self.gathered_bytes * parameters / self.tensor if self.fsdp > 1 else 0.0

    @property
    def activation_bytes(self) -> float:
        """Bytes of stored activations: all, or only the float32 input of each block if blocks are recomputed."""
        return 4.0 * self.model.width * self.model.depth * self.tokens if self.recomputes else self.kept_bytes

    @property
    def model_seconds(self) -> float:
        """Seconds for the FLOPs of a device at its peak rate, without recomputation."""
        return self.model.flops_per_token * self.tokens / self.tensor / self.hardware.flops

    @property
    def compute_seconds(self) -> float:
        """The same with recomputation: a second forward pass, a third more."""
        return self.model_seconds * (4 / 3 if self.recomputes else 1)

    def collective_bytes(self) -> dict[str, float]:
        """Bytes that a device sends in a step over each mesh axis, by ring algorithms.

        Over `fsdp`: the parameters are all-gathered, twice with recomputation, and the gradients are reduce-scattered,
        (f - 1) / f of the bytes each. Over `data`: the gradient shards are all-reduced, 2 (d - 1) / d of the bytes.
        Over `tensor`: per block two all-reduces of the float32 activations forward and two backward (two more with
        recomputation), and one each for the embedding and the output layer.
        """
        d, f, t = self.data, self.fsdp, self.tensor
        part = self.model.parameters / t
        activations = 4.0 * self.tokens * self.model.width
        gathers, each = (2, 6) if self.recomputes else (1, 4)
        return {
            "data": 2 * (d - 1) / d * GRADIENT_BYTES * part / f,
            "fsdp": (f - 1) / f * (gathers * self.gathered_bytes + GRADIENT_BYTES) * part,
            "tensor": (each * self.model.depth + 2) * 2 * (t - 1) / t * activations,
        }

    def collective_seconds(self) -> dict[str, float]:
        """Seconds for these bytes at the peak rate of the slowest link in the ring."""
        inner = {"tensor": 1, "fsdp": self.tensor, "data": self.tensor * self.fsdp}
        size = {"tensor": self.tensor, "fsdp": self.fsdp, "data": self.data}
        return {
            axis: sent / link_rate(self.hardware, size[axis], inner[axis])
            for axis, sent in self.collective_bytes().items()
        }

    @property
    def utilisation(self) -> tuple[float, float]:
        """Lowest and highest share of the peak: no collective overlaps with computation, or all do."""
        compute, talk = self.compute_seconds, sum(self.collective_seconds().values())
        return self.model_seconds / (compute + talk), self.model_seconds / max(compute, talk)


def link_rate(hardware: Hardware, size: int, inner: int) -> float:
    """Returns the bytes/s of a device in a ring over `size` devices, each `inner` devices apart.

    A ring beyond an island enters and leaves the island once for all its devices there, over all their network links.

    >>> h100 = HARDWARE["H100"]
    >>> [link_rate(h100, 8, 1), link_rate(h100, 64, 1), link_rate(h100, 8, 8)]
    [450000000000.0, 400000000000.0, 50000000000.0]
    """
    if size * inner <= hardware.island:
        return hardware.fast_link
    return min(hardware.fast_link, hardware.slow_link * max(1, hardware.island // inner))


def plans() -> list[Plan]:
    """Returns the plans in the document, from one device to a pod."""
    m, h = MODELS, HARDWARE
    return [
        Plan(m["125M"], h["H100"], tokens=32_768),
        Plan(m["125M"], h["H100"], data=8, tokens=32_768),
        Plan(m["125M"], h["v5e"], data=8, tokens=8_192),
        Plan(m["1.3B"], h["H100"], fsdp=8, tokens=16_384),
        Plan(m["1.3B"], h["v5e"], fsdp=16, tokens=8_192),
        Plan(m["1.3B"], h["v6e"], data=4, fsdp=8, tokens=16_384),
        Plan(m["8B"], h["H100"], fsdp=8, tokens=8_192),
        Plan(m["8B"], h["H100"], data=8, fsdp=8, tokens=16_384),
        Plan(m["8B"], h["v5e"], fsdp=64, tokens=8_192),
        Plan(m["8B"], h["v6e"], fsdp=32, tokens=8_192),
        Plan(m["70B"], h["H100"], fsdp=64, tokens=8_192),
        Plan(m["70B"], h["H100"], fsdp=32, tensor=8, tokens=8_192),
        Plan(m["70B"], h["v6e"], fsdp=128, tensor=2, tokens=4_096),
        Plan(m["70B"], h["v5p"], data=4, fsdp=128, tokens=16_384),
        Plan(m["70B"], h["v5p"], data=16, fsdp=256, tensor=2, tokens=16_384),
    ]


def model_table() -> str:
    """Returns the table of parameters, FLOPs and state bytes of each model."""
    rows = [
        [
            model.name,
            model.depth,
            f"{model.width:,}",
            f"{model.vocab:,}",
            f"{model.seq_len:,}",
            f"{model.parameters / 1e9:.3f}",
            f"{model.flops_per_token / 1e9:.2f}",
            f"{12 * model.depth * model.width * model.seq_len / model.flops_per_token:.0%}",
            *(f"{(STATE_BYTES[name] + GRADIENT_BYTES) * model.parameters / 1e9:,.1f}" for name in ("lion", "adamw")),
        ]
        for model in MODELS.values()
    ]
    head = ["model", "depth", "width", "vocabulary", "sequence length", "10^9 parameters", "GFLOP per token"]
    return table([*head, "attention share", "GB with Lion", "GB with AdamW"], rows)


def plan_table(chosen: Iterable[Plan] = ()) -> str:
    """Returns the table of memory, communication and utilisation of each plan."""
    rows = []
    for plan in chosen or plans():
        sent = plan.collective_bytes()
        low, high = plan.utilisation
        seconds = sum(plan.collective_seconds().values())
        parts = plan.state_bytes, plan.activation_bytes, plan.gathered_memory
        rows.append(
            [
                plan.model.name,
                plan.hardware.name,
                plan.devices,
                f"{plan.data} x {plan.fsdp} x {plan.tensor}",
                f"{plan.tokens * plan.data * plan.fsdp:,}",
                " + ".join(f"{part / 1e9:.1f}" for part in parts),
                f"{sum(parts) / plan.hardware.memory:.0%}",
                "yes" if plan.recomputes else "no",
                " / ".join(f"{sent[axis] / 1e9:.1f}" for axis in ("data", "fsdp", "tensor")),
                f"{1e3 * plan.compute_seconds:,.0f}",
                f"{1e3 * seconds:,.0f}",
                f"{low:.0%} to {high:.0%}",
            ]
        )
    head = [
        "model",
        "device",
        "devices",
        "data x fsdp x tensor",
        "tokens per step",
        "GB state + activations + gathered",
    ]
    more = [
        "memory used",
        "recompute",
        "GB sent over data / fsdp / tensor",
        "ms compute",
        "ms collectives",
        "possible utilisation",
    ]
    return table([*head, *more], rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table.

    >>> print(table(["a", "b"], [[1, 2]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    text = ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
    return "\n".join([text[0], text[1].replace(" ", ""), *text[2:]])


if __name__ == "__main__":
    print(model_table(), plan_table(), sep="\n\n")
