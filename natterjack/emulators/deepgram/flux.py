"""Emulator of Deepgram's `/v2/listen` (Flux): turn-based speech-to-text for tone words.

Follows the vendor's documentation ("Flux quickstart", "Flux state machine", "Configure", "Force End
Turn", "Close Stream", "Errors") and the shapes of deepgram-asyncapi.yml. Undocumented
behavior is marked "our choice".
"""

from __future__ import annotations

import json
import uuid
from typing import Any, ClassVar, Final, Literal, cast

from aiohttp import web
from pydantic import Field

from natterjack.audio import BYTES_PER_SAMPLE, Encoding

from ..faults import GARBAGE, Faults
from ..server import Emulator
from ..session import Close, Elapsed, Outgoing, Refusal, Session
from .flux_query import (
    MULTILINGUAL,
    Config,
    FluxListen,
    Invalid,
    Unparsable,
    configured,
    parse,
)
from .flux_turns import Turns
from .query import ERRORS, check_auth, refuse

_STEP_SECONDS: Final = 0.02
"""Length of a processing step, short so that results do not depend on the frame size."""
_UNDECODABLE: Final = Close(1008, "DATA-0000: The payload cannot be decoded as audio.")


class FluxFaults(Faults):
    """Switches of this emulator."""

    decode_lag_seconds: float = Field(0.1, ge=0, description="delay of decoding after receipt")
    inactive_seconds: float = Field(
        60, gt=0, description="end the stream after this long without audio, text or pings"
    )
    no_connected: bool = Field(False, description="never send Connected")
    mute_in_turn_words: int | None = Field(
        None, description="send nothing once the open turn has this many words; pings continue"
    )
    resume_after_eager: bool = Field(
        False, description="send TurnResumed after each turn's first EagerEndOfTurn, without speech"
    )
    contradict_after_seconds: float | None = Field(
        None, description="spell words older than this backwards"
    )
    words_without_times: Literal["never", "end_of_turn", "always"] = "never"
    no_words: bool = Field(False, description="`words` is always empty")
    sequence_gap_after: int | None = Field(
        None, description="skip one sequence_id after this many messages"
    )
    configure_answer: Literal["normal", "bare", "failure", "none"] = Field(
        "normal", description="bare: without request_id and sequence_id, as in the vendor's samples"
    )
    configure_delay_seconds: float = Field(
        0, ge=0, description="answer Configure after this much more audio"
    )
    error_code: str = "INTERNAL_SERVER_ERROR"
    error_after_seconds: float | None = Field(
        None, description="send an Error with `error_code` at this position"
    )
    legacy_close: bool = Field(False, description="CloseStream ends the open turn with EndOfTurn")
    lost_end_of_turn: bool = Field(False, description="never send EndOfTurn")
    missing_start: bool = Field(False, description="send an Update instead of StartOfTurn")
    unknown_events: bool = Field(False, description="send Updates as the unknown event Musing")
    unknown_trigger: bool = Field(False, description="turns end with an unknown trigger")
    extra_fields: bool = Field(False, description="messages have undocumented fields")


