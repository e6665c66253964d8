"""Losses of a classifier: cross-entropies, focal and hinge losses, scoring rules, long-tailed labels, divergences."""

from lossfns.classification.cross_entropy import sigmoid_cross_entropy as sigmoid_cross_entropy
from lossfns.classification.cross_entropy import soft_cross_entropy as soft_cross_entropy
from lossfns.classification.cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from lossfns.classification.divergences import generalized_kl as generalized_kl
from lossfns.classification.divergences import jensen_shannon as jensen_shannon
from lossfns.classification.divergences import kl_divergence as kl_divergence
from lossfns.classification.focal import asymmetric as asymmetric
from lossfns.classification.focal import focal as focal
from lossfns.classification.focal import poly1 as poly1
from lossfns.classification.focal import sigmoid_focal as sigmoid_focal
from lossfns.classification.hinge import hinge as hinge
from lossfns.classification.hinge import multiclass_hinge as multiclass_hinge
from lossfns.classification.hinge import squared_hinge as squared_hinge
from lossfns.classification.long_tail import balanced_softmax as balanced_softmax
from lossfns.classification.long_tail import class_balanced_weights as class_balanced_weights
from lossfns.classification.long_tail import ldam as ldam
from lossfns.classification.long_tail import logit_adjusted as logit_adjusted
from lossfns.classification.scoring import brier as brier
from lossfns.classification.scoring import sparsemax as sparsemax
