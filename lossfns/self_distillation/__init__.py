"""Losses between views of an example, without negatives: predicted, decorrelated, or taught by a teacher."""

from lossfns.self_distillation.decorrelation import barlow_twins as barlow_twins
from lossfns.self_distillation.decorrelation import vicreg as vicreg
from lossfns.self_distillation.decorrelation import w_mse as w_mse
from lossfns.self_distillation.linear import linear_dino as linear_dino
from lossfns.self_distillation.predictive import byol as byol
from lossfns.self_distillation.predictive import data2vec as data2vec
from lossfns.self_distillation.predictive import simsiam as simsiam
from lossfns.self_distillation.prototypes import msn as msn
from lossfns.self_distillation.prototypes import sinkhorn as sinkhorn
from lossfns.self_distillation.prototypes import swav as swav
from lossfns.self_distillation.spreading import koleo as koleo
from lossfns.self_distillation.spreading import sigreg as sigreg
from lossfns.self_distillation.teachers import dino as dino
from lossfns.self_distillation.teachers import dino_center as dino_center
from lossfns.self_distillation.teachers import ibot as ibot
