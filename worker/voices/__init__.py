"""Voice plugins of the worker: text in, speech out."""
