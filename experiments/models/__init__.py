"""Small Flax Linen models."""
