"""The messages to a client of the managed protocol. Pure: no sockets, clocks, environment, broker.

The codec is that of the provider `managed`, which speaks the other side. Numbers in comments are
sections of the fact sheet on the managed proxy; [P] marks its proposals.
"""

from __future__ import annotations

from natterjack.control import is_stop
from natterjack.errors import NatterjackError
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent
from natterjack.plugin.errors import RemoteProtocolError
from worker.providers.managed.protocol import (
    BYTES_PER_SECOND,
    CLOSE_CODES,
    SAMPLE_RATE,
    Auth,
    CreditsLow,
    End,
    Error,
    Finalize,
    Ready,
    SessionEnd,
    Transcript,
    decode_client,
    encode_server,
)

from ...access import Reason

LOW_SECONDS = (300.0, 60.0)
"""6 [P]: `credits_low` is sent once when no more than each of these is left."""
MAX_FRAME_BYTES = 1024 * 1024
"""3.2 [P]."""
REFUSALS = {
    Reason.MISSING: "auth_failed", Reason.WRONG: "auth_failed", Reason.EXPIRED: "auth_failed",
    Reason.DOOR: "auth_failed", Reason.ORIGIN: "auth_failed", Reason.CONVERSATION: "auth_failed",
    Reason.FULL: "too_many_sessions", Reason.RATE: "too_many_sessions",
    Reason.BUDGET: "credits_exhausted",
}  # fmt: skip
"""The code for each reason of a refusal."""


class BadMessage(NatterjackError):
    """A client's message that the protocol does not allow; `code` says what becomes of it."""

    def __init__(self, message: str, code: str = "bad_request") -> None:
        super().__init__(message)
        self.code = code


def first_message(frame: str | bytes) -> Auth:
    """The first frame of a client (3.1). Raises BadMessage."""
    message = _decoded(frame) if isinstance(frame, str) else None
    if not isinstance(message, Auth):
        raise BadMessage("the first frame must be a text of the type auth")
    config = message.config
    if (config.encoding, config.sample_rate, config.channels) != ("linear16", SAMPLE_RATE, 1):
        raise BadMessage(
            f"the audio must be linear16 at {SAMPLE_RATE} Hz with 1 channel, not "
            f"{config.encoding[:40]} at {config.sample_rate} Hz with {config.channels}"
        )
    return message


def later_message(frame: str) -> Finalize | End | None:
    """A later text of a client; None if it is of a type that is ignored. Raises BadMessage."""
    message = _decoded(frame)
    if isinstance(message, Auth):
        raise BadMessage("auth was sent twice")
    return message if isinstance(message, Finalize | End) else None


def _decoded(frame: str) -> object:
    try:
        return decode_client(frame)
    except RemoteProtocolError as error:
        raise BadMessage(f"not a message of this protocol: {error.args[0]}") from None


def close_code(code: str) -> int:
    """The close code that follows an error (6)."""
    return CLOSE_CODES[code]


def error_message(code: str, message: str) -> str:
    """An error, which must come before the close: a client shows nothing else (5)."""
    return encode_server(Error(message[:500], code))


class ManagedStream:
    """The state of one client's stream, after its first message."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._rest = b""
        self._bytes = 0
        self._sequence = 0
        self._low: set[float] = set()
        self._away = self._interim = False

    @property
    def seconds(self) -> float:
        """Seconds of audio received (6 [P]: what the client has used)."""
        return self._bytes / BYTES_PER_SECOND

    @property
    def speaking(self) -> bool:
        """Whether the client was shown text that is not final yet."""
        return self._interim

    def audio(self, data: bytes) -> bytes:
        """Whole samples of the audio so far; an odd byte is kept (3.2 [P]). Raises BadMessage."""
        if len(data) > MAX_FRAME_BYTES:
            raise BadMessage(
                f"a frame of {len(data)} bytes; the limit is {MAX_FRAME_BYTES}", "audio_too_large"
            )
        self._bytes += len(data)
        if self._rest:
            data = self._rest + data
        whole = len(data) & ~1
        self._rest = data[whole:]
        return data[:whole] if self._rest else data

    def ready(self) -> str:
        """Audio may be sent."""
        return encode_server(Ready(self._session_id))

    def receive(self, event: Event) -> list[str]:
        """The messages for an event of the session."""
        match event:
            case FinalEvent() | InterimEvent():
                return self._transcript(event)
            case StatusEvent(state="recovering" | "handed_over"):
                self._away = True
            case StatusEvent(state="streaming") if self._away:
                self._away = False
                return [self.ready()]  # 4: repeated when the upstream is back
        return []

    def _transcript(self, event: FinalEvent | InterimEvent) -> list[str]:
        final = isinstance(event, FinalEvent)
        text = event.text.strip()
        self._interim = bool(text) and not final
        if not text:  # 4: blank texts are dropped by the client
            return []
        message = Transcript(
            text, final, round(event.start, 3), round(event.end, 3), self._sequence,
            self._session_id,
        )  # fmt: skip
        self._sequence += 1
        return [encode_server(message)]

    def balance(self, remaining_seconds: float | None) -> list[str]:
        """The messages when so much credit is left: a warning, once for each threshold (6 [P])."""
        if remaining_seconds is None:
            return []
        passed = {mark for mark in LOW_SECONDS if remaining_seconds <= mark} - self._low
        self._low |= passed
        return [encode_server(CreditsLow(round(remaining_seconds)))] if passed else []

    def end(self) -> str:
        """The last message before our own close."""
        return encode_server(SessionEnd(round(self.seconds, 3)))

    def closing(self, event: StatusEvent) -> tuple[str, str]:
        """The code and the text of the error when a session ends that the client has not ended."""
        why = event.detail or event.reason or event.state
        if event.reason == "budget":
            limited = (event.detail or "").startswith("max_seconds")
            return ("session_limit" if limited else "credits_exhausted"), why
        if is_stop(event.reason):
            return "session_limit", f"the session was stopped: {why}"
        return "upstream_unavailable", f"the session has ended: {why}"


__all__ = ["Auth", "BadMessage", "End", "Finalize", "ManagedStream"]
