"""A session's audio on its way to the provider: read in order, filled, converted."""
