"""How many provider connections may be open at once, over all workers."""
