"""Comparison with independent implementations: their numbers are committed, so that every machine checks them."""
