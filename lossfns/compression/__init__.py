"""Model compression: quantisation with a gradient, and penalties on weights and gates."""
