"""The kit: what leaves training, and all that unlearning may see."""
