"""The lists of conversations, workers and edges, read from the broker at most once a second for all
clients together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.decoding import decode_event
from natterjack.errors import BadEvent, StreamMismatch
from natterjack.events import FinalEvent
from natterjack.fleet.reader import FleetReader
from natterjack.fleet.sessions import Fleet, KeyFilter
from natterjack.subjects import SessionKey, transcript_subject

from .activity import Activities
from .figures import Minute
from .summaries import ConversationSummary, conversations, with_words

log = logging.getLogger(__name__)

_FRESH_S = 1.0
_MAX_TENANTS = 1000
_MAX_WORDS = 10_000
LAST_WORDS_CHARACTERS = 300


@dataclass
class _Read:
    """A tenant's fleet, as it was read last."""

    at: float = 0.0
    fleet: Fleet = field(default_factory=lambda: Fleet([], []))
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Overview:
    """The fleet at one moment, and the last hour."""

    fleet: Fleet
    minutes: list[Minute]
    sessions_since: datetime | None
    latency_since: datetime | None


class Directory:
    """Reads what there is."""

    def __init__(self, broker: Broker) -> None:
        self._reader = FleetReader(broker)
        self._transcripts = StreamStore(broker, streams.TRANSCRIPTS)
        self._activities = Activities(broker)
        self._reads: OrderedDict[str, _Read] = OrderedDict()
        self._words: OrderedDict[str, str] = OrderedDict()
        """The last words of sessions that have ended."""
        self._started: asyncio.Task[None] | None = None

    async def _start(self) -> None:
        if self._started is None:
            self._started = asyncio.create_task(self._begin(), name="start the directory")
        await asyncio.shield(self._started)

    async def _begin(self) -> None:
        await self._reader.start()
        await self._transcripts.start()

    async def close(self) -> None:
        await self._activities.close()

    async def fleet(self, tenant: str) -> Fleet:
        """All workers, and the tenant's open sessions with their last words. Raises: BrokerError;
        no stream yet is none."""
        await self._start()
        read = self._reads.pop(tenant, None) or _Read()
        self._reads[tenant] = read
        if len(self._reads) > _MAX_TENANTS:
            self._reads.popitem(last=False)
        async with read.lock:
            if time.monotonic() - read.at >= _FRESH_S:
                try:
                    fleet = await self._reader.read(KeyFilter(tenant))
                    fleet.notes += await self._reader.add_words(fleet.rows)
                except StreamMismatch as error:
                    fleet = Fleet([], [], [str(error)])
                read.fleet, read.at = fleet, time.monotonic()
            return read.fleet

    async def conversations(
        self, tenant: str, limit: int
    ) -> tuple[list[ConversationSummary], list[str]]:
        """The tenant's conversations, and notes about what cannot be read. Raises: BrokerError."""
        fleet = await self.fleet(tenant)
        activity = await self._activities.of(tenant)
        now = datetime.now(UTC)
        found = conversations(fleet.rows, activity.sessions, limit, now)
        notes = list(fleet.notes)
        if activity.failure is not None:
            notes.append(activity.failure)
        try:
            await self._add_words(tenant, found)
        except StoreUnavailable as error:
            notes.append(f"last words cannot be read: {error}")
        return found, notes

    async def _add_words(self, tenant: str, found: list[ConversationSummary]) -> None:
        """Set the last words of sessions that have ended. Raises: StoreUnavailable."""
        missing: dict[str, str] = {}
        for conversation in found:
            for session in conversation.sessions:
                known = session.session_id in self._words
                if session.session_id and not session.open and not known:
                    key = SessionKey(tenant, conversation.conversation, session.speaker)
                    missing[session.session_id] = transcript_subject(key, "final")
        subjects = list(dict.fromkeys(missing.values()))[:500]
        asked = set(subjects)
        if subjects:
            for stored in await self._transcripts.last_of(subjects):
                try:
                    event = decode_event(stored.data)
                except BadEvent:
                    continue
                if isinstance(event, FinalEvent):
                    self._words[event.session_id] = event.text[-LAST_WORDS_CHARACTERS:]
            for session_id, subject in missing.items():
                if subject in asked:
                    self._words.setdefault(session_id, "")
        while len(self._words) > _MAX_WORDS:
            self._words.popitem(last=False)
        with_words(found, {session: text for session, text in self._words.items() if text})

    async def overview(self, tenant: str) -> Overview:
        """The fleet, and the tenant's last hour. Raises: BrokerError."""
        fleet = await self.fleet(tenant)
        activity = await self._activities.of(tenant)
        held = {row.session_id for row in fleet.rows if row.session_id is not None}
        return Overview(
            fleet, activity.minutes(datetime.now(UTC), held), activity.status_since,
            activity.latency_since,
        )  # fmt: skip
