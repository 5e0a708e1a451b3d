"""Events of a conversation, as workers publish them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from natterjack.events import FinalEvent, InterimEvent, StatusEvent
from natterjack.values import Account, Gap, Word
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent

BEGIN = datetime(2026, 11, 30, 12, tzinfo=UTC)
RATE = 16_000


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


class Session:
    """Makes the events of one session, whose audio begins `begin` seconds after BEGIN."""

    def __init__(
        self,
        session_id: str,
        speaker: str = "agent",
        *,
        begin: float = 0,
        conversation: str = "call-7",
        **links: str,
    ) -> None:
        self.session_id, self.speaker, self.begin = session_id, speaker, begin
        self._common: dict[str, Any] = {
            "session_id": session_id, "tenant": "acme", "conversation": conversation,
            "speaker": speaker, "epoch": 1, **links,
        }  # fmt: skip
        self._sequence = self.segment = 0

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _transcript(
        self, text: str, start: float, end: float, more: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            **self._common, "segment": self.segment, "text": text, "start": start, "end": end,
            "published_at": at(self.begin + end), "started_at": at(self.begin + start), **more,
        }  # fmt: skip

    def final(self, text: str, start: float, end: float, **more: Any) -> FinalEvent:
        made = FinalEvent(**self._transcript(text, start, end, more), sequence=self._next())
        self.segment += 1
        return made

    def interim(self, text: str, start: float, end: float, **more: Any) -> InterimEvent:
        return InterimEvent(**self._transcript(text, start, end, more))

    def status(self, state: str, when: float = 0, **more: Any) -> StatusEvent:
        return StatusEvent.model_validate(
            {**self._common, "sequence": self._next(), "published_at": at(self.begin + when),
             "state": state, "worker": "w1", **more}
        )  # fmt: skip

    def closed(
        self, end: float, state: str = "closed", *, start: float = 0, captured: float | None = None,
        gaps: list[Gap] | None = None, **more: Any,
    ) -> StatusEvent:  # fmt: skip
        """The closing event of a session that has transcribed its audio up to `end` seconds."""
        captured = end - start if captured is None else captured
        request = {"sample_rate": RATE, "start_position": round(start * RATE)}
        return self.status(
            state, end, position=round(end * RATE), request=request,
            account=Account(captured_seconds=captured, gaps=gaps or []), **more,
        )  # fmt: skip

    def utterance(self, number: int, event: str, when: float, **more: Any) -> UtteranceEvent:
        return UtteranceEvent.model_validate(
            {**self._common, "sequence": self._next(), "published_at": at(when),
             "utterance": number, "event": event, **more}
        )  # fmt: skip

    def voice_status(self, state: str, when: float = 0) -> VoiceStatusEvent:
        return VoiceStatusEvent.model_validate(
            {**self._common, "sequence": self._next(), "published_at": at(when),
             "state": state, "worker": "w1"}
        )  # fmt: skip


def words(*timed: tuple[str, float, float], speaker: str | None = None) -> list[Word]:
    return [Word(text=t, start=a, end=b, speaker=speaker) for t, a, b in timed]
