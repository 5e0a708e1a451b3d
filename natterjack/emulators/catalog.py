"""The emulators by name. Each is imported only when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from .server import Emulator

TRANSCRIBING: Final = {
    "deepgram": "deepgram.listen:DeepgramEmulator",
    "deepgram-flux": "deepgram.flux:DeepgramFluxEmulator",
    "deepgram-rest": "deepgram.rest:DeepgramRestEmulator",
    "managed": "managed:ManagedEmulator",
    "speechmatics": "speechmatics.realtime:SpeechmaticsEmulator",
    "speechmatics-agent": "speechmatics.agent:SpeechmaticsAgentEmulator",
    "vosk": "vosk:VoskEmulator",
}
"""Emulators of providers that transcribe: module and class by name."""
SPEAKING: Final = {
    "deepgram-aura": "deepgram.speak:DeepgramSpeakEmulator",
    "deepgram-flux-speak": "deepgram.flux_speak:DeepgramFluxSpeakEmulator",
}
"""Emulators of voices."""
EMULATORS: Final = {**TRANSCRIBING, **SPEAKING}


def load(name: str) -> type[Emulator]:
    """Return the emulator of that name.

    Raises: KeyError for an unknown name, ImportError if what it needs is not installed.
    """
    module, _, attribute = EMULATORS[name].partition(":")
    found: type[Emulator] = getattr(import_module(f".{module}", __package__), attribute)
    return found
