"""The providers keep the contract."""

from __future__ import annotations

from .contract import EmulatedContract


class TestStreaming(EmulatedContract):
    """Providers with one WebSocket per stream."""
