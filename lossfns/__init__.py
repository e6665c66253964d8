"""Pure, compiled loss functions: arrays in, one value per example out."""
