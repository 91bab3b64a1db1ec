"""Networks, and nothing about losses, data or Lightning."""
