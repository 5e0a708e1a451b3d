"""Fixtures shared with the worker's tests."""

from __future__ import annotations

from ..worker.conftest import emulator, provider_settings, start_worker

__all__ = ["emulator", "provider_settings", "start_worker"]
