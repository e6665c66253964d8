"""Losses for classification with noisy labels."""

from lossfns.noisy_labels.bounded import generalized_cross_entropy as generalized_cross_entropy
from lossfns.noisy_labels.bounded import normalized_active_passive as normalized_active_passive
from lossfns.noisy_labels.bounded import symmetric_cross_entropy as symmetric_cross_entropy
from lossfns.noisy_labels.corrected import EarlyLearning as EarlyLearning
from lossfns.noisy_labels.corrected import bootstrapped as bootstrapped
from lossfns.noisy_labels.corrected import early_learning as early_learning
from lossfns.noisy_labels.corrected import forward_corrected as forward_corrected
from lossfns.noisy_labels.tempered import bi_tempered as bi_tempered
