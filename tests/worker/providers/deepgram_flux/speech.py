"""A long turn, and settings for it."""

from __future__ import annotations

from collections.abc import Callable

from natterjack.emulators import tones
from worker.providers.deepgram_flux import DeepgramFluxProvider

Make = Callable[..., DeepgramFluxProvider]
LONG = tones.sequence(40)
MONOLOGUE = tones.encode(LONG, lead_seconds=0.3, tail_seconds=0.1)
EARLY = {"commit_updates": 2, "commit_seconds": 1, "commit_length_seconds": 2}
"""Settings that make heads of turns final early."""
