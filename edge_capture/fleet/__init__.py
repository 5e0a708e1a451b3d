"""What the center sees of this edge, and what it may ask of it."""
