"""The feed of a voice session's text: live pieces, and stored ones that were missed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from natterjack.audio import SESSION_ID
from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.errors import BadEvent
from natterjack.subjects import SessionKey, text_subject
from natterjack.telemetry.log import fields
from natterjack.voice.spec import TextPiece, parse_piece, parse_place

from .ordering import Script

log = logging.getLogger(__name__)

_BATCH, _BATCH_BYTES = 256, 1024 * 1024
_RETRY_S = 0.25
_QUIET_FIRST_S, _QUIET_LONGEST_S = 1.0, 10.0


class _Parsed(NamedTuple):
    """A piece, and why its text cannot be read."""

    piece: TextPiece
    problem: str | None


class TextFeed:
    """Puts the text of one session into its script."""

    def __init__(
        self,
        broker: Broker,
        store: StreamStore,
        key: SessionKey,
        session_id: str,
        script: Script,
        first_sequence: int,
        hole_seconds: float,
        on_text: Callable[[], None],
        lacks_text: Callable[[], bool],
    ) -> None:
        """Reading `store` from `first_sequence` finds all text that the script needs. `on_text` is
        called when there is more text. `lacks_text`: whether text has not arrived that a former
        holder had."""
        self._broker = broker
        self._store = store
        self._subject = text_subject(key)
        self._key = str(key)
        self._session_id = session_id
        self._script = script
        self._scanned = first_sequence - 1
        """Every piece up to this sequence of the stream was read."""
        self._hole_seconds = hole_seconds
        self._on_text = on_text
        self._lacks_text = lacks_text
        self._bounds: dict[int, int] = {}
        """A sequence at or before the first piece of each utterance."""
        self._arrivals: DirectSubscription | None = None
        self._look = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once all text that was stored before is read, and all that a former holder had."""
        self._lacking_since: float | None = None
        self._hole_since: float | None = None
        self.last_arrival = time.monotonic()
        """When text last arrived, or the connection came back."""
        self.foreign = False
        """Text of another session of the key has arrived: this one may be superseded."""

    async def open(self) -> None:
        """Subscribe to live pieces. Stored ones are read by `run`."""
        self._arrivals = await self._broker.client.listen(self._subject, self._received)
        self._broker.on_reconnect.add(self._reconnected)
        self._look.set()

    async def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._broker.on_reconnect.discard(self._reconnected)
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None:
            await arrivals.end()

    def first_sequence(self) -> int:
        """A sequence of the stream from which all text that is not over can be read."""
        script, needed = self._script, self._scanned + 1
        self._bounds = {n: b for n, b in self._bounds.items() if n in script.utterances}
        return min([needed, *self._bounds.values()])

    def _reconnected(self) -> None:
        self.last_arrival = time.monotonic()
        self._look.set()

    def _received(self, _subject: bytes, _reply: bytes, _raw: bytes | None, data: bytes) -> None:
        piece = self._parse(data)
        if piece is None:
            return
        self.last_arrival = time.monotonic()
        taken = self._take(piece, self._scanned + 1)
        if not taken or self._script.hole or not self.ready.is_set():
            self._look.set()
        self._on_text()

    def _parse(self, data: bytes) -> _Parsed | None:
        """A piece of this session, without its text if that cannot be read; None if the message is
        none."""
        try:
            piece, problem = parse_piece(data), None
        except BadEvent as error:
            problem = f"piece of text: {error}"
            try:
                piece = TextPiece.model_validate(parse_place(data).model_dump())
            except BadEvent:
                self._warn("text cannot be read, and not its place either: %s", error)
                return None
        if piece.session_id != self._session_id:
            self.foreign = True
            return None
        return _Parsed(piece, problem)

    def _warn(self, message: str, *values: object) -> None:
        log.warning(message, *values, extra=fields(session=self._key))

    def _take(self, parsed: _Parsed, sequence: int) -> bool:
        piece = parsed.piece
        taken = self._script.add(piece, time.monotonic(), parsed.problem)
        if taken:
            known = self._bounds.get(piece.utterance, sequence)
            self._bounds[piece.utterance] = min(known, sequence)
        return taken

    async def run(self) -> None:
        """Read what was missed, until cancelled."""
        interval = _QUIET_FIRST_S
        while True:
            missed = self._script.hole or self._script.full or not self.ready.is_set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S if missed else interval):
                    await self._look.wait()
            looked, interval = self._look.is_set(), min(2 * interval, _QUIET_LONGEST_S)
            self._look.clear()
            if looked:
                interval = _QUIET_FIRST_S
            try:
                all_read = await self._read_on()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_S)
                await self._broker.wait_connected()
                self._look.set()
                continue
            if not self.ready.is_set():
                self._check_ready()
            self._check_hole(all_read)

    async def _read_on(self) -> bool:
        """Read the pieces that are stored after those that were read. False if there was no room
        for all of them."""
        left = 1
        while left:
            messages, left = await self._store.read(
                self._subject, self._scanned + 1, batch=_BATCH, max_bytes=_BATCH_BYTES
            )
            for message in messages:
                piece = None
                if message.headers.get(SESSION_ID, self._session_id) == self._session_id:
                    piece = self._parse(message.data)
                if piece is not None and not self._take(piece, message.sequence):
                    if not self._script.is_far(piece.piece):
                        return False  # it is read again later
                    self._warn(
                        "a piece of text is ignored, whose utterance %s or number %s is too far "
                        "ahead", piece.piece.utterance, piece.piece.piece,
                    )  # fmt: skip
                self._scanned = message.sequence
            if not messages:
                break
            self._on_text()
        return True

    def _check_ready(self) -> None:
        """Set `ready`, unless text must still arrive: a replica has answered that lags behind, or
        a former holder has received live what is not stored yet."""
        now = time.monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
        if self._lacks_text():
            if now - self._lacking_since <= self._hole_seconds:
                return
            self._warn("text that was spoken in part is missing")
        self.ready.set()

    def _check_hole(self, all_read: bool) -> None:
        """Give up pieces that are missing for a long time although later ones are stored."""
        now = time.monotonic()
        if not self._script.hole or not all_read:
            self._hole_since = None
        elif self._hole_since is None:
            self._hole_since = now
        elif now - self._hole_since > self._hole_seconds:
            self._hole_since = None
            self._warn("text is missing and is skipped")
            self._script.skip_hole(now)
            self._on_text()
