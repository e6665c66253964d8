"""Losses of real-valued predictions, one value for each entry."""
