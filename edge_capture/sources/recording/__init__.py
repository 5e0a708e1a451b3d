"""Microphones that are recorded: which one is found, what of it is taken, and when it is left."""
