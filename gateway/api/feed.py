"""The live events of a conversation for any number of viewers, at the cost of one reader.

Durable events go into a History that all viewers read at their own pace. What is not stored, such
as interims, replaces what it makes stale, so a slow viewer gets the newest of it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from natterjack.broker.connection import Broker
from natterjack.consume.listener import listen
from natterjack.consume.markers import CaughtUp, HistoryLost, Marker, StreamReplaced
from natterjack.decoding import AnyEvent
from natterjack.errors import NatterjackError
from natterjack.events import FinalEvent, InterimEvent
from natterjack.position import Position, nanoseconds
from natterjack.telemetry.log import fields

from .history import Entry, History
from .sse import BEGINNING, COMMENT, Start, message, note

log = logging.getLogger(__name__)

MAX_BYTES = 8 * 1024 * 1024
"""The most that one feed keeps of messages."""
_BATCH_BYTES = 64 * 1024
"""A viewer gets about so much at once, and then waits for its socket."""
_LEAST = timedelta(hours=1)
"""A feed has at least the last hour: the next viewer may want more than the first."""
_TICK_S = 1.0
_COMMENT_TICKS = 15
"""After so many ticks, viewers that got nothing get a comment: a proxy may end silent answers."""


class FellBehind(Exception):
    """A viewer was so slow that its next message is not kept any more."""


class _Live(NamedTuple):
    """A message that is not stored, about one session or about the broker."""

    version: int
    kind: str
    message: bytes
    segment: int = -1


def _since(start: Start) -> datetime | str | None:
    """The parameter of `listen`."""
    if isinstance(start, Position):
        return str(start)
    return "start" if start == BEGINNING else start


def _nanoseconds(start: Start) -> int:
    if isinstance(start, Position):
        return start.stored_ns + 1
    assert start is not None
    return nanoseconds(start)


def _entry(event: AnyEvent) -> Entry:
    position = event.position
    kind = event.kind if event.type == "unknown" else event.type
    place = None if position is None else Position.parse(position)
    return Entry(kind, message(event.source, position), place)


def _marker(marker: HistoryLost | StreamReplaced) -> Entry:
    if isinstance(marker, HistoryLost):
        return Entry("marker", note("history_lost", start=marker.start, end=marker.end))
    return Entry("marker", note("stream_replaced", since=marker.since))


class Feed:
    """The events of one conversation. `run` is its reader."""

    def __init__(self, broker: Broker, tenant: str, conversation: str, start: Start) -> None:
        """`start`: where its first viewer begins."""
        self._broker = broker
        self._names = (tenant, conversation)
        now = datetime.now(UTC)
        origin = now if start is None else start
        if isinstance(origin, Position):
            origin = origin.stored_at
        self._origin = BEGINNING if origin == BEGINNING else min(origin, now - _LEAST)
        self._history = History(nanoseconds(self._origin), MAX_BYTES)
        self._live: dict[str, _Live] = {}
        self._version = 0
        self._ticks = 0
        self._ready = False
        self._ended = False
        self._failure: str | None = None
        self._changed = asyncio.Event()
        self._extending = asyncio.Lock()
        self.viewers = 0

    @property
    def ended(self) -> bool:
        return self._ended

    def end(self) -> None:
        """End all viewers, once they have got what there is. Idempotent."""
        self._ended = True
        self._wake()

    # ---- the reader ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until canceled. If that fails, viewers learn why, and end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(), name="read for viewers")
                tasks.create_task(self._tick(), name="tick of viewers")
        except* NatterjackError as errors:
            self._failure = str(errors.exceptions[0])
            log.error("viewers cannot be served: %s", self._failure,
                      extra=fields(conversation=".".join(self._names)))  # fmt: skip
        finally:
            self.end()

    async def _read(self) -> None:
        source = listen(
            *self._names, since=_since(self._origin), interims="latest", markers=True,
            broker=self._broker,
        )  # fmt: skip
        async with contextlib.aclosing(source):
            async for event in source:
                self._add(event)
                self._wake()

    def _add(self, event: AnyEvent | Marker) -> None:
        if isinstance(event, CaughtUp):
            self._ready = True
        elif isinstance(event, HistoryLost | StreamReplaced):
            if isinstance(event, StreamReplaced):
                self._live = {key: one for key, one in self._live.items() if key == ""}
            self._history.append(_marker(event))
        elif isinstance(event, InterimEvent):
            self._version += 1
            self._live[event.session_id] = _Live(
                self._version, "interim", message(event.source), event.segment
            )
        else:
            self._history.append(_entry(event))
            interim = self._live.get(event.session_id)
            stale = isinstance(event, FinalEvent) and interim and event.segment >= interim.segment
            if stale or event.closing:
                self._live.pop(event.session_id, None)

    async def _tick(self) -> None:
        """Tell viewers whether the broker is there, and keep their connections open."""
        connected = True
        while True:
            self._ticks += 1
            if connected != self._broker.connected:
                connected = self._broker.connected
                self._version += 1
                self._live[""] = _Live(self._version, "marker", note("broker", connected=connected))
                self._wake()
            elif self._ticks % _COMMENT_TICKS == 0:
                self._wake()
            await asyncio.sleep(_TICK_S)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # ---- viewers ---------------------------------------------------------------------------------

    async def view(
        self, start: Start, kinds: Collection[str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Iterate over what to send to one viewer. It ends when the feed does.

        Raises: FellBehind; NatterjackError if earlier events cannot be read.
        """
        quiet, seen = self._ticks, 0
        while not (self._ready or self._ended):
            await self._changed.wait()
            state = self._live.get("")
            if state is not None and state.version > seen:
                seen = state.version
                yield state.message
            elif self._ticks - quiet >= _COMMENT_TICKS:
                quiet = self._ticks
                yield COMMENT
        number = self._history.after(start)
        if number is None and not self._ended:
            async with self._extending:  # the next viewer finds what this one has read
                number = self._history.after(start)
                if number is None:
                    async with contextlib.aclosing(self._earlier(start, kinds)) as earlier:
                        async for batch in earlier:
                            yield batch
                    number = self._history.first
        async with contextlib.aclosing(self._later(number or 0, kinds)) as later:
            async for batch in later:
                yield batch

    async def _later(
        self, number: int, kinds: Collection[str] | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the messages from entry `number` of the history on, and then those that follow
        live."""
        seen, quiet, caught_up = 0, self._ticks, False
        while True:
            changed = self._changed
            try:
                entries = self._history.read(number, _BATCH_BYTES)
            except LookupError:
                raise FellBehind(f"viewer of {'.'.join(self._names)}") from None
            number += len(entries)
            parts = [e.message for e in entries if _wanted(e.kind, kinds)]
            done = number == self._history.end
            if done:
                fresh = [one for one in self._live.values() if one.version > seen]
                seen = self._version
                parts += [one.message for one in fresh if _wanted(one.kind, kinds)]
                if not caught_up:
                    caught_up = True
                    parts.append(note("caught_up"))
                if self._ended and self._failure is not None:
                    parts.append(note("error", reason=self._failure))
            if not parts and self._ticks - quiet >= _COMMENT_TICKS:
                parts.append(COMMENT)
            if parts:
                quiet = self._ticks
                yield b"".join(parts)
            if done and self._ended:
                return
            if done and number == self._history.end and changed is self._changed:
                await changed.wait()

    async def _earlier(
        self, start: Start, kinds: Collection[str] | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the messages that are stored from before the history begins."""
        since_ns, size = self._history.since_ns, 0
        kept: list[Entry] = []
        source = listen(
            *self._names, since=_since(start), until="stored", interims=None, markers=True,
            broker=self._broker,
        )  # fmt: skip
        async with contextlib.aclosing(source):
            async for event in source:
                if isinstance(event, CaughtUp):
                    continue
                if isinstance(event, HistoryLost | StreamReplaced):
                    yield _marker(event).message
                    continue
                entry = _entry(event)
                if entry.position and entry.position.stored_ns >= self._history.since_ns:
                    break
                if size <= MAX_BYTES:
                    kept.append(entry)
                    size += len(entry.message)
                if _wanted(entry.kind, kinds):
                    yield entry.message
        if size <= MAX_BYTES and self._history.since_ns == since_ns:
            self._history.prepend(kept, _nanoseconds(start))


def _wanted(kind: str, kinds: Collection[str] | None) -> bool:
    return kinds is None or kind == "marker" or kind in kinds
