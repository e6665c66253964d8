"""The settings of an optimizer, checked when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from train.errors import UsageError, check_name
from train.optimizers import checks
from train.optimizers.names import (
    DEFAULTS,
    OPTIMIZERS,
    SCHEDULE_FREE,
    SELF_RATED,
    SETTINGS,
    OptimizerName,
    Overrides,
    SettingName,
)
from train.optimizers.schedules import SCHEDULES, ScheduleName, check_length

LAYER_PATTERN = r"(?i:(?:layers?|blocks?)[/_]?(\d+)(?=/|$))"
EMBEDDING_PATTERN = r"(?i:embed)"
MUON_EXCLUDE = r"(?i:embed|(?:^|[/_])head(?:_\d+)?(?:/|$))"


@dataclass(frozen=True)
class OptimizerConfig:
    """The settings of an optimizer.

    >>> OptimizerConfig(name="adamw").setting("weight_decay")
    0.01
    >>> OptimizerConfig(name="adamw", momentum=0.9)
    Traceback (most recent call last):
    train.errors.UsageError: adamw has no momentum: leave momentum at None, or choose one of momentum, nesterov, ...
    """

    name: OptimizerName = "adamw"
    """The optimizer. Muon orthogonalises the updates of matrices and leaves all other parameters to Adam; sophia
    divides by the curvature; prodigy and dadapt_adamw find their step size, with a learning rate around 1; the
    schedule-free ones average instead of lowering the rate."""

    learning_rate: float = 1e-3
    """Peak learning rate, reached at the end of the warm-up. For Adafactor relative to the size of each parameter, for
    prodigy, dadapt_adamw and adadelta a factor around 1."""

    schedule: ScheduleName = "cosine"
    """Schedule of the learning rate after the warm-up. wsd: stable, then decaying over the cooldown. The schedule-free
    optimizers require constant."""

    warmup: float = 0.0
    """Linear warm-up of the learning rate from 0: below 1 a fraction of the run, from 1 on a number of steps."""

    cooldown: float = 0.2
    """Final decay of the wsd schedule: below 1 a fraction of the run, from 1 on a number of steps."""

    final_fraction: float = 0.0
    """Learning rate at the end as a fraction of its peak, for linear, cosine and wsd."""

    momentum: float | None = None
    """Momentum of momentum, nesterov, rmsprop and muon. None: 0.9, for Muon 0.95, for RMSProp 0."""

    b1: float | None = None
    """Decay of the average of gradients in the Adam family, Lion, LAMB, Sophia and Muon's Adam part; in the
    schedule-free ones the position of the gradient between iterate and average. None: 0.9, for Adan 0.98, for Sophia
    0.965."""

    b2: float | None = None
    """Decay of the average of squared gradients in the Adam family, of the momentum in Lion, of gradient differences in
    Adan, of the curvature in Sophia. None: 0.999; RMSProp and Adadelta 0.9, Adan 0.92, Lion and Sophia 0.99, ADOPT
    0.9999."""

    b3: float | None = None
    """Decay of the average of squares in Adan. None: 0.99."""

    eps: float | None = None
    """Added to the root of the average of squared gradients in the Adam family (in Adadelta under the root, in
    AdaBelief also to the average itself; in ADOPT and Sophia the smallest denominator). None: 1e-8; LAMB, Adadelta and
    ADOPT 1e-6, Adagrad 1e-10, Sophia 1e-12, AdaBelief 1e-16."""

    bias_correction: bool = False
    """Adam's bias correction in prodigy and dadapt_adamw. Their authors omit it by default; the schedule should then
    warm up. Other optimizers of the Adam family always have it."""

    weight_decay: float | None = None
    """Decoupled weight decay, multiplied by the learning rate. None: 0.01 for AdamW, NAdamW, Adan, Lion, LAMB, Muon,
    Sophia and schedule_free_adamw, otherwise 0. Adam has none: use AdamW."""

    l2: float = 0.0
    """Coupled L2 penalty: l2 * w is added to the gradient after clipping."""

    l1: float = 0.0
    """Coupled L1 penalty: l1 * sign(w) is added to the gradient after clipping."""

    proximal_l1: float = 0.0
    """L1 penalty by a proximal step: after its update each weight moves by learning rate * proximal_l1 towards 0 and
    stops there, which makes many weights exactly 0."""

    decay_pattern: str | None = None
    """Regular expression for the paths of parameters that decay (weight_decay, l1, l2, proximal_l1), searched in paths
    such as encoder/layer_0/kernel. None: all with two or more axes that are not called bias or scale."""

    centralize: bool = False
    """Gradient centralisation: subtracts from the gradient of each kernel its mean over the inputs of each output,
    before clipping."""

    clip_norm: float | None = None
    """Maximum norm of the gradient of all trained parameters together. None: no clipping."""

    clip_value: float | None = None
    """Maximum absolute value of each entry of a gradient, applied before clip_norm. None: no clipping."""

    layer_decay: float = 1.0
    """Learning rate of a layer relative to the layer above; the head has the full rate and embeddings the
    lowest. 1: the same rate everywhere."""

    layer_pattern: str = LAYER_PATTERN
    """Regular expression that finds the number of a layer in a parameter's path (its first group)."""

    embedding_pattern: str = EMBEDDING_PATTERN
    """Regular expression for the embeddings, which layer_decay puts below layer 0."""

    freeze: str | None = None
    """Regular expression for the paths of parameters that are not trained. None: all are trained."""

    muon_exclude: str = MUON_EXCLUDE
    """Regular expression for the paths of matrices that Muon leaves to Adam: by default embeddings and heads."""

    overrides: Overrides = field(default_factory=dict)
    """Settings of some parameters only, by regular expressions searched in their paths, such as: embed rate_factor 0.1
    head name sgd momentum 0.9. Of each setting the first expression that has it and matches decides. rate_factor
    multiplies the learning rate; another name brings its own default settings; weight_decay is for parameters that
    decay at all."""

    plateau_factor: float | None = None
    """Factor of the learning rate whenever the training loss stops decreasing, in addition to the schedule. None:
    never."""

    plateau_window: int = 100
    """Number of steps in a window; plateau_factor compares the mean loss of a window with the lowest so far."""

    plateau_patience: int = 5
    """Number of consecutive windows without a lower mean loss after which plateau_factor applies."""

    plateau_cooldown: int = 0
    """Number of windows ignored after plateau_factor was applied."""

    plateau_tolerance: float = 1e-4
    """Minimum relative decrease of the mean loss that counts, for plateau_factor."""

    plateau_minimum: float = 0.0
    """Minimum of the product of all applied plateau_factors."""

    lookahead_every: int | None = None
    """Lookahead: number of steps after which the slow weights move towards the fast ones, which continue from there.
    The slow weights are evaluated. None: no Lookahead."""

    lookahead_rate: float = 0.5
    """Fraction of the way that the slow weights of Lookahead move towards the fast ones."""

    sam_radius: float | None = None
    """Sharpness-aware minimisation: takes the gradient where the loss is highest within about this distance, which
    costs two gradients per step. None: the usual gradient."""

    sophia_gamma: float = 0.01
    """Factor of the curvature in the denominator of Sophia; a larger factor clips fewer entries."""

    sophia_every: int = 10
    """Steps between two estimates of Sophia's curvature; each costs about two further gradients."""

    def __post_init__(self) -> None:
        check_name("optimizer", self.name, OPTIMIZERS)
        check_name("schedule", self.schedule, SCHEDULES)
        checks.check_ranges(vars(self))
        check_length(self.warmup, "warmup")
        check_length(self.cooldown, "cooldown")
        for name in ("decay_pattern", "freeze", "layer_pattern", "embedding_pattern", "muon_exclude"):
            checks.check_pattern(name, getattr(self, name))
        for name in SETTINGS:
            checks.check_belongs(self.name, name, getattr(self, name))
        checks.check_overrides(self.name, self.overrides)
        if self.bias_correction and self.name not in SELF_RATED:
            raise UsageError(
                f"bias_correction can be chosen for {' and '.join(SELF_RATED)} only, not for {self.name}: leave it at "
                "False."
            )
        if self.name in SCHEDULE_FREE:
            unused = {"plateau_factor": self.plateau_factor, "lookahead_every": self.lookahead_every}
            checks.check_schedule_free(self.name, self.schedule, self.b1, self.overrides, unused)
        if self.proximal_l1:
            checks.check_proximal(self.name, has_lookahead=self.lookahead_every is not None)

    def setting(self, name: str) -> float:
        """The value of a setting, with the optimizer's default for None.

        Args:
            name: `momentum`, `b1`, `b2`, `b3`, `eps` or `weight_decay`.

        Returns:
            The value; 0 for a setting that the optimizer does not have.
        """
        value = getattr(self, name)
        return DEFAULTS[self.name].get(name, 0.0) if value is None else value

    def with_settings(self, settings: Mapping[SettingName, float | OptimizerName]) -> Self:
        """The config of some parameters only.

        Args:
            settings: Settings by name, such as one of `overrides`, without `rate_factor`; another `name` brings its own
                defaults for all that is not among them.

        Returns:
            A config with the same learning rate and no overrides.

        >>> OptimizerConfig(b2=0.98).with_settings({"name": "momentum"}).setting("momentum")
        0.9
        """
        is_other = settings.get("name", self.name) != self.name
        changes: dict[Any, Any] = {**(dict.fromkeys(SETTINGS) if is_other else {}), **settings}
        return replace(self, overrides={}, **changes)
