"""What a run leaves behind, and what it needs to continue: checkpoints, metrics, reports, plots."""
