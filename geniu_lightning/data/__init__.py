"""Images: where they come from, how they are kept, and which of them a run may see."""
