"""A functional train-step builder: exact at every split of a batch."""

from train.errors import RunFailed as RunFailed
from train.errors import UsageError as UsageError
from train.objective import Context as Context
from train.objective import Objective as Objective
from train.objective import Term as Term
from train.parallel import data_parallel as data_parallel
from train.state import TrainState as TrainState
from train.state import create_state as create_state
from train.state import ema_warmup as ema_warmup
from train.step import Step as Step
from train.step import build_eval_step as build_eval_step
from train.step import build_train_step as build_train_step
