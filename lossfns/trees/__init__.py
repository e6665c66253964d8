"""Losses on trees: smoothness along edges, and distributions over dependency and constituency trees."""
