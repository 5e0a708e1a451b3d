"""Emulators of Deepgram's interfaces."""

from .flux import DeepgramFluxEmulator
from .flux_speak import DeepgramFluxSpeakEmulator
from .listen import DeepgramEmulator
from .rest import DeepgramRestEmulator
from .speak import DeepgramSpeakEmulator

__all__ = [
    "DeepgramEmulator",
    "DeepgramFluxEmulator",
    "DeepgramFluxSpeakEmulator",
    "DeepgramRestEmulator",
    "DeepgramSpeakEmulator",
]
