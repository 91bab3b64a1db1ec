"""Attacks that try to bring a forgotten class back: one family a file."""
