"""The provider's side of one connection, without sockets or clocks: what each emulator writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from aiohttp import web

from .faults import GARBAGE, Faults
from .tones import HeardWord


class Close(NamedTuple):
    """Instruction of a session to close the WebSocket."""

    code: int | None = 1000
    """None: without a status, which the client sees as 1005."""
    reason: str = ""


Outgoing = dict[str, Any] | Close


class Elapsed(NamedTuple):
    """Seconds of waiting on a connection."""

    open: float
    """Since it stood."""
    without_audio: float
    """Since the last audio, or since it stood."""
    without_life: float
    """Since the last audio or WebSocket ping or pong, or since it stood."""


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
    type_field: ClassVar[str] = "type"
    """Field of a message, of either side, that names its type."""
    tick_seconds: ClassVar[float | None] = None
    """How often `tick` is called; None: never."""
    read_ahead_frames: ClassVar[int | None] = None
    """Frames taken from the socket and not heard yet, before it is read no more; None: any."""
    subprotocol: str | None = None

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        """The switches as they are now; the server keeps them up to date."""
        self.request_id = ""
        self.headers: dict[str, str] = {}
        self.words: list[HeardWord] = []
        self.hits: Callable[[], bool] = lambda: True
        """Whether faults apply to this connection (Faults.connections); ask when one is due."""

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

    def tick(self, elapsed: Elapsed) -> Sequence[Outgoing]:
        """What the passing of time brings."""
        return ()

    def said(self, message: dict[str, Any]) -> str:
        """The text that a message makes final, for the log."""
        return ""

    def garbage(self) -> dict[str, str | bytes]:
        """Nonsense that the server can be made to say, by name."""
        return GARBAGE
