"""Settings: where defaults lie, and the one check of types, ranges and names."""
