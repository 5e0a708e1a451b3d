"""Publishing the speech of a voice session: numbered, fenced, and stored once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.store_limits import explain_refused_message
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.errors import BadChunk
from natterjack.subjects import speech_subject
from natterjack.telemetry.log import fields
from natterjack.voice.audio import (
    FRAME_BYTES,
    SpeechHeader,
    decode_speech_headers,
    encode_speech_headers,
)
from natterjack.voice.spec import VoiceSpec
from worker.errors import LeaseLost

log = logging.getLogger(__name__)

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_LAST_SEQUENCE = 10071
_NEVER = 2**53 - 1
"""A last sequence that no subject has: the stream does not store the message."""
_TIMEOUT_S = 3.0
_BATCH, _BATCH_BYTES = 100, 1024 * 1024
_LARGEST_BYTES = 16_384


class Overheard(Exception):
    """An older holder has published audio since this one looked: look again."""


class Stored(NamedTuple):
    """A chunk in the stream."""

    sequence: int
    header: SpeechHeader | None
    """None if the chunk is not of this session."""
    frames: int


class Republished(NamedTuple):
    """The result of publishing again. The chunks from number `seq` on, which is at `position`, are
    all stored."""

    chunks: int
    """How many were published."""
    first: int
    """The number of the chunk from which on all are published again: those before were played."""
    seq: int
    position: int


class Speech:
    """Publishes the chunks of one session under one lease.

    Each chunk names the one before it in the stream, and the broker refuses it if there is another:
    so only one of two workers that both believe they hold the lease can publish, and none of its
    chunks is stored twice. Players that listen live also receive a refused chunk, and drop it
    because of its epoch.
    """

    def __init__(self, broker: Broker, js: JetStreamContext, spec: VoiceSpec, epoch: int) -> None:
        self._broker = broker
        self._js = js
        self._key = spec.key
        self._session_id = spec.session_id
        self._rate = spec.sample_rate
        self._epoch = epoch
        self._subject = speech_subject(spec.key)
        self._last = 0
        """Sequence in the stream of the last chunk on the subject."""
        self._pending: asyncio.Task[None] | None = None
        self.on_published: Callable[[int, float], None] = lambda frames, now: None
        """Called with the frames of each chunk that is stored, and the time."""
        self.seq = 0
        """Number of the next chunk."""
        self.position = 0
        """Position of the next frame."""

    async def look(self) -> Stored:
        """Read the newest chunk of the key, after which the next one is published."""
        while True:
            try:
                async with self._broker.within_connection():
                    found = await self._js.get_last_msg(streams.SPEECH, self._subject)
            except NotFoundError:
                self._last = 0
                return Stored(0, None, 0)
            except (NatsError, TimeoutError):
                await self._broker.wait_connected()
                continue
            data = found.data or b""
            self._last = found.seq or 0
            header = None
            with contextlib.suppress(BadChunk):  # only workers may publish here
                header = decode_speech_headers(found.headers, len(data))
            if header is not None and header.session_id != self._session_id:
                header = None
            return Stored(self._last, header, len(data) // FRAME_BYTES)

    async def fence(self) -> Stored:
        """Store a fence after the newest chunk of the key, which is returned: no older holder can
        store a chunk any more. Raises LeaseLost.

        Otherwise players might receive one chunk of each holder with the same number, and hear
        words of neither.
        """
        while True:
            found = await self.look()
            newest = found.header
            if self._epoch == 1 or (newest is not None and newest.epoch == self._epoch):
                return found
            if newest is None:
                following = SpeechHeader(
                    self._session_id, 0, 0, self.seq, self.position, self._rate
                )
            else:
                self._check_epoch(newest)
                following = newest._replace(seq=newest.next_seq, pos=newest.pos + found.frames)
            headers = encode_speech_headers(following._replace(epoch=self._epoch, fence=True))
            headers[_EXPECTED] = str(found.sequence)
            try:
                stored = await self._broker.acks.publish(self._subject, b"", headers, _TIMEOUT_S)
                self._last = await stored
            except (NatsError, TimeoutError):  # look again: something was stored, perhaps this
                await self._broker.wait_connected()
                continue
            return found

    async def publish(
        self, utterance: int, audio: bytes = b"", *, end: bool = False, cut: bool = False
    ) -> None:
        """Publish audio as one or more chunks, or an end or a cut; return when it is stored.

        Retries while the broker is away. Raises LeaseLost, Overheard. If the caller is cancelled,
        publishing goes on, and `settle` waits for it: otherwise a chunk might be stored that this
        object does not know of.
        """
        await self.settle()
        size = max(FRAME_BYTES, min(_LARGEST_BYTES, self._rate // 5 * FRAME_BYTES))
        left = deque(audio[start : start + size] for start in range(0, max(1, len(audio)), size))
        try:
            await self._publish_all(utterance, left, end=end, cut=cut)
        except asyncio.CancelledError:
            # The acknowledgement of the first chunk that is left may be lost: it is sent again.
            self._pending = asyncio.create_task(
                self._publish_all(utterance, left, end=end, cut=cut), name=f"speech {self._key}"
            )
            raise

    async def settle(self) -> None:
        """Wait until what was published is stored. Raises LeaseLost, Overheard."""
        pending = self._pending
        if pending is not None:
            try:
                await asyncio.shield(pending)
            finally:
                if pending.done():
                    self._pending = None

    def abandon(self) -> None:
        """Stop publishing: the lease has ended."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending.add_done_callback(_retrieve_error)

    async def _publish_all(
        self, utterance: int, left: deque[bytes], *, end: bool, cut: bool
    ) -> None:
        while left:
            await self._publish(utterance, left[0], end=end, cut=cut)
            left.popleft()

    async def _publish(self, utterance: int, chunk: bytes, *, end: bool, cut: bool) -> None:
        header = SpeechHeader(
            self._session_id, self._epoch, utterance, self.seq, self.position, self._rate, end, cut
        )
        headers, warned = encode_speech_headers(header), False
        while True:
            headers[_EXPECTED] = str(self._last)
            try:
                acks = self._broker.acks
                stored = await acks.publish(self._subject, chunk, headers, _TIMEOUT_S)
                self._last = await stored
                break
            except APIError as error:
                if error.err_code == _WRONG_LAST_SEQUENCE:
                    if await self._is_stored(header):
                        break
                    continue
                reason = explain_refused_message(streams.SPEECH, error.err_code, error.description)
            except (NatsError, TimeoutError) as error:
                reason = repr(error)
            if not warned:
                warned = True
                log.warning(
                    "speech not stored yet: %s", reason, extra=fields(session=str(self._key))
                )
            await self._broker.wait_connected()
        frames = len(chunk) // FRAME_BYTES
        self.seq += 1
        self.position += frames
        self.on_published(frames, time.monotonic())

    async def _is_stored(self, header: SpeechHeader) -> bool:
        """True if the newest chunk is the one that was refused: its acknowledgement was lost.
        Raises LeaseLost, Overheard."""
        newest = (await self.look()).header
        if newest is not None:
            self._check_epoch(newest)
        if newest is None or newest.seq < header.seq:
            return False  # the stream lost what it had, as one in memory does
        if newest.epoch < header.epoch:
            raise Overheard
        return newest.seq == header.seq and not newest.fence

    def _check_epoch(self, newest: SpeechHeader) -> None:
        """Raise LeaseLost if a newer holder has stored this chunk."""
        if newest.epoch > self._epoch:
            raise LeaseLost(f"epoch {newest.epoch} speaks, this is {self._epoch}")

    async def republish(self, store: StreamStore, first: int, played: int) -> Republished | None:
        """Publish the stored chunks from number `first` on again, for a player that lacks them,
        except those that were played. The stream drops them as duplicates. Return None if not all
        could be read or published now: the player asks again."""
        sequence, left, count = 1, 1, 0
        begin: int | None = None
        lowest, end, seq = (self.seq, self.position), -1, self.seq
        while left:
            try:
                messages, left = await store.read(
                    self._subject, sequence, batch=_BATCH, max_bytes=_BATCH_BYTES
                )
            except StoreUnavailable:
                return None
            for message in messages:
                sequence = message.sequence + 1
                try:
                    header = decode_speech_headers(message.headers, len(message.data))
                except BadChunk:
                    continue
                other = header.session_id != self._session_id or header.fence
                if other or header.seq >= seq:
                    continue
                if header.pos != end:
                    lowest = header.seq, header.pos
                frames = len(message.data) // FRAME_BYTES
                end = header.pos + frames
                wanted = header.seq >= first
                unplayed = header.cut or end > played
                begin = (header.seq if begin is None else begin) if unplayed else None
                if wanted and (unplayed or header.end):
                    try:
                        self._broker.client.post(
                            self._subject, message.data, headers=encode_speech_headers(header)
                        )
                    except NatsError:
                        return None
                    count += 1
            if not messages:
                break
            await asyncio.sleep(0)
        return Republished(count, seq if begin is None else begin, *lowest)

    def answer(self, seq: int) -> None:
        """Tell the player that asks for chunks that the first that is to be played is `seq`."""
        header = SpeechHeader(
            self._session_id,
            self._epoch,
            0,
            seq,
            self.position,
            self._rate,
            fence=True,
            answer=True,
        )
        headers = encode_speech_headers(header)
        headers[_EXPECTED] = str(_NEVER)
        with contextlib.suppress(NatsError):  # the player asks again
            self._broker.client.post(self._subject, b"", headers=headers)


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Retrieve a task's error, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
