"""Classification with noisy labels."""

from lossfns.robust.bounded import generalized_cross_entropy as generalized_cross_entropy
from lossfns.robust.bounded import normalized_active_passive as normalized_active_passive
from lossfns.robust.bounded import symmetric_cross_entropy as symmetric_cross_entropy
from lossfns.robust.corrected import EarlyLearning as EarlyLearning
from lossfns.robust.corrected import bootstrapped as bootstrapped
from lossfns.robust.corrected import early_learning as early_learning
from lossfns.robust.corrected import forward_corrected as forward_corrected
from lossfns.robust.tempered import bi_tempered as bi_tempered
