"""Emulator of Deepgram's `/v1/speak`: streaming text-to-speech in tone words.

Follows the vendor's documentation ("Streaming text to speech", "Flush", "Clear", "Close", "Text
chunking", "Limits", "Troubleshooting WebSocket") and the shapes of deepgram-asyncapi.yml.
Undocumented behavior is marked "our choice"; where the documentation contradicts itself, there is
a switch.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from typing import Any, ClassVar, Final, Literal, cast

from aiohttp import web
from pydantic import Field

from ..faults import GARBAGE, Faults
from ..server import Emulator
from ..session import Close, Elapsed, Outgoing, Refusal, Session
from ..spoken import Playout, sentences, synthesize
from ..tones import GAP_SECONDS, WORD_SECONDS
from .query import ERRORS, check_auth, refuse
from .speak_query import Speak, parse

_MAX_MESSAGE_BYTES: Final = 2_000_000
_MAX_TEXT_CHARACTERS: Final = 2000
_LEAST_GAP_SECONDS: Final = 0.02


class DeepgramSpeakFaults(Faults):
    """Switches of this emulator. `_after_seconds` counts audio that was sent."""

    pace: float | None = Field(4.0, gt=0, description="speed of audio, in multiples of real time")
    odd_frames: bool = Field(True, description="frames end within samples")
    first_audio_seconds: float = Field(0, ge=0, description="delay of audio after silence")
    mute_on_flush: bool = Field(
        False, description="send nothing more after a Flush, not even a close"
    )
    mute_on_clear: bool = Field(False, description="do not answer Clear")
    stray_seconds: float = Field(
        0, ge=0, description="audio that was in flight: it still comes between Clear and Cleared"
    )
    flushed_after_clear: Literal["none", "before", "after"] = Field(
        "none", description="whether each Flush that a Clear overtook is answered too, and when"
    )
    sequence_ids: Literal["counted", "zero"] = Field(
        "counted", description="numbers of Flushed and Cleared"
    )
    on_close: Literal["drain", "drop", "summary"] = Field(
        "drain",
        description="what Close does, of which the documentation says three things: speak the rest "
        "and close, close at once, or speak the rest and send a last Metadata",
    )
    flush_limit: int = Field(20, description="flushes in `window_seconds`")
    character_limit: int = Field(2400, description="characters in `window_seconds`")
    window_seconds: float = Field(60, gt=0)
    lifetime_seconds: float = Field(3600, description="duration of a connection")
    warning_keys: Literal["both", "current", "old"] = Field(
        "both", description="keys of a Warning: code and description, or those of older versions"
    )
    warns: bool = Field(False, description="send a Warning about nothing before each Flushed")
    error: bool = Field(False, description="answer Speak with a message of type Error")
    metadata: bool = Field(True, description="send Metadata after the handshake")


class SpeakSession(Session):
    """One speak v1 stream."""

    tick_seconds: ClassVar[float | None] = 0.01
    speaks: ClassVar[bool] = True

    def __init__(self, query: Speak, faults: Faults, subprotocol: str | None = None) -> None:
        super().__init__(faults)
        self.query = query
        self.subprotocol = subprotocol
        self.request_id = str(uuid.uuid4())
        self.headers = {"dg-request-id": self.request_id}
        self.text_received = ""
        """All text, in the order in which it came."""
        switches = self._switches
        self._playout = Playout(
            query.sample_rate, query.encoding, switches.pace or 1e6, odd=switches.odd_frames
        )
        self.words = self._playout.words
        self._gap = max(
            _LEAST_GAP_SECONDS, (WORD_SECONDS + GAP_SECONDS) / query.speed - WORD_SECONDS
        )
        self._buffer = ""
        self._now = 0.0
        self._characters: deque[tuple[float, int]] = deque()
        self._flushes: deque[float] = deque()
        self._unanswered = 0
        """Flushes that were accepted and not answered."""
        self._sequence = 0
        self._muted = False
        self._over = False

    @property
    def _switches(self) -> DeepgramSpeakFaults:
        return cast(DeepgramSpeakFaults, self.faults)

    @property
    def seconds(self) -> float:
        return self._playout.seconds

    @property
    def mid_word(self) -> bool:
        return self._playout.mid_word

    def seconds_in(self, audio: bytes) -> float:
        return 0.0

    def greeting(self) -> list[Outgoing]:
        return [self._metadata()] if self._switches.metadata else []

    def audio(self, audio: bytes) -> list[Outgoing]:
        return self._end(1003, "MESSAGE-0000: Unsupported message type.")

    def text(self, message: str) -> list[Outgoing]:
        if self._over:
            return []
        if len(message.encode(errors="replace")) > _MAX_MESSAGE_BYTES:
            return self._end(1009, "BIG-0000: The message is too large.")
        try:
            content = json.loads(message)
        except ValueError:
            content = None
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "Speak" and isinstance(text := content.get("text"), str):
            return self._speak(text)
        if kind == "Flush":
            return self._flush()
        if kind == "Clear":
            return self._clear()
        if kind == "Close":
            return self._close()
        return self._end(1008, "DATA-0000: The message is not a known command.")

    def tick(self, elapsed: Elapsed) -> list[Outgoing]:
        self._now = elapsed.open
        if self._muted:
            return []
        if self._now > self._switches.lifetime_seconds and not self._over:
            return self._end(1011, "NET-0003: The connection has reached its time limit.")
        self._playout.pace = self._switches.pace or 1e6
        due = self._playout.due(self._now)
        self._unanswered -= sum(
            isinstance(message, dict) and message["type"] == "Flushed" for message in due
        )
        return due

    def garbage(self) -> dict[str, str | bytes]:
        return {
            # A binary message is audio, whatever is in it.
            **{kind: content for kind, content in GARBAGE.items() if kind != "binary"},
            "empty_audio": b"",
            "warning_without_text": '{"type": "Warning", "code": 7}',
        }

    # ---- commands -------------------------------------------------------------------------------

    def _speak(self, text: str) -> list[Outgoing]:
        if len(text) > _MAX_TEXT_CHARACTERS:
            return self._end(1009, "BIG-0001: The text is too long.")
        since = self._now - self._switches.window_seconds
        while self._characters and self._characters[0][0] <= since:
            self._characters.popleft()
        self._characters.append((self._now, len(text)))
        if sum(count for _, count in self._characters) > self._switches.character_limit:
            return self._end(1008, "DATA-0001: Too many characters in the recent window.")
        if self._switches.error and self.hits():
            return [{"type": "Error", "description": "The text cannot be spoken.", "code": "E"}]
        self.text_received += text
        complete, self._buffer = sentences(self._buffer + text)
        self._say(complete)  # "Flush": audio may start before it, once a sentence is present
        return []

    def _flush(self) -> list[Outgoing]:
        since = self._now - self._switches.window_seconds
        while self._flushes and self._flushes[0] <= since:
            self._flushes.popleft()
        if len(self._flushes) >= self._switches.flush_limit:
            return [self._warning("EXCESSIVE_FLUSH", "Too many flush messages; ignored.")]
        self._flushes.append(self._now)
        if self._switches.mute_on_flush and self.hits():
            self._muted = True
            return []
        self._say(self._buffer)
        self._buffer = ""
        if self._switches.warns:
            self._playout.add(self._warning("OTHER", "Something that changes nothing."))
        self._playout.add({"type": "Flushed", "sequence_id": self._number()})
        self._unanswered += 1
        return []

    def _clear(self) -> list[Outgoing]:
        self._buffer = ""
        overtaken, self._unanswered = self._unanswered, 0
        self._playout.clear()
        if self._switches.mute_on_clear or self._muted:
            return []
        answers: list[Outgoing] = []
        if seconds := self._switches.stray_seconds:
            answers.append(self._stray(seconds))
        flushed: list[Outgoing] = [
            {"type": "Flushed", "sequence_id": self._number()} for _ in range(overtaken)
        ]
        cleared: Outgoing = {"type": "Cleared", "sequence_id": self._number()}
        if self._switches.flushed_after_clear == "before":
            return [*answers, *flushed, cleared]
        if self._switches.flushed_after_clear == "after":
            return [*answers, cleared, *flushed]
        return [*answers, cleared]

    def _close(self) -> list[Outgoing]:
        self._over = True
        if self._switches.on_close == "drop":
            return [Close(1000)]
        self._say(self._buffer)
        if self._switches.on_close == "summary":
            self._playout.add(self._metadata())
        self._playout.add(Close(1000))
        return []

    # ---- messages -------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self._playout.idle:
            self._playout.wait(self._now + self._switches.first_audio_seconds)
        self._playout.speak(text, self._gap)

    def _stray(self, seconds: float) -> bytes:
        """Audio of a word that is not in the text after it."""
        word = synthesize("stray", self.query.sample_rate, self.query.encoding)
        size = round(len(word) * seconds / (WORD_SECONDS + GAP_SECONDS)) | 1
        return (word * (size // len(word) + 1))[:size]

    def _number(self) -> int:
        if self._switches.sequence_ids == "zero":
            return 0
        self._sequence += 1
        return self._sequence - 1

    def _warning(self, code: str, description: str) -> dict[str, Any]:
        current = {"description": description, "code": code}
        old = {"warn_msg": description, "warn_code": code}
        shapes = {"current": current, "old": old, "both": {**current, **old}}
        return {"type": "Warning", **shapes[self._switches.warning_keys]}

    def _metadata(self) -> dict[str, Any]:
        return {
            "type": "Metadata",
            "request_id": self.request_id,
            "model_name": self.query.model,
            "model_version": "2025-03-11.0",
            "model_uuid": "33333333-3333-4333-8333-333333333333",
            "additional_model_uuids": [],
        }

    def _end(self, code: int, reason: str) -> list[Outgoing]:
        if self._over:
            return []
        self._over = True
        self._playout.clear()
        return [Close(code, reason)]


class DeepgramSpeakEmulator(Emulator):
    """Server at `ws://127.0.0.1:<port>/v1/speak`."""

    name: ClassVar[str] = "deepgram-aura"
    path: ClassVar[str] = "/v1/speak"
    faults_model: ClassVar[type[Faults]] = DeepgramSpeakFaults

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sessions: list[SpeakSession] = []

    def admit(self, request: web.Request) -> Session:
        subprotocol = check_auth(request, self.api_key)
        query = {name: request.query.getall(name) for name in request.query}
        session = SpeakSession(parse(query), self.faults, subprotocol)
        self.sessions.append(session)
        return session

    def refusal(self, status: int) -> Refusal:
        code, message = ERRORS.get(status, ("Error", f"HTTP {status}"))
        return refuse(status, code, message)