class FluxSession(Session):
    """One listen v2 stream."""

    tick_seconds: ClassVar[float | None] = 0.05

    def __init__(self, query: FluxListen, faults: Faults, subprotocol: str | None = None) -> None:
        super().__init__(faults)
        self.query = query
        self.config: Config = query.config
        self.subprotocol = subprotocol
        self.request_id = str(uuid.uuid4())
        self.headers = {"dg-request-id": self.request_id}
        self._decodable = query.encoding in BYTES_PER_SAMPLE
        encoding = cast(Encoding, query.encoding if self._decodable else "linear16")
        self._frame = BYTES_PER_SAMPLE[encoding]
        self._turns = Turns(self.recognizer(query.sample_rate or 16000, encoding))
        self._rest = b""
        self._sequence = 0
        self._muted = False
        self._resumed_turn = -1
        self._closed = False
        self._texts = self._texts_before = 0
        self._text_at = 0.0
        self._pending: tuple[float, dict[str, Any]] | None = None
        """An answer to Configure, and the audio position at which to send it, in seconds."""

    @property
    def seconds(self) -> float:
        return self._turns.decoder.seconds if self._decodable else 0.0

    @property
    def mid_word(self) -> bool:
        return self._turns.mid_word

    @property
    def _faults(self) -> FluxFaults:
        return cast(FluxFaults, self.faults)

    def seconds_in(self, audio: bytes) -> float:
        return len(audio) / self._frame / self.query.sample_rate if self._decodable else 0.0

    def greeting(self) -> list[Outgoing]:
        if self._faults.no_connected:
            return []
        return self._outgoing([{"type": "Connected", "request_id": self.request_id}])

    def audio(self, audio: bytes) -> list[Outgoing]:
        if self._closed or not audio:
            return []  # both undocumented; our choice
        if not self._decodable:
            self._closed = True
            return [_UNDECODABLE]
        answers: list[Outgoing] = []
        audio = self._rest + audio
        step = int(_STEP_SECONDS * self.query.sample_rate) * self._frame
        whole = len(audio) - len(audio) % self._frame
        self._rest = audio[whole:]
        for at in range(0, whole, step):
            piece, lag = audio[at : min(at + step, whole)], self._faults.decode_lag_seconds
            for message in self._turns.process(piece, lag, self.config, self.words):
                answers += self._outgoing([message])
                answers += self._resume_after_eager(message)
            if self._pending is not None and self.seconds >= self._pending[0]:
                answer, self._pending = self._pending[1], None
                answers += self._outgoing([answer])
            if self._error_due():
                return [*answers, *self._fatal(self._faults.error_code, "A fault on demand.")]
        return answers

    def text(self, message: str) -> list[Outgoing]:
        self._texts += 1
        if self._closed:
            return []
        try:
            content = json.loads(message)
        except ValueError:
            return self._unparsable()
        if not isinstance(content, dict):
            return self._unparsable()
        match content.get("type"):
            case "CloseStream":
                return self._close_stream()
            case "ForceEndTurn":
                return self._outgoing([self._force_end_turn()])
            case "Configure":
                return self._configure(content)
        # "Errors": KeepAlive and Finalize do not exist here.
        return self._unparsable()

    def tick(self, elapsed: Elapsed) -> list[Outgoing]:
        if self._texts != self._texts_before:
            self._texts_before, self._text_at = self._texts, elapsed.open
        quiet = min(elapsed.without_life, elapsed.open - self._text_at)
        if self._closed or quiet < self._faults.inactive_seconds:
            return []
        return self._fatal("INACTIVE_CLIENT", "The client was inactive for too long.")

    def final_text(self, message: dict[str, Any]) -> str:
        return str(message["transcript"]) if message.get("event") == "EndOfTurn" else ""

    def garbage(self) -> dict[str, str | bytes]:
        base = {"type": "TurnInfo", "event": "Update", "turn_index": self._turns.index}
        window = {"audio_window_start": 0.0, "audio_window_end": self._turns.window_end}
        bare = {**base, **window, "transcript": None, "end_of_turn_confidence": 0.1}
        return {
            **GARBAGE,
            "no_words": json.dumps(bare),
            "words_not_objects": json.dumps({**bare, "words": ["hello"]}),
            "wrong_types": json.dumps({**bare, "words": {}, "turn_index": "first"}),
            "not_a_number": json.dumps({**bare, "words": float("nan"), "audio_window_end": -1}),
        }

    # ---- client messages --------------------------------------------------------------------

    def _force_end_turn(self) -> dict[str, Any]:
        ended = self._turns.force_end(self._faults.decode_lag_seconds)
        return ended or {
            "type": "Warning",
            "request_id": self.request_id,
            "code": "FORCE_END_TURN_NO_ACTIVE_TURN",
            "description": "ForceEndTurn was ignored because no turn is active.",
        }

    def _close_stream(self) -> list[Outgoing]:
        answers = self._outgoing(self._turns.close(self.words))
        if self._faults.legacy_close and (ended := self._turns.end_open()):
            answers += self._outgoing([ended])
        self._closed = True
        return [*answers, Close(None)]

    def _configure(self, content: dict[str, Any]) -> list[Outgoing]:
        faults = self._faults
        try:
            changed = configured(self.config, content, self.query.model)
            if faults.configure_answer == "failure":
                raise Invalid("INVALID_THRESHOLD", "A fault on demand.")
            if self._pending is not None:
                # The limit of unanswered requests is undocumented; our choice: one.
                raise Invalid("CONFIGURE_ALREADY_PENDING", "A Configure is pending.")
        except Unparsable:
            return self._unparsable()
        except Invalid as invalid:
            failure = {"code": invalid.code, "description": invalid.description}
            return self._answer({"type": "ConfigureFailure", **failure})
        self.config = changed
        return self._answer({"type": "ConfigureSuccess", **changed.as_message()})

    def _answer(self, answer: dict[str, Any]) -> list[Outgoing]:
        faults = self._faults
        if faults.configure_answer == "none":
            return []
        if faults.configure_delay_seconds and self._pending is None:
            self._pending = self.seconds + faults.configure_delay_seconds, answer
            return []
        return self._outgoing([answer])

    def _unparsable(self) -> list[Outgoing]:
        description = (
            "Text message received from client did not match any of the formats we expect."
        )
        return self._fatal("UNPARSABLE_CLIENT_MESSAGE", description)

    def _fatal(self, code: str, description: str) -> list[Outgoing]:
        """Send an Error and close. The close code is undocumented (our choice)."""
        self._closed = True
        error = {"type": "Error", "code": code, "description": description}
        return [*self._outgoing([error]), Close(1011)]

    # ---- faults -----------------------------------------------------------------------------

    def _error_due(self) -> bool:
        after = self._faults.error_after_seconds
        return after is not None and self.seconds >= after and self.hits()

    def _resume_after_eager(self, message: dict[str, Any]) -> list[Outgoing]:
        eager = message["event"] == "EagerEndOfTurn" and self._faults.resume_after_eager
        if not eager or self._resumed_turn == self._turns.index:
            return []
        self._resumed_turn = self._turns.index
        return self._outgoing([self._turns.resume()])

    def _outgoing(self, messages: list[dict[str, Any]]) -> list[Outgoing]:
        """Number the messages and distort them according to the switches."""
        faults = self._faults
        limit = faults.mute_in_turn_words
        if not self._muted and limit is not None and self._turns.words >= limit:
            self._muted = self.hits()
        outgoing: list[Outgoing] = []
        for message in messages:
            if message["type"] == "TurnInfo":
                message["request_id"] = self.request_id
                if self._distorted(message):
                    continue
            elif message["type"].startswith("Configure") and faults.configure_answer != "bare":
                message["request_id"] = self.request_id
            if self._sequence == faults.sequence_gap_after:
                self._sequence += 1
            if not message["type"].startswith("Configure") or faults.configure_answer != "bare":
                message["sequence_id"] = self._sequence
            self._sequence += 1
            if faults.extra_fields:
                message["x_extra"] = {"deep": [1, None, {"er": True}]}
            if not self._muted:
                outgoing.append(message)
        return outgoing

    def _distorted(self, message: dict[str, Any]) -> bool:
        """Distort a TurnInfo according to the switches. Return whether to drop it."""
        faults = self._faults
        event, words = message["event"], message["words"]
        if event == "EndOfTurn" and faults.lost_end_of_turn:
            return True
        if event == "EndOfTurn" and faults.unknown_trigger:
            message["trigger"] = "moon"
        if event == "StartOfTurn" and faults.missing_start:
            message["event"] = "Update"
        if event == "Update" and faults.unknown_events:
            message["event"] = "Musing"
        if self.query.model == MULTILINGUAL:
            if words:
                message["languages"] = ["en"]
            if self.config.language_hints:
                message["languages_hinted"] = list(self.config.language_hints)
        if faults.contradict_after_seconds is not None:
            old = message["audio_window_end"] - faults.contradict_after_seconds
            for word in words:
                if word["end"] < old:
                    word["word"] = word["word"][::-1]
            message["transcript"] = " ".join(word["word"] for word in words)
        untimed = {"always": True, "end_of_turn": event == "EndOfTurn"}
        if untimed.get(faults.words_without_times, False):
            for word in words:
                del word["start"], word["end"]
        if faults.no_words:
            message["words"] = []
        return False


class DeepgramFluxEmulator(Emulator):
    """Server at `ws://127.0.0.1:<port>/v2/listen`."""

    name: ClassVar[str] = "deepgram-flux"
    path: ClassVar[str] = "/v2/listen"
    faults_model: ClassVar[type[Faults]] = FluxFaults

    def admit(self, request: web.Request) -> Session:
        subprotocol = check_auth(request, self.api_key)
        query = {name: request.query.getall(name) for name in request.query}
        return FluxSession(parse(query), self.faults, subprotocol)

    def refusal(self, status: int) -> Refusal:
        code, message = ERRORS.get(status, ("Error", f"HTTP {status}"))
        return refuse(status, code, message)
