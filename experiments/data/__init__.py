"""Data sets as TFDS builders and input pipelines as Grain data sets."""
