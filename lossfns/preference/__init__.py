"""Preference losses: which of two answers is better, or whether one is good.

They take log-probabilities of whole answers, which `sequence_log_probs` computes from logits.
"""
