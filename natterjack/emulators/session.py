"""The provider's side of one connection, without sockets or clocks; each emulator subclasses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from aiohttp import web

from natterjack.audio import Encoding

from .canned import Recognizer, recognizer
from .faults import GARBAGE, Faults
from .tones import TimedWord


class Close(NamedTuple):
    """A session's instruction to close the WebSocket."""

    code: int | None = 1000
    """None closes without a status, which the client sees as 1005."""
    reason: str = ""


Outgoing = dict[str, Any] | bytes | Close
"""A message of the server: JSON, audio, or the end of the connection."""


class Elapsed(NamedTuple):
    """Times of a connection, in seconds."""

    open: float
    """Time since the connection opened."""
    without_audio: float
    """Time since the last audio, or since the connection opened."""
    without_life: float
    """Time since the last audio, ping or pong, or since the connection opened."""


class Refusal(Exception):
    """An HTTP error in answer to an upgrade request."""

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
    """Type of the message that ends a stream; empty if there is none."""
    type_field: ClassVar[str] = "type"
    """Name of the type field in messages of both sides."""
    tick_seconds: ClassVar[float | None] = None
    """Interval between calls of `tick`; None for no calls."""
    read_ahead_frames: ClassVar[int | None] = None
    """Limit of frames received and not processed; None for no limit."""
    speaks: ClassVar[bool] = False
    """Whether `seconds`, `words` and `mid_word` describe audio that the session sends."""
    subprotocol: str | None = None

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        """The current switches, updated by the server."""
        self.request_id = ""
        self.headers: dict[str, str] = {}
        self.words: list[TimedWord] = []
        self.hits: Callable[[], bool] = lambda: True
        """Whether faults affect this connection; call it only when a fault is due."""

    def recognizer(self, sample_rate: int, encoding: Encoding) -> Recognizer:
        """Return a recognizer for audio of this session."""
        return recognizer(self.faults.words, sample_rate, encoding)

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Seconds of audio processed, or sent if the session speaks."""

    @property
    @abstractmethod
    def mid_word(self) -> bool:
        """Whether that audio ends well inside a word."""

    @abstractmethod
    def seconds_in(self, audio: bytes) -> float:
        """Return the seconds of audio in one binary frame."""

    @abstractmethod
    def audio(self, audio: bytes) -> Sequence[Outgoing]:
        """Process a binary frame and return the answers."""

    @abstractmethod
    def text(self, message: str) -> Sequence[Outgoing]:
        """Process a text frame and return the answers."""

    def greeting(self) -> Sequence[Outgoing]:
        """Return the server's first messages."""
        return ()

    def resets_timer(self, message: str) -> bool:
        """Whether a text frame resets the receive timeout."""
        return True

    def timed_out(self) -> Sequence[Outgoing]:
        """Return the messages to send at the receive timeout."""
        return ()

    def tick(self, elapsed: Elapsed) -> Sequence[Outgoing]:
        """Return the messages due after `elapsed`."""
        return ()

    def final_text(self, message: dict[str, Any]) -> str:
        """Return the text that a message makes final, for the log."""
        return ""

    def garbage(self) -> dict[str, str | bytes]:
        """Return invalid messages by name."""
        return GARBAGE
