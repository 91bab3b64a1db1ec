"""Commands: Hydra, the terminal and exit statuses."""
