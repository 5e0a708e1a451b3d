"""Decoding what a client sends: containers by their first bytes, and raw audio as the request
says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import BinaryIO, Literal

from .convert import Output, RawFormat
from .errors import UndecodableAudio
from .processes import PIECE_BYTES, DecoderServer, ProcessDecoder
from .raw import RawDecoder, WavDecoder
from .sniff import HEAD_BYTES, WAV, Container, sniff

OPUS: Literal["opus"] = "opus"
"""The source of a stream without a container, whose messages are packets of Opus."""
Source = RawFormat | Literal["opus"]


class Decoders:
    """Makes decoders. A gateway has one of these, and closes it at its end."""

    def __init__(self) -> None:
        self._server = DecoderServer()

    @property
    def server_process(self) -> int | None:
        """The process that starts decoders, if there is one."""
        return self._server.process

    def open(self, output: Output, source: Source | None = None) -> Decoder:
        """Return a decoder for a stream. `source` describes raw audio; None: a container.

        Raises: UndecodableAudio if no session can have audio like `source`.
        """
        return Decoder(self._server, output, source)

    async def file(self, file: BinaryIO, output: Output) -> AsyncIterator[bytes]:
        """Yield the audio of a file that is open for reading, from its start, as linear16.

        Pieces have at most 1 MiB. The file may be of any container, and its index may be at its
        end. Raises: UndecodableAudio, DecoderUnavailable.
        """
        file.seek(0)
        container = sniff(file.read(HEAD_BYTES), ended=True)
        file.seek(0)
        assert container is not None
        if container != WAV:
            decoder = ProcessDecoder(self._server, _options(container, output), file.fileno())
            try:
                async for pcm in decoder.file():
                    yield pcm
            finally:
                await decoder.close()
            return
        wav = WavDecoder(output)
        while data := await asyncio.to_thread(file.read, PIECE_BYTES):
            if pcm := wav.decode(data):
                yield pcm
        if pcm := wav.finish():
            yield pcm

    async def close(self) -> None:
        """End the process that starts decoders. Streams that are open go on."""
        self._server.close()


class Decoder:
    """Decodes one stream to linear16, as its bytes arrive.

    `decode` and `finish` yield whole frames, in pieces of at most 1 MiB, and the next piece is not
    decoded before it is asked for: so whoever waits for the broker between pieces bounds the
    memory of a stream. All pieces together are the same however the client has divided its bytes.
    If a call is canceled or raises, `close` is the only one that may follow.
    """

    def __init__(self, server: DecoderServer, output: Output, source: Source | None) -> None:
        self._server = server
        self._output = output
        self._head = b""
        self._inner: RawDecoder | WavDecoder | ProcessDecoder | None = None
        if isinstance(source, RawFormat):
            self._inner = RawDecoder(source, output)
        elif source is not None:
            self._inner = ProcessDecoder(server, _packet_options(source, output))

    @property
    def channels(self) -> int | None:
        """Channels of the result; None until audio has been decoded."""
        return self._inner.channels if self._inner is not None else None

    @property
    def text(self) -> str:
        """The format of the client's audio, for people and logs."""
        return self._inner.text if self._inner is not None else "unknown"

    async def decode(self, data: bytes) -> AsyncIterator[bytes]:
        """Yield the audio that is ready after `data`: possibly nothing.

        Raises: UndecodableAudio, DecoderUnavailable.
        """
        if self._inner is None:
            data = self._head = self._head + data
            container = sniff(data, ended=False)
            if container is None:
                return
            self._inner = self._open(container)
            self._head = b""
        if isinstance(self._inner, ProcessDecoder):
            async for pcm in self._inner.decode(data):
                yield pcm
            return
        for start in range(0, len(data), PIECE_BYTES):
            if start:
                await asyncio.sleep(0)  # a large message must not delay other clients
            if pcm := self._inner.decode(data[start : start + PIECE_BYTES]):
                yield pcm

    async def finish(self) -> AsyncIterator[bytes]:
        """Yield the rest, at the end of the stream.

        Raises: UndecodableAudio, also if there was no audio in a container; DecoderUnavailable.
        """
        if self._inner is None:
            if not self._head:
                return
            sniff(self._head, ended=True)
            raise UndecodableAudio("the audio ends within its header")
        if isinstance(self._inner, ProcessDecoder):
            async for pcm in self._inner.finish():
                yield pcm
        elif pcm := self._inner.finish():
            yield pcm

    async def close(self) -> None:
        """Release what the stream holds. May be called at any time, and again."""
        if isinstance(self._inner, ProcessDecoder):
            await self._inner.close()

    def _open(self, container: Container) -> WavDecoder | ProcessDecoder:
        if container == WAV:
            return WavDecoder(self._output)
        return ProcessDecoder(self._server, _options(container, self._output))


def _options(container: Container, output: Output) -> dict[str, object]:
    return {**container._asdict(), "output": output, "packets": False}


def _packet_options(codec: str, output: Output) -> dict[str, object]:
    return {"demuxer": codec, "name": codec, "frames": False, "output": output, "packets": True}
