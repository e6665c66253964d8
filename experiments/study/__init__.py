"""Harness of all studies: a study states its questions, the harness runs and evaluates it."""

from experiments.study.cli import run as run
from experiments.study.compare import Question as Question
from experiments.study.config import StudyConfig as StudyConfig
from experiments.study.config import Training as Training
from experiments.study.config import TrainingConfig as TrainingConfig
from experiments.study.config import axis as axis
from experiments.study.config import check_known as check_known
from experiments.study.config import check_shares as check_shares
from experiments.study.devices import MeshConfig as MeshConfig
from experiments.study.devices import ProcessConfig as ProcessConfig
from experiments.study.grid import Row as Row
from experiments.study.grid import product as product
from experiments.study.saved import load as load
from experiments.study.training import Fitted as Fitted
from experiments.study.training import Recipe as Recipe
from experiments.study.training import Start as Start
from experiments.study.training import fit_model as fit_model
from experiments.study.workdir import Run as Run
from experiments.study.workdir import open_study as open_study
