"""A functional train-step builder: exact at every split of a batch.

This folder holds the core, from the objective through the step to the loop. Four subpackages hold the rest:
`optimizers`, `objectives`, `devices` and `records`. They import the core, and one another only as the architecture test
allows.

Functions raise `UsageError` for errors that the caller can fix and `RunFailed` for a run that cannot continue. Both say
what was expected, what was given and what to do, so a docstring lists an error only if there is more to say.
"""

from train.devices.compilation_cache import enable_compilation_cache as enable_compilation_cache
from train.devices.cost import Cost as Cost
from train.devices.cost import measure as measure
from train.devices.memory import OutOfMemory as OutOfMemory
from train.devices.mesh import make_mesh as make_mesh
from train.devices.mesh import process_rows as process_rows
from train.devices.profiling import profiled as profiled
from train.devices.sharding import bytes_per_device as bytes_per_device
from train.devices.sharding import gather as gather
from train.devices.sharding import param_specs as param_specs
from train.devices.sharding import shard_state as shard_state
from train.errors import RunFailed as RunFailed
from train.errors import UsageError as UsageError
from train.guard import BadSteps as BadSteps
from train.guard import skip_nonfinite as skip_nonfinite
from train.hooks import EarlyStopping as EarlyStopping
from train.hooks import Evaluate as Evaluate
from train.hooks import Hook as Hook
from train.hooks import StopTraining as StopTraining
from train.hooks import run_evaluation as run_evaluation
from train.loop import fit as fit
from train.metrics import accumulate as accumulate
from train.metrics import accuracy as accuracy
from train.metrics import bits_per_byte as bits_per_byte
from train.metrics import confusion_term as confusion_term
from train.metrics import counts_from_confusion as counts_from_confusion
from train.metrics import f1 as f1
from train.metrics import f1_from_counts as f1_from_counts
from train.metrics import means as means
from train.metrics import perplexity as perplexity
from train.metrics import precision as precision
from train.metrics import precision_from_counts as precision_from_counts
from train.metrics import recall as recall
from train.metrics import recall_from_counts as recall_from_counts
from train.metrics import weighted_loss as weighted_loss
from train.microbatch import microbatched as microbatched
from train.objective import Context as Context
from train.objective import Objective as Objective
from train.objective import Term as Term
from train.objective import penalty as penalty
from train.objective import term as term
from train.objectives.lora import LoraBase as LoraBase
from train.objectives.lora import lora_init as lora_init
from train.objectives.lora import lora_merge as lora_merge
from train.objectives.lora import lora_objective as lora_objective
from train.objectives.lora import lora_size as lora_size
from train.objectives.meta import anil as anil
from train.objectives.meta import first_order_maml as first_order_maml
from train.objectives.meta import imaml as imaml
from train.objectives.meta import maml as maml
from train.objectives.meta import meta_sgd as meta_sgd
from train.objectives.meta import meta_sgd_params as meta_sgd_params
from train.objectives.meta import proximal_meta as proximal_meta
from train.objectives.precision import LossScale as LossScale
from train.objectives.precision import LossScaling as LossScaling
from train.objectives.precision import Precision as Precision
from train.objectives.precision import make_precision as make_precision
from train.objectives.reptile import reptile as reptile
from train.objectives.task_weighting import Weighting as Weighting
from train.objectives.task_weighting import multi_task as multi_task
from train.optimizers import OptimizerConfig as OptimizerConfig
from train.optimizers import decay_mask as decay_mask
from train.optimizers import describe as describe
from train.optimizers import ema_decay_schedule as ema_decay_schedule
from train.optimizers import evaluation_params as evaluation_params
from train.optimizers import learning_rate_at as learning_rate_at
from train.optimizers import make_optimizer as make_optimizer
from train.optimizers import make_schedule as make_schedule
from train.optimizers.initializers import make_initializer as make_initializer
from train.parallel import Step as Step
from train.parallel import data_parallel as data_parallel
from train.records.checkpoint import Checkpointer as Checkpointer
from train.records.fingerprint import fingerprint as fingerprint
from train.records.lock import lock_folder as lock_folder
from train.records.lock import unlock_folder as unlock_folder
from train.records.metrics_log import MetricsWriter as MetricsWriter
from train.records.metrics_log import curve as curve
from train.records.metrics_log import read_metrics as read_metrics
from train.records.plots import bars as bars
from train.records.plots import confusion_matrix as confusion_matrix
from train.records.plots import learning_curves as learning_curves
from train.records.plots import lines_with_spread as lines_with_spread
from train.records.report import Image as Image
from train.records.report import Section as Section
from train.records.report import Table as Table
from train.records.report import write_report as write_report
from train.records.tensorboard import TensorBoard as TensorBoard
from train.records.workdir import close_workdir as close_workdir
from train.records.workdir import open_workdir as open_workdir
from train.records.workdir import write_summary as write_summary
from train.state import TrainState as TrainState
from train.state import create_state as create_state
from train.step import build_eval_step as build_eval_step
from train.step import build_train_step as build_train_step
