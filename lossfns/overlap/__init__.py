"""Losses of the overlap between predicted and true regions, for rare labels."""
