"""wandb's own view of many runs."""
