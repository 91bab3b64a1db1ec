"""The receipt of a deletion: one page for readers who do not read code."""
