"""Training of classifier, prompts and generator by one combined loss."""
