"""Model compression: quantisation with a gradient, and penalties on weights and gates."""

from lossfns.compression.quantization import entropy_of_weights as entropy_of_weights
from lossfns.compression.quantization import fake_quantize as fake_quantize
from lossfns.compression.quantization import kurtosis_penalty as kurtosis_penalty
from lossfns.compression.sparsity import group_lasso as group_lasso
from lossfns.compression.sparsity import hard_concrete_gates as hard_concrete_gates
from lossfns.compression.sparsity import l0_hard_concrete as l0_hard_concrete
from lossfns.compression.sparsity import movement_scores as movement_scores
