"""Evaluations that several studies share."""
