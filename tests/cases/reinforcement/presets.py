"""Cases of `lossfns.reinforcement.presets`."""

import lossfns
from lossfns.testing import BadCall, LossCase
from tests.cases.reinforcement._shared import ANSWERS, WRONG_ANSWERS, answers, hostile_answers, of_paper

CLIPS = {"clip_low": (0.1, 0.2, 0.3), "clip_high": (0.2, 0.3, 0.4)}


def preset(loss, oracle_options, **options):
    sweep = {**CLIPS, "epsilon": (1e-8, 1e-6, 1e-4)}
    return LossCase(
        loss,
        answers,
        lambda *x, **kwargs: of_paper(*x, **{**oracle_options, **kwargs}),
        differentiable=(0,),
        **{"hostile": hostile_answers, "sweep": sweep, "bad_calls": WRONG_ANSWERS} | options,
    )


CISPO = preset(
    lossfns.cispo,
    {"surrogate_form": "weight", "clip_low": 1.0, "clip_high": 4.0},
    variants=({}, {"advantages": "given"}),
    skip={"gradients": "the ratio is a constant for the gradient; tests/lossfns/test_reinforcement.py works it out"},
)


CASES = {
    "cispo": CISPO,
    "dapo": preset(lossfns.dapo, {"clip_high": 0.28}, variants=({}, {"advantages": "given"})),
    "dr_grpo": preset(
        lossfns.dr_grpo,
        {"advantages": "centred"},
        variants=({}, {"length": 8.0, "advantages": "given"}),
        sweep={**CLIPS, "length": (4.0, 8.0, 16.0)},
        bad_calls=(*WRONG_ANSWERS, BadCall(ANSWERS, ("length", "positive", "0"), {"length": 0})),
    ),
    "gspo": preset(
        lossfns.gspo,
        {"ratio": "sequence", "clip_low": 0.0003, "clip_high": 0.0004},
        variants=({}, {"advantages": "given"}, {"advantages": "centred", "clip_low": 0.1, "clip_high": 0.2}),
    ),
}
