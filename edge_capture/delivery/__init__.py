"""Delivering a session to the broker: what waits, what is in flight, and how fast."""
