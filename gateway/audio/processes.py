"""The gateway's side of the decoders in processes of their own (`gateway.audio.child`)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

from .errors import DecoderUnavailable, UndecodableAudio
from .link import HEADER

PIECE_BYTES = 64 << 10
"""The most input that a decoder gets before its output is read."""
_START_S = 30.0
"""How long a decoder may take to start on a busy machine."""


class DecoderServer:
    """The process that starts decoders. It starts with the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def process(self) -> int | None:
        """Its number, if it has been started."""
        return self._process.pid if self._process is not None else None

    def connect(self, file: int | None = None) -> socket.socket:
        """Start a decoder, for a file if one is given, and return its socket.

        Raises: DecoderUnavailable.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = [theirs.fileno()] + ([file] if file is not None else [])
            try:
                try:
                    socket.send_fds(self._server(), [b"\0"], descriptors)
                except OSError:  # it was killed
                    self.close()
                    socket.send_fds(self._server(), [b"\0"], descriptors)
            except OSError as error:
                ours.close()
                raise DecoderUnavailable(f"no decoder can be started: {error}") from error
            except DecoderUnavailable:
                ours.close()
                raise
        return ours

    def close(self) -> None:
        """End the process. Decoders end with their streams."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _server(self) -> socket.socket:
        if self._control is not None:
            return self._control
        if importlib.util.find_spec("av") is None:
            raise DecoderUnavailable("PyAV is not installed: pip install 'natterjack[gateway]'")
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway.audio.server"],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        return self._control


class ProcessDecoder:
    """One decoder in a process of its own."""

    def __init__(
        self, server: DecoderServer, options: dict[str, Any], file: int | None = None
    ) -> None:
        """Raises: DecoderUnavailable."""
        self.channels: int | None = None
        self.text = str(options["name"])
        self._options = options
        self._socket: socket.socket | None = server.connect(file)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ended = False

    async def decode(self, data: bytes) -> AsyncIterator[bytes]:
        """Yield the audio that is ready after `data`.

        Raises: UndecodableAudio, DecoderUnavailable.
        """
        for start in range(0, len(data), PIECE_BYTES):
            if self._ended:
                return  # what follows the end of a container
            await self._send(b"A", data[start : start + PIECE_BYTES])
            async for pcm in self._receive(b"W"):
                yield pcm

    async def finish(self) -> AsyncIterator[bytes]:
        """Yield the rest. Raises: UndecodableAudio, DecoderUnavailable."""
        if not self._ended:
            await self._send(b"E")
            async for pcm in self._receive(b"D"):
                yield pcm

    async def file(self) -> AsyncIterator[bytes]:
        """Yield the audio of the file. Raises: UndecodableAudio, DecoderUnavailable."""
        await self._connected()
        async for pcm in self._receive(b"D"):
            yield pcm

    async def close(self) -> None:
        """End the process, whatever it does. May be called at any time, and again."""
        self._ended = True
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _connected(self) -> asyncio.StreamWriter:
        if self._writer is None:
            if self._socket is None:
                raise DecoderUnavailable("the decoder is closed")
            self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
            self._socket = None
            await self._send(b"O", json.dumps(self._options).encode())
            try:
                async with asyncio.timeout(_START_S):
                    kind, _ = await self._message()
            except (asyncio.IncompleteReadError, OSError, TimeoutError) as error:
                raise DecoderUnavailable("a decoder did not start") from error
            assert kind == b"H"
        return self._writer

    async def _send(self, kind: bytes, data: bytes = b"") -> None:
        writer = self._writer or await self._connected()
        writer.write(HEADER.pack(kind, len(data)) + data)
        with contextlib.suppress(ConnectionError):  # the reader learns of it
            await writer.drain()

    async def _message(self) -> tuple[bytes, bytes]:
        assert self._reader is not None
        kind, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        return kind, await self._reader.readexactly(size) if size else b""

    async def _receive(self, last: bytes) -> AsyncIterator[bytes]:
        """Yield audio up to a message of the type `last`, or to the end of the audio."""
        while True:
            try:
                kind, data = await self._message()
            except (asyncio.IncompleteReadError, ConnectionError):
                self._ended = True
                raise UndecodableAudio(
                    f"decoding the {self._options['name']} failed: the decoder crashed on it, or "
                    "took too much memory or processor time"
                ) from None
            if kind == b"P":
                yield data
            elif kind == b"F":
                found = json.loads(data)
                self.text, self.channels = found["text"], found["channels"]
            elif kind == b"X":
                self._ended = True
                raise UndecodableAudio(data.decode())
            elif kind == b"D":
                self._ended = True
                return
            elif kind == last:
                return
