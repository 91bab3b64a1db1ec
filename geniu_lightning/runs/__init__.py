"""Run folders: identity, locks, oracle banks, cost."""
