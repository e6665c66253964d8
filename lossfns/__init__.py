"""Pure, compiled loss functions: arrays in, one value per example out."""

from lossfns.classification import softmax_cross_entropy as softmax_cross_entropy
from lossfns.contrastive import nt_xent as nt_xent
from lossfns.reduce import weighted_mean as weighted_mean
from lossfns.reduce import weighted_sum as weighted_sum
from lossfns.regression import absolute_error as absolute_error
from lossfns.regression import huber as huber
from lossfns.regression import squared_error as squared_error
