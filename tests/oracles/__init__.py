"""Slow float64 oracles, written from the papers in plain loops, with limits in place of infinities.

A file for each module of lossfns. They know nothing of masks, devices or dtypes; each value is computed alone.
"""
