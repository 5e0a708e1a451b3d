"""The part of an edge that opens a successor of each session that ends before its audio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from uuid import uuid4

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.events import FinalEvent, StatusEvent, TurnEvent
from natterjack.spec import SessionSpec
from natterjack.subjects import session_subject
from natterjack.values import Account

from ..faults.audit import WORST_TIME_SECONDS
from .programs import Speaker, Transcript, closed, stored


def new_id() -> str:
    """The ID of a session that may follow."""
    return str(uuid4())


def following(spec: SessionSpec, closing: StatusEvent) -> SessionSpec:
    """The request of the session that continues one that has ended."""
    assert spec.successor == closing.continued_by
    assert closing.audio_position is not None
    update = {
        "session_id": spec.successor, "successor": new_id(), "continues": spec.session_id,
        "audio_of": spec.audio_session_id, "start_position": closing.audio_position,
        "opened_at": datetime.now(UTC),
    }  # fmt: skip
    return SessionSpec.model_validate(spec.model_dump() | update)


async def request(broker: Broker, spec: SessionSpec) -> None:
    """Publish the request of a session."""
    await broker.client.jetstream().publish(
        session_subject(spec.key), spec.model_dump_json().encode(),
        headers={"Nats-Msg-Id": spec.session_id},
    )  # fmt: skip


class Chain:
    """The sessions of one speaker's audio, one after another."""

    def __init__(self, broker: Broker, speaker: Speaker, *, most: int = 30) -> None:
        """At most so many sessions are opened."""
        assert speaker.spec.successor is not None
        self._broker = broker
        self._speaker = speaker
        self._most = most
        self.specs = [speaker.spec]
        self.before_request: Callable[[SessionSpec], None] = lambda spec: None
        """Called with each request before it is published."""

    async def follow(self) -> None:
        """Open successors until a session has no more of them."""
        while len(self.specs) < self._most:
            closing = (await closed(self._broker, self.specs[-1], 60)).closing[0]
            if closing.continued_by is None:
                return
            spec = following(self.specs[-1], closing)
            self.specs.append(spec)
            self.before_request(spec)
            await request(self._broker, spec)
            if closing.audio_position == self.specs[-2].start_position:
                await asyncio.sleep(0.2)  # no progress

    async def transcripts(self) -> list[Transcript]:
        return [await stored(self._broker, spec) for spec in self.specs]

    async def audit(self, *, gaps: dict[str, float] | None = None) -> list[Account]:
        """Assert that each word is in one session, and all audio in one account, as transcribed or
        as one of `gaps`. Return the accounts.
        """
        speaker, transcripts = self._speaker, await self.transcripts()
        described = "\n".join(
            f"{spec.session_id} from {spec.start_position / spec.sample_rate:.2f} s\n"
            f"{transcript.describe()}"
            for spec, transcript in zip(self.specs, transcripts, strict=True)
        )
        words = [word for transcript in transcripts for word in transcript.words]
        if gaps is None:
            assert tones.compare(speaker.words, words) == tones.Counts(), described
            starts = [start for transcript in transcripts for start in transcript.word_starts]
            for start, place in zip(starts, speaker.places, strict=True):
                assert start is not None
                assert abs(start - place.start) <= WORST_TIME_SECONDS, described
        accounts = []
        for spec, transcript in zip(self.specs, transcripts, strict=True):
            numbers = [event.sequence for event in transcript.events]
            assert numbers == list(range(len(numbers))), described
            assert {event.continues for event in transcript.events} == {spec.continues}
            assert _in_turns(transcript), described
            (closing,) = transcript.closing
            assert closing.account is not None
            assert closing.audio_position is not None
            accounts.append(closing.account)
            accounted = _accounted(closing.account)
            own = (closing.audio_position - spec.start_position) / spec.sample_rate
            assert accounted == pytest.approx(own, abs=1e-3), described
            assert closing.account.captured_seconds >= accounted - 1e-3, described
        for before, spec in pairwise(self.specs):
            assert (spec.continues, spec.session_id) == (before.session_id, before.successor)
        total = sum(_accounted(account) for account in accounts)
        assert total == pytest.approx(speaker.seconds, abs=1e-3), described
        found: dict[str, float] = {}
        for account in accounts:
            for cause, seconds in account.gap_seconds.items():
                found[cause] = found.get(cause, 0.0) + seconds
        assert found == pytest.approx(gaps or {}, abs=1e-3), described
        return accounts


def _in_turns(transcript: Transcript) -> bool:
    """Whether each final lies between the start and the end of a turn."""
    in_turn = False
    for event in transcript.events:
        if isinstance(event, TurnEvent):
            in_turn = event.event != "ended"
        elif isinstance(event, FinalEvent) and not in_turn:
            return False
    return True


def _accounted(account: Account) -> float:
    """The seconds that are transcribed or part of a gap."""
    return account.transcribed_seconds + sum(account.gap_seconds.values())
