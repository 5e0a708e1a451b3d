"""A session of Speechmatics' realtime WebSocket (version 2), for tone words.

Follows the vendor's specification (specs/speechmatics-realtime.yaml) and documentation ("Error
handling", "Limits", "Turn detection"). Undocumented behavior is marked "our choice".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, cast

import numpy as np

from natterjack.audio import Encoding

from ..faults import GARBAGE, Faults
from ..session import Close, Elapsed, Outgoing, Session
from .engine import AnyEngine, Engine
from .faults import SessionFaults, close_code
from .spec import REALTIME, Specification
from .start import ENCODINGS, judge
from .time_limits import LIFELESS_SECONDS, TimeLimits

_STEP_SECONDS: Final = 0.02
"""Length of a processing step, short so that results do not depend on the frame size."""


class RecognitionSession(Session):
    """One realtime session."""

    summary_type: ClassVar[str] = "EndOfTranscript"
    type_field: ClassVar[str] = "message"
    tick_seconds: ClassVar[float | None] = 0.02
    specification: ClassVar[Specification] = REALTIME
    final_kind: ClassVar[str] = "AddTranscript"
    # "AudioAdded": a server that lags behind stops reading.
    read_ahead_frames: ClassVar[int | None] = 64

    def __init__(
        self, faults: Faults, usage: int = 1, refusal: Literal["", "not_authorised"] = ""
    ) -> None:
        super().__init__(faults)
        self.request_id = str(uuid.uuid4())
        self.received: list[dict[str, Any]] = []
        """JSON messages of the client."""
        self.frames = 0
        self.last_seq_no: int | None = None
        """The sequence number in EndOfStream."""
        self._usage = usage
        self._refusal = refusal
        self._started = False
        self._asked = False
        self._over = False
        self._ended = False
        self._limited = False
        self._garbled = False
        self._clock_start: float | None = None
        """Where the clock restarted, in seconds of audio; None if it never did."""
        self._warned: set[str] = set()
        self._time_limits = TimeLimits()
        self._pending_start: dict[str, Any] | None = None
        self._start_at: float | None = None
        self._engine: AnyEngine | None = None
        self._encoding = ""
        self._rate = 16000
        self._rest = b""

    @property
    def _switches(self) -> SessionFaults:
        return cast(SessionFaults, self.faults)

    # ---- what depends on the endpoint -------------------------------------------------------

    def engine(self, content: dict[str, Any], encoding: Encoding) -> AnyEngine:
        """Return the engine for a StartRecognition."""
        config, delimiter = content["transcription_config"], self._switches.word_delimiter
        return Engine(config, self.recognizer(self._rate, encoding), delimiter, self.words)

    def switch_engine(self, engine: AnyEngine) -> None:
        """Pass switches to the engine."""
        for switch in ("quiet_in_silence", "late_punctuation", "overreaching_finals"):
            setattr(engine, switch, getattr(self.faults, switch))

    def usage_info(self, quota: int) -> dict[str, Any]:
        """Return the Info about concurrent sessions."""
        return {
            "message": "Info",
            "type": "concurrent_session_usage",
            "reason": f"{self._usage} concurrent sessions active out of quota {quota}",
            "usage": self._usage,
            "quota": quota,
            "last_updated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": "eu",
        }

    def error(self, kind: str, reason: str) -> dict[str, Any]:
        """Return an Error."""
        return {"message": "Error", "type": kind, "reason": reason, "code": close_code(kind)}

    def garble(self, final: dict[str, Any]) -> None:
        """Make the text of a final unreadable."""
        final["metadata"] = final["results"] = None

    def before(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Return unusual messages that precede a message."""
        if not (
            getattr(self.faults, "language_info", False) and message["message"] == "AddTranscript"
        ):
            return []
        return [
            {
                "message": "LanguageInfo",
                "language": "en",
                "word_delimiter": self._switches.word_delimiter,
                "writing_direction": "left-to-right",
                "partial": False,
            }
        ]

    # ---- the log ----------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        return 0.0 if self._engine is None else self._engine.seconds

    @property
    def mid_word(self) -> bool:
        return self._engine is not None and self._engine.mid_word

    def seconds_in(self, audio: bytes) -> float:
        width = ENCODINGS[self._encoding][0] if self._encoding else 2
        return len(audio) / width / self._rate

    def final_text(self, message: dict[str, Any]) -> str:
        if message["message"] != "AddTranscript" or not message.get("metadata"):
            return ""
        return str(message["metadata"]["transcript"]).strip()

    # ---- before audio -----------------------------------------------------------------------

    def greeting(self) -> list[Outgoing]:
        if self._refusal:
            return self._fail(self._refusal, "Not Authorised")
        quota = self._switches.quota
        messages: list[Outgoing] = [
            {
                "message": "Info",
                "type": "recognition_quality",
                "reason": "Running recognition using a broadcast model quality.",
                "quality": "broadcast",
            },
            self.usage_info(quota or 50),
        ]
        if quota is not None and self._usage > quota:
            # "Limits": the quota is known only after the handshake.
            messages += self._fail("quota_exceeded", "Concurrent Quota Exceeded")
        return messages

    def text(self, message: str) -> list[Outgoing]:
        if self._over:
            return []
        try:
            content = json.loads(message)
        except ValueError:
            return self._fail("invalid_message", "The message is not JSON")
        kind = content.get("message") if isinstance(content, dict) else None
        if kind not in self.specification.messages("publish") - {"AddAudio"}:
            return self._fail("invalid_message", f"Unknown message {kind!r}")
        self.received.append(content)
        if kind == "StartRecognition":
            return self._start(content)
        if not self._started:
            return self._fail("protocol_error", f"{kind} before RecognitionStarted")
        problems = self.specification.problems(content)
        if problems:
            (path, why) = problems[0]
            wrong = "invalid_config" if kind == "SetRecognitionConfig" else "invalid_message"
            return self._fail(wrong, f"{'.'.join(map(str, path))}: {why}")
        return self._control(kind, content)

    def _start(self, content: dict[str, Any]) -> list[Outgoing]:
        if self._asked:
            return self._fail("protocol_error", "StartRecognition a second time")
        self._asked = True
        wrong = judge(self.specification, content)
        if wrong is not None:
            return self._fail(*wrong)
        faults = self._switches
        if faults.error_type is not None and faults.error_after_seconds is None and self.hits():
            return self._fail(faults.error_type, "at the start")
        if faults.no_recognition_started and self.hits():
            return []
        audio = content["audio_format"]
        self._encoding, self._rate = audio["encoding"], audio["sample_rate"]
        encoding = ENCODINGS[self._encoding][1]
        self._engine = self.engine(content, encoding)
        started = {
            "message": "RecognitionStarted",
            "id": self.request_id,
            "orchestrator_version": "2025.11.07+cd4ff775c0+14.7.0",
            "language_pack_info": {
                "adapted": False,
                "itn": True,
                "language_description": "English",
                "word_delimiter": faults.word_delimiter,
                "writing_direction": "left-to-right",
            },
        }
        if faults.start_delay_seconds:
            self._pending_start = started
            return []
        self._started = True
        return self._outgoing([started])

    # ---- audio ------------------------------------------------------------------------------

    def audio(self, audio: bytes) -> list[Outgoing]:
        if self._over:
            return []
        if not self._started or self._engine is None:
            return self._fail("protocol_error", "AddAudio before RecognitionStarted")
        if self._ended:
            return self._warn("add_audio_after_eos", "Audio after EndOfStream is ignored")
        self.frames += 1
        faults = self._switches
        added = {"message": "AudioAdded", "seq_no": self.frames}
        answers = [] if self._past(faults.withhold_acks_after_seconds) else self._outgoing([added])
        if self._limited:
            return answers
        self.switch_engine(self._engine)
        before = self.seconds
        transcripts = self._process(audio)
        if self._clock_start is None and self._past(faults.parks_after_seconds):
            self._clock_start = before if faults.clock_after_parking == "restart" else 0.0
        for transcript in transcripts:
            self._set_back(transcript)
            if self._past(faults.no_transcripts_after_seconds):
                continue
            final = transcript["message"] == self.final_kind
            if final and not self._garbled and self._past(faults.unreadable_final_after_seconds):
                self._garbled = True
                self.garble(transcript)
            answers += self._outgoing([transcript])
        return answers + self._due()

    def _set_back(self, message: dict[str, Any]) -> None:
        """Count the times of a message from the start of the clock."""
        for item in (message.get("metadata"), *message.get("results", ())):
            for name in ("start_time", "end_time"):
                if isinstance(item, dict) and name in item and self._clock_start:
                    item[name] = round(max(0.0, item[name] - self._clock_start), 3)

    def _process(self, audio: bytes) -> list[dict[str, Any]]:
        assert self._engine is not None
        width = ENCODINGS[self._encoding][0]
        audio = self._rest + audio
        step = int(_STEP_SECONDS * self._rate) * width
        whole = len(audio) - len(audio) % width
        self._rest = audio[whole:]
        messages: list[dict[str, Any]] = []
        for at in range(0, whole, step):
            piece = audio[at : min(at + step, whole)]
            if self._encoding == "pcm_f32le":
                decoded = self._engine.decoder.feed_samples(np.frombuffer(piece, "<f4"))
            else:
                decoded = self._engine.decoder.feed(piece)
            messages += self._engine.process(decoded)
        return messages

    def _past(self, mark: float | None) -> bool:
        return mark is not None and self.seconds >= mark and self.hits()

    def _due(self) -> list[Outgoing]:
        """Return the messages that switches require at this position of the audio."""
        faults = self._switches
        if faults.error_type is not None and self._past(faults.error_after_seconds):
            return self._fail(faults.error_type, "in the middle")
        if faults.warning_type is not None and self._past(faults.warning_after_seconds):
            return self._warn(faults.warning_type, "A warning")
        if self._past(faults.duration_limit_seconds):
            self._limited = True
            warning = {
                "message": "Warning",
                "type": "duration_limit_exceeded",
                "reason": "The duration limit has been exceeded",
                "duration_limit": faults.duration_limit_seconds,
            }
            return [*self._outgoing([warning]), *self._transcript_ends()]
        return []

    # ---- control ----------------------------------------------------------------------------

    def _control(self, kind: str, content: dict[str, Any]) -> list[Outgoing]:
        assert self._engine is not None
        match kind:
            case "EndOfStream":
                self._ended = True
                self.last_seq_no = content["last_seq_no"]
                return [] if self._limited else self._transcript_ends()
            case "ForceEndOfUtterance":
                return self._outgoing(self._engine.force(content.get("timestamp")))
            case "SetRecognitionConfig":
                return self._configure(content["transcription_config"])
            case "GetSpeakers":
                return self._outgoing([{"message": "SpeakersResult", "speakers": []}])
        return self._fail("protocol_error", f"{kind}: this emulator takes one channel only")

    def _configure(self, changes: dict[str, Any]) -> list[Outgoing]:
        assert self._engine is not None
        language = self._engine.config["language"]
        if changes.get("language", language) != language:
            return self._fail("invalid_config", "The language cannot be changed")
        self._engine.config = {**self._engine.config, **changes}
        return []  # no answer is documented

    def _transcript_ends(self) -> list[Outgoing]:
        assert self._engine is not None
        faults = self._switches
        answers: list[Outgoing] = []
        if not self._past(faults.no_transcripts_after_seconds):
            answers = self._outgoing(self._engine.end())
        if faults.end_of_transcript != "normal" and self.hits():
            return [*answers, Close(1000)] if faults.end_of_transcript == "close" else answers
        return [*answers, *self._outgoing([{"message": "EndOfTranscript"}]), Close(1000)]

    def tick(self, elapsed: Elapsed) -> list[Outgoing]:
        if self._over:
            return []
        if self._pending_start is not None and not self._started:
            if self._start_at is None:
                self._start_at = elapsed.open + self._switches.start_delay_seconds
            if elapsed.open < self._start_at:
                return []
            self._started = True
            return self._outgoing([self._pending_start])
        elapsed = Elapsed._make(seconds * self._switches.clock_rate for seconds in elapsed)
        if elapsed.without_life >= LIFELESS_SECONDS:
            self._over = True
            return [Close(1011, "keepalive ping timeout")]  # code and reason are our choice
        due = self._time_limits.due(elapsed)
        if due is None:
            return []
        if due.minutes == 0:
            return self._fail(due.kind, "Session has timed out")
        return self._warn(due.kind, f"Session will timeout in {due.minutes}m", again=True)

    # ---- shapes -----------------------------------------------------------------------------

    def _warn(self, kind: str, reason: str, *, again: bool = False) -> list[Outgoing]:
        """Return a Warning, once per connection unless `again`."""
        if kind in self._warned and not again:
            return []
        self._warned.add(kind)
        return self._outgoing([{"message": "Warning", "type": kind, "reason": reason}])

    def _fail(self, kind: str, reason: str) -> list[Outgoing]:
        """Return an Error and a close whose reason is the error's type."""
        self._over = True
        errors = [self.error(kind, reason)] if self._switches.error_in_band else []
        return [*self._outgoing(errors), Close(close_code(kind), kind)]

    def _outgoing(self, messages: Sequence[dict[str, Any]]) -> list[Outgoing]:
        """Distort messages according to the switches."""
        outgoing: list[Outgoing] = []
        faults = self._switches
        for message in messages:
            outgoing += self.before(message)
            if faults.extra_fields:
                message = {**message, "x_extra": {"deep": [1, None, {"er": True}]}}
            outgoing.append(message)
        return outgoing

    def garbage(self) -> dict[str, str | bytes]:
        partial = {"message": "AddPartialTranscript", "results": []}
        backwards = {"start_time": 2, "end_time": 1, "transcript": ""}
        return {
            **{
                name: text.replace('"type"', '"message"') if isinstance(text, str) else text
                for name, text in GARBAGE.items()
            },
            "unsent_frame": '{"message": "AudioAdded", "seq_no": 1000000}',
            "ack_of_nothing": '{"message": "AudioAdded"}',
            "no_metadata": json.dumps(partial),
            "backwards": json.dumps({**partial, "metadata": backwards}),
            "not_a_number": '{"message": "EndOfUtterance", "metadata": {"end_time": NaN}}',
            "translation": json.dumps(
                {"message": "AddTranslation", "language": "es", "results": []}
            ),
        }
