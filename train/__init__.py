"""A functional train-step builder: exact at every split of a batch."""
