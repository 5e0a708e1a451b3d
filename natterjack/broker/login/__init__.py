"""Logging in to NATS: attempts to connect, credentials, and their renewal."""
