"""Speed and memory, side by side with plain JAX in one run."""
