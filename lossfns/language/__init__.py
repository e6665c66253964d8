"""Language-modelling losses, and the masking for them."""

from lossfns.language.causal import next_token as next_token
from lossfns.language.causal import next_token_where as next_token_where
from lossfns.language.causal_variants import frequency_weighted as frequency_weighted
from lossfns.language.causal_variants import multi_token_prediction as multi_token_prediction
from lossfns.language.causal_variants import multi_token_where as multi_token_where
from lossfns.language.causal_variants import prefix_lm as prefix_lm
from lossfns.language.causal_variants import prefix_lm_where as prefix_lm_where
from lossfns.language.causal_variants import previous_tokens as previous_tokens
from lossfns.language.causal_variants import unlikelihood as unlikelihood
from lossfns.language.denoising import CorruptedSpans as CorruptedSpans
from lossfns.language.denoising import corrupt_spans as corrupt_spans
from lossfns.language.denoising import replaced_token_detection as replaced_token_detection
from lossfns.language.denoising import span_corruption as span_corruption
from lossfns.language.linear import linear_cross_entropy as linear_cross_entropy
from lossfns.language.linear import linear_log_probs as linear_log_probs
from lossfns.language.linear import linear_sequence_log_probs as linear_sequence_log_probs
from lossfns.language.masked import MaskedTokens as MaskedTokens
from lossfns.language.masked import apply_mlm_mask as apply_mlm_mask
from lossfns.language.masked import masked_lm as masked_lm
from lossfns.language.masked_positions import Labelled as Labelled
from lossfns.language.masked_positions import gather_labelled as gather_labelled
from lossfns.language.sentences import next_sentence as next_sentence
from lossfns.language.sentences import sentence_order as sentence_order
