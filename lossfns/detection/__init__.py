"""Losses of object detection: boxes, and sets of them."""
