"""Configuration to objects to runs to files: the only room that knows Hydra, paths and screens."""
