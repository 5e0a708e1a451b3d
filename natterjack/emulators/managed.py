"""Emulator of a managed proxy's `/ws/transcribe`, based on the Deepgram emulator's decoder.

Follows the fact sheet, which documents only the client's side ([C]). Proposals for the server ([P])
are marked. Written from the tables, not with the plugin's own codec.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, ClassVar, Final, Literal, cast

from aiohttp import web
from pydantic import Field

from .deepgram.channel import Channel
from .deepgram.query import Listen
from .faults import GARBAGE, Faults
from .server import Emulator
from .session import Close, Outgoing, Session

SAMPLE_RATE: Final = 16_000
_STEP_BYTES: Final = 640
_MAX_FRAME_BYTES: Final = 1024 * 1024
"""Limit of a frame (3.2 [P])."""
_LOW_SECONDS: Final = (300.0, 60.0)
"""Balances at which credits_low is sent, once each (6 [P])."""
CLOSE_CODES: Final = {
    "bad_request": 1008,
    "auth_failed": 4401,
    "credits_exhausted": 4402,
    "too_many_sessions": 4429,
    "upstream_unavailable": 1013,
    "internal": 1011,
    "audio_too_large": 1009,
    "session_limit": 4408,
}
"""Close code of each error (6 [P])."""


class ManagedFaults(Faults):
    """Switches of this emulator."""

    extended: bool = Field(
        False,
        description="accept `end` and `finalize`; send times, sequence numbers and session ids",
    )
    interims: bool = Field(True, description="forward interims")
    blanks: bool = Field(True, description="forward transcripts of silence")
    endpointing_ms: int = Field(300, description="silence that ends an utterance upstream")
    first_reply: Literal["ready", "transcript", "unknown", "none"] = Field(
        "ready", description="answer to the token"
    )
    auth_error: str | None = Field(None, description="code of an error that refuses the token")
    error_after_seconds: float | None = Field(
        None, description="send an error with `error_code` at this position"
    )
    error_code: str | None = Field("internal", description="code of errors; none for no code")
    error_closes: bool = Field(True, description="close after an error")
    ready_again_after_seconds: float | None = Field(
        None, description="send `ready` again at this position, as after an upstream failure"
    )
    credits_seconds: float | None = Field(None, description="the balance; none for no limit")


class ManagedSession(Session):
    """One session of the proxy."""

    summary_type: ClassVar[str] = "session_end"

    def __init__(self, faults: Faults, token: str | None) -> None:
        super().__init__(faults)
        self.request_id = str(uuid.uuid4())
        self.auth: dict[str, Any] | None = None
        """The first frame of the client."""
        self._token = token
        self._channel: Channel | None = None
        self._rest = b""
        self._bytes = 0
        self._sequence = 0
        self._low: set[float] = set()
        self._ready_again = self._erred = self._closed = False

    @property
    def switches(self) -> ManagedFaults:
        return cast(ManagedFaults, self.faults)

    @property
    def seconds(self) -> float:
        return self._bytes / 2 / SAMPLE_RATE

    @property
    def mid_word(self) -> bool:
        return self._channel is not None and self._channel.mid_word

    def seconds_in(self, audio: bytes) -> float:
        return len(audio) / 2 / SAMPLE_RATE

    def text(self, message: str) -> list[Outgoing]:
        if self._closed:
            return []
        content = _object(message)
        if self.auth is None:
            return self._authenticate(content)
        kind = None if content is None else content.get("type")
        if self._channel is None or not self.switches.extended:
            return []  # 4: both sides ignore unknown messages (our choice)
        if kind == "finalize":
            return self._transcripts(self._channel.flush(self.words, from_finalize=True))
        if kind == "end":
            self._closed = True
            last = self._transcripts(self._channel.end(self.words))
            return [*last, self._session_end(), Close(1000)]
        return []

    def audio(self, audio: bytes) -> list[Outgoing]:
        if self._closed:
            return []
        if self._channel is None:
            return self._error("bad_request", "the first frame must be auth")
        if len(audio) > _MAX_FRAME_BYTES:
            return self._error("audio_too_large", f"{len(audio)} bytes")
        self._bytes += len(audio)
        audio = self._rest + audio  # 3.2 [P]: an odd byte is carried over
        whole = len(audio) & ~1
        self._rest = audio[whole:]
        answers: list[Outgoing] = []
        for at in range(0, whole, _STEP_BYTES):
            piece = audio[at : min(at + _STEP_BYTES, whole)]
            answers += self._transcripts(self._channel.process(piece, self.words))
        return answers + self._events()

    def timed_out(self) -> list[Outgoing]:
        """Refuse a client without a first frame after ten seconds (6 [P])."""
        if self.auth is not None or self._closed:
            return []
        return self._error("bad_request", "no auth in time")

    def final_text(self, message: dict[str, Any]) -> str:
        final = message.get("type") == "transcript" and message["is_final"]
        return str(message["text"]) if final else ""

    def garbage(self) -> dict[str, str | bytes]:
        return {
            **GARBAGE,
            "text_no_text": '{"type": "transcript", "text": 7, "is_final": false}',
            "no_seconds": '{"type": "credits_low"}',
            "not_a_number": '{"type": "session_end", "seconds_used": NaN}',
            "backwards": '{"type": "transcript", "text": "x", "start": 2, "end": 1}',
        }

    def _authenticate(self, content: dict[str, Any] | None) -> list[Outgoing]:
        switches = self.switches
        if content is None or content.get("type") != "auth":
            return self._error("bad_request", "the first frame must be auth")
        self.auth = content
        token, config = content.get("token"), content.get("config")
        if not isinstance(token, str) or not token or not isinstance(config, dict):
            return self._error("bad_request", "auth without token or config")
        if self._token is not None and token != self._token:
            return self._error("auth_failed", "Token is invalid or expired")
        audio = (config.get("encoding"), config.get("sample_rate"), config.get("channels"))
        if audio != ("linear16", SAMPLE_RATE, 1):
            return self._error("bad_request", f"unsupported audio: {audio}")
        if switches.auth_error is not None:
            return self._error(switches.auth_error, "refused by a switch")
        decoder = self.recognizer(SAMPLE_RATE, "linear16")
        self._channel = Channel(0, 1, self._query(config), decoder)
        match switches.first_reply:
            case "none":
                return []
            case "transcript":
                return [{"type": "transcript", "text": "hello", "is_final": True}]
            case "unknown":
                return [{"type": "welcome"}]
        return [self._ready()]

    def _query(self, config: dict[str, Any]) -> Listen:
        """Return the query for the upstream."""
        return Listen(
            encoding="linear16",
            sample_rate=SAMPLE_RATE,
            channels=1,
            multichannel=False,
            model=str(config.get("model")),
            interim_results=config.get("interim_results") is True and self.switches.interims,
            endpointing_ms=self.switches.endpointing_ms,
            utterance_end_ms=None,
            vad_events=False,
            punctuated=True,
            diarize=False,
            extra={},
            keyterms=(),
        )

    def _transcripts(self, results: list[dict[str, Any]]) -> list[Outgoing]:
        """Convert the upstream's results to the proxy's messages."""
        passed: list[Outgoing] = []
        for result in results:
            text = result["channel"]["alternatives"][0]["transcript"]
            if not text and not self.switches.blanks:
                continue
            message = {"type": "transcript", "text": text, "is_final": result["is_final"]}
            if self.switches.extended:
                message |= {
                    "start": result["start"],
                    "end": round(result["start"] + result["duration"], 6),
                    "seq": self._sequence,
                    "session_id": self.request_id,
                }
                self._sequence += 1
            passed.append(message)
        return passed

    def _events(self) -> list[Outgoing]:
        """Return the events due at this position of the audio."""
        switches, events = self.switches, cast(list[Outgoing], [])
        again = switches.ready_again_after_seconds
        if again is not None and self.seconds >= again and not self._ready_again:
            self._ready_again = True
            events.append(self._ready())
        after = switches.error_after_seconds
        if after is not None and self.seconds >= after and not self._erred:
            self._erred = True
            events += self._error(switches.error_code, "by a switch", close=switches.error_closes)
        if switches.credits_seconds is not None:
            events += self._meter(switches.credits_seconds)
        return events

    def _meter(self, credits_seconds: float) -> list[Outgoing]:
        left = credits_seconds - self.seconds
        if left <= 0:
            # 6 [P]: the upstream is finished normally.
            assert self._channel is not None
            last = self._transcripts(self._channel.end(self.words))
            message = {
                "type": "error",
                "code": "credits_exhausted",
                "message": "No credits are left",
            }
            self._closed = True
            return [message, *last, self._session_end(), Close(CLOSE_CODES["credits_exhausted"])]
        passed = [mark for mark in _LOW_SECONDS if left <= mark and mark not in self._low]
        self._low.update(passed)
        return [{"type": "credits_low", "seconds_remaining": round(left)}] if passed else []

    def _ready(self) -> dict[str, Any]:
        more = {"session_id": self.request_id} if self.switches.extended else {}
        return {"type": "ready", **more}

    def _session_end(self) -> dict[str, Any]:
        return {"type": "session_end", "seconds_used": round(self.seconds, 3)}

    def _error(self, code: str | None, message: str, *, close: bool = True) -> list[Outgoing]:
        content = {"type": "error", "message": message} | ({} if code is None else {"code": code})
        if not close:
            return [content]
        self._closed = True
        return [content, Close(CLOSE_CODES.get(code or "", 1011))]


def _object(message: str) -> dict[str, Any] | None:
    try:
        content = json.loads(message)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


class ManagedEmulator(Emulator):
    """Server at `ws://127.0.0.1:<port>/ws/transcribe`; `api_key` is the token."""

    name: ClassVar[str] = "managed"
    path: ClassVar[str] = "/ws/transcribe"
    faults_model: ClassVar[type[Faults]] = ManagedFaults

    def admit(self, request: web.Request) -> Session:
        return ManagedSession(self.faults, self.api_key)
