"""Unlearning methods: one file each, on one base."""
