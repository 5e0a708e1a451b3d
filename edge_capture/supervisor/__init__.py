"""An agent with several sources: each is captured by itself, all are published by one process."""
