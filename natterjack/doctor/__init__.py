"""Checks of an installation: what works on this machine, and what keeps the rest from working."""
