"""Benchmarks of speed and memory against plain JAX."""
