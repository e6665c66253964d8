"""Losses of a classifier: cross-entropies, focal and margin losses, long-tailed labels, divergences."""

from lossfns.classification.cross_entropy import sigmoid_cross_entropy as sigmoid_cross_entropy
from lossfns.classification.cross_entropy import soft_cross_entropy as soft_cross_entropy
from lossfns.classification.cross_entropy import softmax_cross_entropy as softmax_cross_entropy
