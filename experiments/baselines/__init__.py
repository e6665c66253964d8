"""Baselines without gradient descent."""
