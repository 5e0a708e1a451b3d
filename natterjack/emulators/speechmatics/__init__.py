"""Emulators of Speechmatics' realtime interfaces. They need the extra `emulators`."""

from .agent import SpeechmaticsAgentEmulator
from .realtime import SpeechmaticsEmulator

__all__ = ["SpeechmaticsAgentEmulator", "SpeechmaticsEmulator"]
