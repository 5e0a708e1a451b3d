"""Fixtures of the fault tests: a worker, an edge, a broker and a provider emulator."""

from __future__ import annotations

from ..edge_capture.conftest import sound_packages, start_edge
from ..worker.conftest import emulator, provider_settings, start_worker

__all__ = ["emulator", "provider_settings", "sound_packages", "start_edge", "start_worker"]
