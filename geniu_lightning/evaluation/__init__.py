"""What became of the model: measured after the clock has stopped."""
