"""Losses for classification with noisy labels."""
