"""Baselines that need no gradient: what a trained network has to beat."""
