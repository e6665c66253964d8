"""Distillation: a small model learns from the predictions and the representations of a large one."""
