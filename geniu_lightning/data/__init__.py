"""Images: sources, the cache of decoded pictures, index sets, and batches."""
