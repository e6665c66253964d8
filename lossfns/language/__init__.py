"""Language-modelling losses, and the masking for them."""
