"""Loggers, charts and the wandb workspace."""
