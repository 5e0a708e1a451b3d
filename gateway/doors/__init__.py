"""Doors: each lets in the clients of one protocol."""
