"""Emulator of Deepgram's `/v2/speak` (Flux): turn-based text-to-speech that speaks tone words.

Follows the vendor's documentation ("Client Messages", "Server Messages", "The Speech Lifecycle",
"Interruption Handling") and the official SDK. Undocumented behavior is marked "our choice".
"""

from __future__ import annotations

import uuid
from collections import deque
from typing import Any, ClassVar, Final, cast

from aiohttp import web

from natterjack.audio import BYTES_PER_SAMPLE

from ..faults import GARBAGE, Faults
from ..server import Emulator
from ..session import Close, Elapsed, Outgoing, Refusal, Session
from ..spoken import Playout, synthesize
from ..tones import GAP_SECONDS, WORD_SECONDS
from .flux_speak_faults import FluxSpeakFaults
from .flux_speak_messages import close_code, configure_failure, warning
from .flux_speak_query import (
    BadSpeed,
    FluxSpeak,
    Unparsable,
    check_speed,
    parse,
    parse_message,
)
from .flux_speak_turns import BadControl, Plain, Turn, plain
from .query import ERRORS, check_auth, refuse

_MAX_MESSAGE_BYTES: Final = 2_000_000
"""Our choice: the size is not documented."""
_MIN_GAP_SECONDS: Final = 0.03


class FluxSpeakSession(Session):
    """One speak v2 stream."""

    summary_type: ClassVar[str] = "SessionMetadata"
    tick_seconds: ClassVar[float | None] = 0.01
    speaks: ClassVar[bool] = True

    def __init__(self, query: FluxSpeak, faults: Faults, subprotocol: str | None = None) -> None:
        super().__init__(faults)
        self.query = query
        self.speed = query.speed
        self.subprotocol = subprotocol
        self.request_id = str(uuid.uuid4())
        self.headers = {"dg-request-id": self.request_id}
        self._playout = Playout(
            query.sample_rate, query.encoding, self._faults.speech_pace, odd=self._faults.odd_frames
        )
        self.words = self._playout.words
        self._bytes_per_ms = query.sample_rate * BYTES_PER_SAMPLE[query.encoding] / 1000
        self._active: Turn | None = None
        self._pending: deque[Turn] = deque()
        self._texts: dict[str, str] = {}
        """The texts of turns that ended normally, by speech_id."""
        self._origin_ms, self._origin_bytes = 0.0, 0
        """A point of the session's clock."""
        self._last_offset_ms = -1.0
        self._interrupts = 0
        self._answer: tuple[float, list[Outgoing]] | None = None
        """The answer to Interrupt, and when to send it."""
        self._closing = self._closed = False
        self._input = self._billable = 0
        self._now = 0.0
        self._messages = self._messages_before = 0
        self._message_at = 0.0

    @property
    def seconds(self) -> float:
        return self._playout.seconds

    @property
    def mid_word(self) -> bool:
        return self._playout.mid_word

    @property
    def _faults(self) -> FluxSpeakFaults:
        return cast(FluxSpeakFaults, self.faults)

    def seconds_in(self, audio: bytes) -> float:
        return 0.0

    def greeting(self) -> list[Outgoing]:
        if self._faults.no_connected:
            return []
        connected = {
            "type": "Connected",
            "request_id": self.request_id,
            "model_name": self.query.model,
            "model_version": "2026.06.01",
            "model_uuids": ["b3e47c20-9f81-4a2e-bd15-8d7c6e2a1f09"],
        }
        return self._finished([connected])

    def audio(self, audio: bytes) -> list[Outgoing]:
        self._messages += 1
        return [] if self._closed else self._fatal("MESSAGE-0000", "Binary is not expected.")

    def text(self, message: str) -> list[Outgoing]:
        self._messages += 1
        if self._closed or self._closing:
            return []  # undocumented; our choice
        if len(message.encode()) > _MAX_MESSAGE_BYTES:
            return self._fatal("BIG-0000", "The message is too large.")
        try:
            content = parse_message(message)
        except Unparsable:
            return self._fatal("MESSAGE-0000", "The message could not be parsed.")
        match content["type"]:
            case "Speak":
                found = self._speak(content["text"])
            case "Flush":
                found = self._flush()
            case "Interrupt":
                found = self._interrupt(content.get("playback_offset", {}).get("value"))
            case "Configure":
                found = self._configure(content.get("speed"))
            case _:
                found = self._close()
        return self._finished(found)

    def tick(self, elapsed: Elapsed) -> list[Outgoing]:
        self._now = elapsed.open
        faults = self._faults
        if self._messages != self._messages_before:
            self._messages_before, self._message_at = self._messages, elapsed.open
        if self._closed:
            return []
        if elapsed.open >= faults.session_seconds:
            return self._fatal("NET-0003", "The session has reached its time limit.")
        quiet = min(elapsed.without_life, elapsed.open - self._message_at)
        if quiet >= faults.inactive_seconds:
            return self._fatal("NET-0004", "The client was inactive for too long.")
        after = faults.error_after_seconds
        if after is not None and self.seconds >= after and self.hits():
            return self._fatal(faults.error_code, "A fault on demand.")
        found: list[Outgoing] = []
        if self._answer is not None and self._now >= self._answer[0]:
            found += self._answer[1]
            self._answer = None
            found += self._next_turn()
        self._playout.pace = faults.speech_pace
        waiting = True
        while waiting and not self._closed:
            waiting = False
            for one in self._playout.due(self._now):
                found.append(one)
                if isinstance(one, dict) and one["type"] == "SpeechMetadata":
                    found += self._turn_ended(one)
                    waiting = True
        return self._finished(found)

    def final_text(self, message: dict[str, Any]) -> str:
        return (
            self._texts.get(message.get("speech_id", ""), "")
            if "audio_duration_ms" in (message)
            else ""
        )

    def garbage(self) -> dict[str, str | bytes]:
        # A binary frame is audio, whatever it contains.
        kinds = {kind: value for kind, value in GARBAGE.items() if kind != "binary"}
        return {
            **kinds,
            "warning_bare": '{"type": "Warning"}',
            "flushed_bare": '{"type": "Flushed"}',
            "configured_uninvited": '{"type": "ConfigureSuccess", "applied": []}',
        }

    # ---- client messages --------------------------------------------------------------------

    def _speak(self, raw: str) -> list[Outgoing]:
        try:
            text = plain(raw)
        except BadControl as control:
            return self._fatal("DATA-0002", f"Unsupported inline control: {control}")
        if text.pronunciations and self.speed not in (None, 1.0):
            return self._fatal("DATA-0002", "Pronunciation cannot be combined with speed.")
        found: list[Outgoing] = []
        if text.stripped:
            found.append(warning("INPUT_MARKUP_STRIPPED"))
        turn = self._open_turn()
        if turn is None:
            turn = Turn()
            self._pending.append(turn)
        turn.add(text, raw)
        self._count(text, raw)
        return found + (self._synthesize() if turn is self._active else self._next_turn())

    def _open_turn(self) -> Turn | None:
        """The turn that takes text: the last one, if it is not flushed."""
        last = self._pending[-1] if self._pending else self._active
        return None if last is None or last.flushed else last

    def _count(self, text: Plain, raw: str) -> None:
        self._input += len(raw)
        self._billable += len(text.text)

    def _flush(self) -> list[Outgoing]:
        turn = self._open_turn()
        if turn is None:
            return [warning("NO_ACTIVE_SPEECH")]
        turn.flushed = True
        return self._synthesize() if turn is self._active else []

    def _interrupt(self, offset_ms: int | None) -> list[Outgoing]:
        wanted = self._wanted_answer()
        if wanted not in ("normal", "none"):
            return [warning(wanted)]
        if self._answer is not None:
            return [warning("INTERRUPT_IN_PROGRESS")]
        if not self._playout.sent_bytes:
            return [warning("NO_AUDIO_GENERATED")]
        if self._active is None:
            return [warning(self._faults.idle_interrupt)]
        if offset_ms is not None and offset_ms <= self._last_offset_ms:
            return [warning("INVALID_INTERRUPT_OFFSET")]
        turn, self._active = self._active, None
        generated_ms = self._clock_ms
        self._playout.clear()
        answer = self._interrupted(turn, offset_ms, generated_ms)
        late: list[Outgoing] = list(self._late(turn))
        # Our choice: pending turns stay, and the next one becomes active.
        self._answer = (
            self._now + self._faults.interrupt_seconds,
            [] if wanted == "none" else [answer],
        )
        if self._faults.interrupt_seconds:
            return late
        (_, answers), self._answer = self._answer, None
        return late + answers + self._next_turn()

    def _wanted_answer(self) -> str:
        answers, count = self._faults.interrupt_answers, self._interrupts
        self._interrupts += 1
        return answers[count] if count < len(answers) and self.hits() else "normal"

    def _interrupted(self, turn: Turn, offset_ms: int | None, generated_ms: float) -> Any:
        played_ms = round(generated_ms) if offset_ms is None else offset_ms
        in_turn_ms = min(max(played_ms, turn.start_ms), generated_ms) - turn.start_ms
        message: dict[str, Any] = {"type": "SpeechInterrupted", "audio_played_ms": played_ms}
        if offset_ms is not None:
            spoken, remaining = turn.split(in_turn_ms / 1000)
            message |= {"text_spoken": spoken, "text_remaining": remaining}
        self._last_offset_ms = played_ms
        if self._faults.rebases:
            self._origin_ms, self._origin_bytes = played_ms, self._playout.sent_bytes
        return {**message, "metadata": turn.metadata(in_turn_ms)}

    def _late(self, turn: Turn) -> list[bytes]:
        """Frames of a cancelled turn that were on their way."""
        audio = synthesize(turn.text, self.query.sample_rate, self.query.encoding)
        size = int(20 * self._bytes_per_ms) // 2 * 2
        count = self._faults.audio_after_interrupt
        return [part for at in range(count) if (part := audio[at * size : (at + 1) * size])]

    def _configure(self, speed: float | None) -> list[Outgoing]:
        answer = self._faults.configure_answer
        if answer == "none":
            return []
        code = {"not_supported": "SPEED_NOT_SUPPORTED", "internal": "INTERNAL_ERROR"}.get(answer)
        if speed is not None and code is None:
            try:
                check_speed(speed)
            except BadSpeed as wrong:
                code = wrong.code
            if speed != 1.0 and any(turn.pronunciations for turn in self._pending):
                code = "CONTROL_COMBINATION_INVALID"
        if code is not None:
            return [configure_failure(code, speed)]
        self.speed = self.speed if speed is None else speed
        applied = {} if self.speed is None else {"speed": self.speed}
        return [{"type": "ConfigureSuccess", "applied": applied}]

    def _close(self) -> list[Outgoing]:
        """Drain: all turns are spoken. Text without a Flush, too; our choice."""
        self._closing = True
        found: list[Outgoing] = []
        for turn in (self._active, *self._pending):
            if turn is not None and not turn.flushed:
                turn.flushed = True
                found += self._synthesize() if turn is self._active else []
        return found + self._end_if_drained()

    # ---- turns ------------------------------------------------------------------------------

    @property
    def _clock_ms(self) -> float:
        """The session's clock: audio that was sent, rebased by interrupts."""
        sent = self._playout.sent_bytes - self._origin_bytes
        return self._origin_ms + sent / self._bytes_per_ms

    @property
    def _gap_seconds(self) -> float:
        """The silence after a word, so that words take as long as the speed says, if they can."""
        word_seconds = (WORD_SECONDS + GAP_SECONDS) / (self.speed or 1.0)
        return max(_MIN_GAP_SECONDS, word_seconds - WORD_SECONDS)

    def _next_turn(self) -> list[Outgoing]:
        """Make the next pending turn active, if none is and no Interrupt is in progress."""
        if self._active is not None or not self._pending or self._answer is not None:
            return self._end_if_drained()
        turn = self._active = self._pending.popleft()
        turn.start_ms, turn.start_bytes = self._clock_ms, self._playout.sent_bytes
        found: list[Outgoing] = [{"type": "SpeechStarted", "speech_id": turn.speech_id}]
        faults = self._faults
        if (faults.synthesis_retries or faults.synthesis_fails) and self.hits():
            found += [warning("SYNTHESIS_RETRYING")] * faults.synthesis_retries
            if faults.synthesis_fails:
                return found + self._fatal("NET-0000", "Synthesis failed.")
        return found + self._synthesize()

    def _synthesize(self) -> list[Outgoing]:
        """Synthesize what is ready of the active turn; after Flush, to its end."""
        turn = self._active
        assert turn is not None
        flushed = {"type": "Flushed", "speech_id": turn.speech_id}
        gap, place = self._gap_seconds, self._faults.flushed
        rest = turn.segment(gap)
        if turn.flushed and place == "before":
            self._playout.add(flushed)
        head, tail = rest, ""
        if turn.flushed and place == "in" and " " in rest:
            at = rest.index(" ") + 1
            head, tail = rest[:at], rest[at:]
        self._playout.speak(head, gap)
        if turn.flushed:
            if place == "in":
                self._playout.add(flushed)
                self._playout.speak(tail, gap)
            if turn.silent:
                self._playout.add(warning("NO_SYNTHESIZABLE_TEXT"))
            self._playout.add({"type": "SpeechMetadata", "speech_id": turn.speech_id})
            if place == "after":
                self._playout.add(flushed)
        return []

    def _turn_ended(self, message: dict[str, Any]) -> list[Outgoing]:
        """Complete SpeechMetadata of the active turn, and go on to the next."""
        turn, self._active = self._active, None
        assert turn is not None
        sent = self._playout.sent_bytes - turn.start_bytes
        message |= turn.metadata(sent / self._bytes_per_ms)
        self._texts[turn.speech_id] = turn.text
        return self._next_turn()

    def _end_if_drained(self) -> list[Outgoing]:
        idle = self._active is None and not self._pending and self._answer is None
        if not (self._closing and idle) or self._closed:
            return []
        self._closed = True
        totals = {
            "type": "SessionMetadata",
            "total_audio_duration_ms": round(self._clock_ms),
            "total_input_character_count": self._input,
            "total_billable_character_count": self._billable,
        }
        return [totals, Close(1000)]

    def _fatal(self, code: str, description: str) -> list[Outgoing]:
        """Send an Error and close."""
        self._closed = True
        self._playout.clear()
        error = {"type": "Error", "code": code, "description": description}
        return [*self._finished([error]), Close(close_code(code))]

    def _finished(self, messages: list[Outgoing]) -> list[Outgoing]:
        if self._faults.extra_fields:
            for message in messages:
                if isinstance(message, dict):
                    message["x_extra"] = {"deep": [1, None, {"er": True}]}
        return messages


class DeepgramFluxSpeakEmulator(Emulator):
    """Server at `ws://127.0.0.1:<port>/v2/speak`."""

    name: ClassVar[str] = "deepgram-flux-speak"
    path: ClassVar[str] = "/v2/speak"
    faults_model: ClassVar[type[Faults]] = FluxSpeakFaults

    def admit(self, request: web.Request) -> Session:
        subprotocol = check_auth(request, self.api_key)
        query = {name: request.query.getall(name) for name in request.query}
        return FluxSpeakSession(parse(query), self.faults, subprotocol)

    def refusal(self, status: int) -> Refusal:
        code, message = ERRORS.get(status, ("Error", f"HTTP {status}"))
        return refuse(status, code, message)
