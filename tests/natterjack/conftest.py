"""Fixtures of the worker and the edge, for tests of commands that need them."""

from __future__ import annotations

from ..edge_capture.conftest import sound_packages, sound_server
from ..worker.conftest import emulator, provider_settings, start_worker

__all__ = ["emulator", "provider_settings", "sound_packages", "sound_server", "start_worker"]
