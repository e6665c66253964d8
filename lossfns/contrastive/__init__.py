"""Contrastive losses: an example is identified among the other examples of the batch."""
