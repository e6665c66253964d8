"""Optax chains from a typed config.

`config` defines the settings and `checks` their valid combinations; `chain` orders the links; `cores`, `links` and
`groups` make them; `wrappers` wraps whole chains.
"""

from train.optimizers.chain import check_parameters as check_parameters
from train.optimizers.chain import describe as describe
from train.optimizers.chain import make_optimizer as make_optimizer
from train.optimizers.chain import make_schedule as make_schedule
from train.optimizers.config import OptimizerConfig as OptimizerConfig
from train.optimizers.links import decay_mask as decay_mask
from train.optimizers.links import layer_rates as layer_rates
from train.optimizers.names import OPTIMIZERS as OPTIMIZERS
from train.optimizers.schedules import ema_decay_schedule as ema_decay_schedule
from train.optimizers.schedules import learning_rate_at as learning_rate_at
from train.optimizers.wrappers import evaluation_params as evaluation_params
