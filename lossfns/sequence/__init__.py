"""Losses on sequences: sums over alignments and paths."""
