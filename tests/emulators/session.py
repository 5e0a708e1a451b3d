"""The provider's side of one connection, without sockets or clocks: what each emulator writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from aiohttp import web

from .faults import GARBAGE, Faults
from .tones import HeardWord


class Close(NamedTuple):
    """Instruction of a session to close the WebSocket."""

    code: int = 1000
    reason: str = ""


Outgoing = dict[str, Any] | Close


class Refusal(Exception):
    """The upgrade is answered with an HTTP error instead."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = headers or {}

    def response(self) -> web.Response:
        if isinstance(self.body, str):
            return web.Response(status=self.status, text=self.body, headers=self.headers)
        return web.json_response(self.body, status=self.status, headers=self.headers)


class Session(ABC):
    """The provider's side of one connection: frames in, messages out."""

    summary_type: ClassVar[str] = ""
    """Type of the message that ends a stream."""
    subprotocol: str | None = None

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        """The switches as they are now; the server keeps them up to date."""
        self.request_id = ""
        self.headers: dict[str, str] = {}
        self.words: list[HeardWord] = []

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Seconds of audio heard."""

    @property
    @abstractmethod
    def mid_word(self) -> bool:
        """Whether the audio heard so far ends well inside a word."""

    @abstractmethod
    def seconds_in(self, audio: bytes) -> float:
        """Seconds of audio in one binary frame."""

    @abstractmethod
    def audio(self, audio: bytes) -> Sequence[Outgoing]:
        """Answers to a binary frame."""

    @abstractmethod
    def text(self, message: str) -> Sequence[Outgoing]:
        """Answers to a text frame."""

    def greeting(self) -> Sequence[Outgoing]:
        """What the server says first."""
        return ()

    def resets_timer(self, message: str) -> bool:
        """Whether a text frame counts as a sign of life."""
        return True

    def timed_out(self) -> Sequence[Outgoing]:
        """What happens when the client was silent for too long."""
        return ()

    def said(self, message: dict[str, Any]) -> str:
        """The text that a message makes final, for the log."""
        return ""

    def garbage(self) -> dict[str, str | bytes]:
        """Nonsense that the server can be made to say, by name."""
        return GARBAGE
