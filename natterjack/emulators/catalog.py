"""The emulators by name, and the settings of a worker that uses them.

Each is imported only when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from .server import Emulator


class Entry(NamedTuple):
    """One emulator."""

    where: str
    """Module and class."""
    variables: dict[str, str]
    """A worker's settings; `{host}` stands for host and port."""


_DEEPGRAM: Final = {"DEEPGRAM_URL": "ws://{host}", "DEEPGRAM_API_KEY": "any"}
_SPEECHMATICS: Final = {"SPEECHMATICS_API_KEY": "any"}

TRANSCRIBING: Final = {
    "deepgram": Entry(
        "deepgram.listen:DeepgramEmulator", {"WORKER_PROVIDER": "deepgram", **_DEEPGRAM}
    ),
    "deepgram-flux": Entry(
        "deepgram.flux:DeepgramFluxEmulator", {"WORKER_PROVIDER": "deepgram-flux", **_DEEPGRAM}
    ),
    "deepgram-rest": Entry(
        "deepgram.rest:DeepgramRestEmulator",
        {
            "WORKER_PROVIDER": "deepgram-rest",
            "DEEPGRAM_REST_URL": "http://{host}",
            "DEEPGRAM_API_KEY": "any",
        },
    ),
    "managed": Entry(
        "managed:ManagedEmulator",
        {"WORKER_PROVIDER": "managed", "MANAGED_URL": "ws://{host}", "MANAGED_TOKEN": "any"},
    ),
    "speechmatics": Entry(
        "speechmatics.emulator:SpeechmaticsEmulator",
        {
            "WORKER_PROVIDER": "speechmatics",
            "SPEECHMATICS_URL": "ws://{host}/v2",
            **_SPEECHMATICS,
        },
    ),
    "speechmatics-agent": Entry(
        "speechmatics.agent:SpeechmaticsAgentEmulator",
        {
            "WORKER_PROVIDER": "speechmatics-agent",
            "SPEECHMATICS_AGENT_URL": "ws://{host}/v2/agent",
            **_SPEECHMATICS,
        },
    ),
    "vosk": Entry("vosk:VoskEmulator", {}),
}
"""Emulators of providers that transcribe."""
SPEAKING: Final = {
    "deepgram-aura": Entry(
        "deepgram.speak:DeepgramSpeakEmulator", {"WORKER_VOICE": "deepgram-aura", **_DEEPGRAM}
    ),
    "deepgram-flux-speak": Entry(
        "deepgram.flux_speak:DeepgramFluxSpeakEmulator",
        {"WORKER_VOICE": "deepgram-flux-voice", **_DEEPGRAM},
    ),
}
"""Emulators of voices."""
EMULATORS: Final = {**TRANSCRIBING, **SPEAKING}


def settings(name: str, url: str) -> dict[str, str]:
    """Environment variables of a worker that uses the emulator `name` at `url`.

    Raises: KeyError for an unknown name.
    """
    host = url.partition("://")[2]
    return {key: value.format(host=host) for key, value in EMULATORS[name].variables.items()}


def load(name: str) -> type[Emulator]:
    """Return the emulator of that name.

    Raises: KeyError for an unknown name, ImportError if what it needs is not installed.
    """
    module, _, attribute = EMULATORS[name].where.partition(":")
    found: type[Emulator] = getattr(import_module(f".{module}", __package__), attribute)
    return found
