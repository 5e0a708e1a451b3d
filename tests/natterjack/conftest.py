"""Fixtures of the commands' tests: the worker's, which what they look at is made with."""

from __future__ import annotations

from ..worker.conftest import emulator, provider_settings, start_worker

__all__ = ["emulator", "provider_settings", "start_worker"]
