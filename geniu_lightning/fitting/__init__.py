"""What training and unlearning share about a fit: optimizers, processes, guards."""
