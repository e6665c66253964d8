"""Train steps compiled for accelerators: they fit the memory, and what devices send each other is what it should be."""

import jax
import pytest

from experiments.benchmarks.scaling import GRADIENT_BYTES, HARDWARE, MODELS, STATE_BYTES, Plan
from experiments.benchmarks.steps import STEPS, bytes_of, collectives, compile_step
from experiments.benchmarks.targets import TARGETS
from tests.aot.conftest import skip_without

pytestmark = pytest.mark.aot
# GB of temporary memory that a step may need, a tenth over what was found.
TEMPORARY = {
    "BERT base, v5e": 6.5,
    "BERT base, 4 v5e, pmap": 6.4,
    "BERT base, 8 H100, pmap": 16.7,
    "BERT base, 256 v5e": 6.4,
    "GPT 124M, v5e": 9.4,
    "GPT 124M, H100, checks": 47.5,
    "GPT 124M, 8 H100": 49.6,
    "GPT 1.3B, H100": 16.8,
    "GPT 1.3B, 8 H100, fsdp 8": 24.6,
    "GPT 1.3B, 8 H100, fsdp 2 x tensor 4": 22.4,
    "GPT 1.3B, 256 v5e, fsdp 16": 3.0,
    "GPT 1.3B, 4 v5p, fsdp 4": 8.4,
    "ViT-B/16, v5e": 8.0,
    "ViT-B/16, 8 H100": 22.5,
    "CLIP ViT-B/32, H100": 28.4,
    "CLIP ViT-B/32, 8 H100": 21.9,
    "CLIP ViT-B/32, v5e": 9.2,
    "CLIP ViT-B/32, 256 v5e": 6.9,
}


@pytest.fixture(scope="module")
def compiled():
    """Compiles each step once."""
    programs = {}

    def of(name):
        skip_without(STEPS[name].target)
        if name not in programs:
            programs[name] = compile_step(STEPS[name])
        return programs[name]

    return of


@pytest.mark.parametrize("name", STEPS)
def test_a_step_fits_its_device(name, compiled):
    memory = compiled(name).memory_analysis()
    assert memory.peak_memory_in_bytes <= TARGETS[STEPS[name].target].memory
    assert memory.temp_size_in_bytes / 1e9 <= TEMPORARY[name]


@pytest.mark.parametrize("name", [name for name in STEPS if name.startswith("GPT")])
def test_the_state_has_the_bytes_of_the_formula(name, compiled):
    """Parameters and the two numbers of AdamW, split over `fsdp` and `tensor`; besides them only a batch comes in."""
    model = MODELS["1.3B" if "1.3B" in name else "125M"]
    parts = 1
    for size in (STEPS[name].mesh or {}).values():
        parts *= size
    found = compiled(name).memory_analysis().argument_size_in_bytes
    assert found == pytest.approx(STATE_BYTES["adamw"] * model.parameters / parts, rel=0.02)


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.backend != "jit"])
def test_gradients_are_summed_once(name, compiled):
    """All that is all-reduced is one float32 of each parameter, and a few numbers."""
    found = collectives(compiled(name).as_text())
    step = STEPS[name]
    state = jax.eval_shape(step.model().init)
    parameters = sum(x.size for x in jax.tree.leaves(state))
    assert sum(bytes_of(x) * n for x, n in found["all-reduce"].items()) == pytest.approx(
        GRADIENT_BYTES * parameters, rel=0.01
    )
    if "CLIP" not in name:
        assert set(found) == {"all-reduce"}


@pytest.mark.parametrize("name", [name for name in STEPS if "CLIP" in name and STEPS[name].backend != "jit"])
def test_a_ring_gathers_nothing(name, compiled):
    found = collectives(compiled(name).as_text())
    assert set(found) == {"all-reduce", "collective-permute"}
    local = STEPS[name].examples // len(TARGETS[STEPS[name].target].devices)
    assert max(map(bytes_of, found["collective-permute"])) == 4 * local * 512  # the captions of one device


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.mesh])
def test_a_mesh_gathers_no_scores_and_no_more_of_the_head_than_its_part(name, compiled):
    model = MODELS["1.3B"]
    part = model.vocab // STEPS[name].mesh.get("tensor", 1)
    for of_kind in collectives(compiled(name).as_text()).values():
        for array in of_kind:
            sizes = [int(n) for n in array.partition("[")[2].rstrip("]").split(",") if n]
            if part in sizes or model.vocab in sizes:
                assert sorted(sizes) == sorted([part, model.width])


@pytest.mark.parametrize("name", ["GPT 1.3B, 8 H100, fsdp 8"])
def test_fsdp_sends_the_bytes_of_the_formula(name, compiled):
    """Each matrix is gathered in bfloat16: for the forward pass, for its repetition and for the backward pass."""
    found, parts = collectives(compiled(name).as_text()), STEPS[name].mesh["fsdp"]
    gathered = sum(bytes_of(x) * n for x, n in found["all-gather"].items())
    scattered = sum(bytes_of(x) * n for x, n in found["reduce-scatter"].items()) * parts
    plan = Plan(MODELS["1.3B"], HARDWARE["H100"], fsdp=parts, tokens=10**6, gathered_bytes=2)
    assert plan.recomputes
    # The formula gathers twice; this program gathers the matrices of the blocks a third time, for the backward pass.
    third = (parts - 1) / parts * 2 * 12 * 24 * 2048**2
    sent = (parts - 1) / parts * (gathered + scattered)
    assert sent == pytest.approx(plan.collective_bytes()["fsdp"] + third, rel=0.05)
