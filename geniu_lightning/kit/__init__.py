"""The kit: the file that training writes and unlearning reads."""
