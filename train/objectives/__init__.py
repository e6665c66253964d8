"""What is minimised beyond one loss: several tasks, learning to learn, adapters, number formats."""
