"""Files of a run: its folder, checkpoints, metrics, reports and plots."""
