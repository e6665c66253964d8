"""Objectives made from objectives: multi-task weighting, meta-learning, low-rank adapters, precision."""
