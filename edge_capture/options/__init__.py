"""Settings of what the edge plays on, apart from those of what it captures."""
