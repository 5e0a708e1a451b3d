"""One stream: splits audio into recordings, posts each, and yields their results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import Dropped, ProviderError, RequestRefused, Unavailable
from natterjack.plugin.provider import ProviderEvent, ProviderStream, Usage

from ..voice import Voice
from .client import Client
from .options import NAME
from .protocol import Post, Result, encode_wav
from .segmenter import Segment, Segmenter
from .transcript import Transcript


class _Piece(NamedTuple):
    """A segment that is being transcribed."""

    end: float
    """End of the segment, in seconds of the stream's audio."""
    paused: bool
    answer: asyncio.Task[Result] | None
    """None for silence, which is not posted."""


class DeepgramRestStream(ProviderStream):
    """Yields results in the order of the audio, regardless of the order of responses.

    Cancelling a `send` loses no audio but its own.
    """

    def __init__(
        self,
        client: Client,
        post: Post,
        audio_format: AudioFormat,
        segmenter: Segmenter,
        *,
        billed_channels: int,
        max_requests: int,
    ) -> None:
        self._client = client
        self._post = post
        self._format = audio_format
        self._voice = Voice(audio_format.sample_rate, audio_format.channels)
        self._segmenter = segmenter
        self._transcript = Transcript()
        self._billed_channels = billed_channels
        self._max_requests = max_requests
        self._audio = bytearray()
        """Audio since the end of the last segment."""
        self._cut_frames = 0
        self._pieces: deque[_Piece] = deque()
        self._in_flight = 0
        """Number of pieces in `_pieces` that were posted."""
        self.used_seconds = 0.0
        self._finished = False
        self._closed = False
        self._change = asyncio.Event()
        """Set when a piece is added, or the stream is finished or closed."""
        self._room = asyncio.Event()

    async def send(self, audio: bytes) -> None:
        while not self._closed and self._in_flight >= self._max_requests:
            self._room.clear()
            await self._room.wait()
        self._check_open()
        if self._finished:
            raise RuntimeError("send after finish")
        self._audio += audio
        for block in self._voice.feed(audio):
            self._take(self._segmenter.add(block))

    async def finish(self) -> None:
        self._check_open()
        if self._finished:
            return
        self._finished = True
        for block in self._voice.flush():
            self._take(self._segmenter.add(block))
        self._take(self._segmenter.finish())
        self._change.set()

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while True:
            self._check_open()
            if not self._pieces:
                if self._finished:
                    break
                self._change.clear()
                await self._change.wait()
                continue
            piece = self._pieces[0]
            if piece.answer is None:
                events = self._transcript.silence(piece.end, paused=piece.paused)
            else:
                # Not awaited directly: cancelling the iteration must not cancel the request.
                await asyncio.wait({piece.answer})
                self._check_open()
                result = piece.answer.result()  # raises the error of the request
                self.reference = result.request_id or self.reference
                events = self._transcript.speech(result, piece.end, paused=piece.paused)
                self._in_flight -= 1
                self._room.set()
            self._pieces.popleft()
            for event in events:
                yield event
        yield Usage(audio_seconds=round(self.used_seconds or 0.0, 6))

    async def close(self) -> None:
        self._closed = True
        self._change.set()
        self._room.set()
        answers = [piece.answer for piece in self._pieces if piece.answer is not None]
        for answer in answers:
            answer.cancel()
        if answers:
            await asyncio.wait(answers)
            for answer in answers:
                if not answer.cancelled():
                    answer.exception()  # mark as retrieved, to avoid a warning
        self._audio.clear()

    def _take(self, segments: Iterable[Segment]) -> None:
        """Remove `segments` from the buffered audio, and post those with speech."""
        frames_before = self._format.frames(len(self._audio)) + self._cut_frames
        for segment in segments:
            end = min(segment.end * self._voice.block_frames, frames_before)
            size = (end - self._cut_frames) * self._format.frame_bytes
            audio = bytes(self._audio[:size])
            del self._audio[:size]
            self._cut_frames = end
            answer = None
            if segment.speech:
                self._in_flight += 1
                seconds = self._format.seconds(self._format.frames(size))
                recording = encode_wav(audio, self._format)
                answer = asyncio.create_task(
                    self._post_counted(recording, seconds), name=f"post {segment.start}"
                )
            self._pieces.append(_Piece(self._format.seconds(end), segment.paused, answer))
            self._change.set()

    async def _post_counted(self, recording: bytes, seconds: float) -> Result:
        """Post a recording of `seconds` and count its billed time.

        A refused request is not billed. A request without a response may be, so it counts.
        """
        try:
            result = await self._client.post(self._post, recording)
        except (RequestRefused, Unavailable):
            raise
        except BaseException:  # includes cancellation
            self._count(seconds)
            raise
        self._count(seconds)
        return result

    def _count(self, seconds: float) -> None:
        self.used_seconds = (self.used_seconds or 0.0) + seconds * self._billed_channels

    def _check_open(self) -> None:
        if self._closed:
            error: ProviderError = Dropped(NAME, "the stream was closed")
            raise error
