"""Class unlearning on imbalanced data without the original data (GENIU, arXiv 2406.07885)."""

__version__ = "0.1.0"
