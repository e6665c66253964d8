"""Losses of a classifier: cross-entropies, focal and hinge losses, scoring rules, long-tailed labels, divergences."""
