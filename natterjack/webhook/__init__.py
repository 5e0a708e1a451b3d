"""Sending events to an HTTP server: `natterjack webhook`."""
