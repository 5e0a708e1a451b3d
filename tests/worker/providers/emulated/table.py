"""The providers that have an emulator, and how each differs in the tests that all of them pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr

from natterjack.emulators.deepgram.flux import DeepgramFluxEmulator
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.deepgram.rest import DeepgramRestEmulator
from natterjack.emulators.faults import GARBAGE
from natterjack.emulators.managed import ManagedEmulator
from natterjack.emulators.server import Emulator
from natterjack.emulators.speechmatics.agent import SpeechmaticsAgentEmulator
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.plugin.errors import Dropped, ProviderError, RequestRefused, Stalled, Unavailable
from natterjack.plugin.provider import Provider
from tests.waiting import bound
from worker.providers.deepgram import DeepgramProvider
from worker.providers.deepgram_flux import DeepgramFluxProvider
from worker.providers.deepgram_rest import DeepgramRestProvider
from worker.providers.managed import ManagedProvider
from worker.providers.speechmatics import SpeechmaticsProvider
from worker.providers.speechmatics_agent import SpeechmaticsAgentProvider

Kind = type[ProviderError]
Settings = Callable[[Emulator], dict[str, Any]]
HTTP_ERRORS: list[tuple[int, Kind, str]] = [
    (400, RequestRefused, "request"),
    (401, RequestRefused, "auth"),
    (402, RequestRefused, "credit"),
    (403, RequestRefused, "auth"),
    (404, RequestRefused, "request"),
    (405, RequestRefused, "request"),
    (408, Unavailable, "server_error"),
    (429, Unavailable, "rate_limit"),
    (500, Unavailable, "server_error"),
    (503, Unavailable, "server_error"),
    (504, Unavailable, "server_error"),
]
"""Errors and causes for HTTP statuses."""
_DROPS: dict[int, tuple[Kind, str]] = {1000: (Dropped, "dropped"), 1001: (Dropped, "dropped")}


def _address(emulator: Emulator) -> dict[str, Any]:
    return {"url": emulator.url}


def _speechmatics(emulator: Emulator) -> dict[str, Any]:
    management_url = emulator.url.replace("ws://", "http://")
    return {"url": f"{emulator.url}/v2", "management_url": management_url, "retry_seconds": 0}


def _agent(emulator: Emulator) -> dict[str, Any]:
    settings = _speechmatics(emulator)
    settings["agent_url"] = f"{settings.pop('url')}/agent"
    return settings


def _managed(emulator: Emulator) -> dict[str, Any]:
    # Shorter than the defaults, so that streams end soon.
    return {"url": emulator.url, "end_settle_seconds": 0.1, "end_wait_seconds": bound(1)}


@dataclass(frozen=True)
class Silent:
    """A server that accepts a connection and then does not start the session."""

    faults: Mapping[str, Any]
    """Switches of the emulator."""
    timeout: str
    """Setting that limits the wait."""
    kind: Kind
    cause: str
    message: str
    """Start of the error's text."""

    def __str__(self) -> str:
        return next(iter(self.faults))


@dataclass(frozen=True)
class Emulated:
    """A provider and its emulator."""

    name: str
    provider: type[Provider]
    emulator: type[Emulator]
    secret: str
    wrong_key: str
    """Pattern of the error for a wrong key."""
    key: str = "api_key"
    """Setting that holds `secret`."""
    settings: Settings = _address
    """Settings for tests, beside the key."""
    prefix: str = ""
    """Prefix of those settings that the provider does not share with others."""
    switches: Mapping[str, Any] = field(default_factory=dict)
    """Initial switches of the emulator."""
    closes: Mapping[int, tuple[Kind, str]] = field(default_factory=dict)
    """Error and cause for close codes in the middle of a stream."""
    unfinished: tuple[Mapping[str, Any], ...] = ({"drop_before_summary": True},)
    """Switches for an end of the connection that does not confirm that all audio was
    transcribed."""
    mute: tuple[Mapping[str, Any], ...] = ({"mute_after_seconds": 0},)
    """Switches for a server that receives audio and sends nothing."""
    unusual: tuple[Mapping[str, Any], ...] = ()
    """Switches for messages that are unusual and change no word and no turn."""
    garbage: tuple[str, ...] = ("all",)
    malformed: int = 0
    """How many messages of `garbage` become the notice `malformed`."""
    silent: tuple[Silent, ...] = ()
    texts: Mapping[str, int] = field(default_factory=dict)
    """Text messages of a stream without audio."""

    def __str__(self) -> str:
        return self.name

    def address(self, scheme: str) -> str:
        """Return an address with the scheme `ws` or `wss`, or with that of HTTP instead."""
        if self.provider is DeepgramRestProvider:
            scheme = scheme.replace("ws", "http")
        return f"{scheme}://proxy:8080"

    def own(self, name: str) -> str:
        """Return the name of a setting, with the prefix if the provider does not share it."""
        own = self.prefix + name
        return own if own in self.provider.Settings.model_fields else name

    def start(self) -> Emulator:
        """Return an emulator that accepts only the secret. It is an async context manager."""
        return self.emulator(api_key=self.secret, **self.switches)

    def make(self, emulator: Emulator, **changes: Any) -> Any:
        """Return a provider that connects to `emulator`."""
        fields = self.provider.Settings.model_fields
        settings = {self.key: SecretStr(self.secret), **self.settings(emulator)}
        settings |= {self.own(name): value for name, value in changes.items()}
        assert settings.keys() <= fields.keys(), "there is no such setting"
        return self.provider(self.provider.Settings(**settings))


