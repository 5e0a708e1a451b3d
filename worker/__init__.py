"""The worker: claims sessions, feeds a speech provider, publishes what it hears."""
