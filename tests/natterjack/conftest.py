"""The worker's fixtures, for tests of commands that need a running worker."""

from __future__ import annotations

from ..worker.conftest import emulator, provider_settings, start_worker

__all__ = ["emulator", "provider_settings", "start_worker"]
