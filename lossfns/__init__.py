"""Pure, compiled loss functions: arrays in, one value per example out."""

from lossfns.classification import sigmoid_cross_entropy as sigmoid_cross_entropy
from lossfns.classification import soft_cross_entropy as soft_cross_entropy
from lossfns.classification import softmax_cross_entropy as softmax_cross_entropy
from lossfns.contrastive import nt_xent as nt_xent
from lossfns.language import MaskedTokens as MaskedTokens
from lossfns.language import apply_mlm_mask as apply_mlm_mask
from lossfns.language import masked_lm as masked_lm
from lossfns.language import next_sentence as next_sentence
from lossfns.language import next_token as next_token
from lossfns.language import next_token_where as next_token_where
from lossfns.language import sentence_order as sentence_order
from lossfns.reduce import weighted_mean as weighted_mean
from lossfns.reduce import weighted_sum as weighted_sum
from lossfns.regression import absolute_error as absolute_error
from lossfns.regression import huber as huber
from lossfns.regression import squared_error as squared_error
from lossfns.regularizers import l1 as l1
from lossfns.regularizers import l2 as l2
from lossfns.regularizers import proximal as proximal