DEEPGRAM = Emulated(
    "deepgram",
    DeepgramProvider,
    DeepgramEmulator,
    "s3cret-0f-deepgram",
    wrong_key=r"Invalid credentials\..*401",
    closes={**_DROPS, 1011: (Dropped, "dropped"), 1008: (RequestRefused, "request")},
    unusual=(
        {"last_word_end_unknown": True},
        {"duplicate_speech_started": True},
        {"contradicting_interims": True},
        {"empty_alternatives": True},
        {"extra_fields": True},
        {"latency_seconds": 0.1},
    ),
    # Four more kinds are this protocol's own. An unknown type is well-formed, and so is a result
    # without alternatives.
    malformed=len(GARBAGE) + 4 - 2,
    texts={"CloseStream": 1},
)
FLUX = Emulated(
    "deepgram-flux",
    DeepgramFluxProvider,
    DeepgramFluxEmulator,
    "s3cret-0f-flux",
    prefix="flux_",
    wrong_key=r"Invalid credentials\..*401",
    closes={**_DROPS, 1011: (Dropped, "dropped"), 1008: (RequestRefused, "request")},
    mute=({"mute_after_seconds": 0}, {"mute_in_turn_words": 2}),
    # Four more kinds are this protocol's own. An unknown type is well-formed.
    malformed=len(GARBAGE) + 4 - 1,
    silent=tuple(
        Silent(faults, "connected_timeout_seconds", Unavailable, "connect", "no Connected message")
        for faults in ({"no_connected": True}, {"latency_seconds": 9})
    ),
    texts={"CloseStream": 1},
)
DEEPGRAM_REST = Emulated(
    "deepgram-rest",
    DeepgramRestProvider,
    DeepgramRestEmulator,
    "s3cret-0f-deepgram",
    wrong_key="Invalid credentials",
)
MANAGED = Emulated(
    "managed",
    ManagedProvider,
    ManagedEmulator,
    "t0ken-of-an-account",
    key="token",
    settings=_managed,
    switches={"extended": False},
    wrong_key=r"Token is invalid.*auth_failed",
    closes={
        **_DROPS,
        1008: (RequestRefused, "request"),
        1011: (Unavailable, "server_error"),
        4401: (RequestRefused, "auth"),
    },
    unfinished=(),
    # `backwards` is left out. It is a text (test_protocol.py), and a stray one changes positions.
    garbage=(*GARBAGE, "text_no_text", "no_seconds", "not_a_number"),
    malformed=len(GARBAGE) + 3 - 1,
    silent=(
        Silent({"first_reply": "none"}, "ready_timeout_seconds", Stalled, "mute", "not ready"),
    ),
    texts={"auth": 1},
)
"""A proxy without extensions."""
EXTENDED = replace(
    MANAGED,
    name="managed-extended",
    switches={"extended": True},
    unfinished=Emulated.unfinished,
    texts={"auth": 1, "end": 1},
)
"""A proxy that implements the fact sheet's proposals."""
SPEECHMATICS = Emulated(
    "speechmatics",
    SpeechmaticsProvider,
    SpeechmaticsEmulator,
    "s3cret-0f-speechmatics",
    settings=_speechmatics,
    wrong_key="not_authorised|401",
    closes={
        **_DROPS,
        1011: (Unavailable, "server_error"),
        1008: (Dropped, "dropped"),
        4001: (RequestRefused, "auth"),
    },
    unfinished=({"drop_before_summary": True}, {"end_of_transcript": "close"}),
    unusual=(
        {"language_info": True},
        {"late_punctuation": True},
        {"overreaching_finals": True},
        {"quiet_in_silence": True},
        {"extra_fields": True},
        {"latency_seconds": 0.1},
    ),
    # Six more kinds are this protocol's own; one of them is well-formed, as is an unknown type.
    malformed=len(GARBAGE) + 6 - 2,
    silent=(
        Silent(
            {"no_recognition_started": True},
            "start_timeout_seconds",
            Unavailable,
            "server_error",
            "no RecognitionStarted",
        ),
    ),
    texts={"StartRecognition": 1, "EndOfStream": 1},
)
AGENT = replace(
    SPEECHMATICS,
    name="speechmatics-agent",
    provider=SpeechmaticsAgentProvider,
    emulator=SpeechmaticsAgentEmulator,
    settings=_agent,
    prefix="agent_",
    unusual=(
        {"word_messages": True},
        {"untyped_warning": True},
        {"extra_fields": True},
        {"latency_seconds": 0.1},
    ),
    # Five kinds are this protocol's own, and one more is well-formed.
    malformed=len(GARBAGE) + 5 - 1,
)
STREAMING = (DEEPGRAM, FLUX, MANAGED, EXTENDED, SPEECHMATICS, AGENT)
"""Those with one WebSocket per stream."""
