"""Penalties on parameters, on predicted distributions and on functions, and mixtures of examples."""
