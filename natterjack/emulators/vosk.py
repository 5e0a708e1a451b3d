"""Emulator of Vosk's WebSocket server, according to `websocket/asr_server.py` and sample clients.

The server answers each message except the configuration with exactly one message: a partial text
during an utterance, its result after silence, and the last result after the end of the audio. Then
it closes.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from aiohttp import web

from .canned import Recognizer
from .faults import Faults
from .server import Emulator
from .session import Close, Outgoing, Session
from .tones import TimedWord

_DEFAULT_RATE: Final = 8000.0
"""The server's VOSK_SAMPLE_RATE, used if the client sends no rate."""
_END_SECONDS: Final = 0.5
"""Silence that ends an utterance."""
_EOF: Final = '{"eof" : 1}'
"""The exact text, including spaces; the server treats any other text as audio and fails."""


class VoskSession(Session):
    """One recognizer of the server."""

    type_field: ClassVar[str] = "text"

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.config: dict[str, Any] = {}
        self._recognizer: Recognizer | None = None
        self._utterance: list[TimedWord] = []
        self._over = False

    @property
    def seconds(self) -> float:
        return 0.0 if self._recognizer is None else self._recognizer.seconds

    @property
    def mid_word(self) -> bool:
        return self._recognizer is not None and self._recognizer.speaking

    @property
    def _decoder(self) -> Recognizer:
        """The decoder, created at the first message after the configuration."""
        if self._recognizer is None:
            rate = round(self.config.get("sample_rate", _DEFAULT_RATE))
            self._recognizer = self.recognizer(rate, "linear16")
        return self._recognizer

    def seconds_in(self, audio: bytes) -> float:
        return len(audio) / 2 / float(self.config.get("sample_rate", _DEFAULT_RATE))

    def text(self, message: str) -> list[Outgoing]:
        if self._over:
            return []
        if "config" in message:
            self.config |= json.loads(message)["config"]
            return []
        self._over = True
        if message != _EOF:
            return [Close(1011)]
        self._take(self._decoder.flush())
        return [self._result(), Close(1000)]

    def audio(self, audio: bytes) -> list[Outgoing]:
        if self._over:
            return []
        decoder = self._decoder
        self._take(decoder.feed(audio))
        quiet = decoder.seconds - decoder.quiet_since
        if self._utterance and not decoder.speaking and quiet >= _END_SECONDS:
            return [self._result()]
        return [{"partial": " ".join(word.word for word in self._utterance)}]

    def final_text(self, message: dict[str, Any]) -> str:
        return str(message.get("text", ""))

    def _take(self, decoded: list[TimedWord]) -> None:
        self._utterance += decoded
        self.words += decoded

    def _result(self) -> dict[str, Any]:
        words, self._utterance = self._utterance, []
        text = " ".join(word.word for word in words)
        if not words or not self.config.get("words", True):
            return {"text": text}
        result = [
            {"conf": 1.0, "start": round(word.start, 6), "end": round(word.end, 6),
             "word": word.word}
            for word in words
        ]  # fmt: skip
        return {"result": result, "text": text}


class VoskEmulator(Emulator):
    """Server at `ws://127.0.0.1:<port>/`, without keys."""

    name: ClassVar[str] = "vosk"
    path: ClassVar[str] = "/"

    def admit(self, request: web.Request) -> Session:
        return VoskSession(self.faults)
