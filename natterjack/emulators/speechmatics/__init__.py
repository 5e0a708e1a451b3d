"""Emulators of Speechmatics' realtime interfaces. They need the extra `emulators`."""

from .agent import SpeechmaticsAgentEmulator
from .emulator import SpeechmaticsEmulator

__all__ = ["SpeechmaticsAgentEmulator", "SpeechmaticsEmulator"]
