"""Language-modelling losses and the masking that goes with them."""

from lossfns.language.causal import next_token as next_token
from lossfns.language.causal import next_token_where as next_token_where
from lossfns.language.masked import MaskedTokens as MaskedTokens
from lossfns.language.masked import apply_mlm_mask as apply_mlm_mask
from lossfns.language.masked import masked_lm as masked_lm
from lossfns.language.sentences import next_sentence as next_sentence
from lossfns.language.sentences import sentence_order as sentence_order
