"""Losses of reinforcement learning, and the advantages and weights that go with them."""
