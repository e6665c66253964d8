"""The properties that `lossfns.testing.check_loss` runs.

Each takes a case and inputs, and raises AssertionError (it fails) or Skip (nothing to check); it may return a sentence
with what it measured. All are deterministic in their inputs, so rows can be taken away from a failing input for as long
as it fails.
"""
