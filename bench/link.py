"""Measures how much of the link of its edge a session uses: `python -m bench.link`.

A real edge publishes speech at ten times real time to a real server, through a relay that counts
bytes: those of the NATS protocol, of TLS and of WebSocket, but not those of TCP and IP, which add
some 40 bytes to each message.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from natterjack.broker.connection import connected
from natterjack.broker.streams import AUDIO, ensure
from natterjack.local.demo import bundled_recording
from natterjack.settings import BrokerSettings, StreamSettings
from tests.identities import Authority
from tests.natterjack.broker.websocket.servers import WebSocketServer

RATE = 16_000
SECONDS = 60
SPEED = 10
CHUNKS_MS = (80, 200, 500)


class Measured(NamedTuple):
    """The traffic of a session for one second of its audio."""

    sent: float
    """Kilobits to the server."""
    received: float
    """Kilobits from it."""
    stored: float
    """Kilobits in the stream."""


class Relay:
    """Passes connections on to a port, and counts their bytes."""

    def __init__(self, port: int) -> None:
        self.sent = self.received = 0
        self._port = port
        self._server: asyncio.Server

    async def start(self) -> int:
        """Return the port of the relay."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter, up: bool) -> None:
            while data := await source.read(65_536):
                if up:
                    self.sent += len(data)
                else:
                    self.received += len(data)
                to.write(data)
            to.close()

        await asyncio.gather(pump(reader, inner_writer, True), pump(inner_reader, writer, False))


def _speech(path: Path) -> None:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32", always_2d=True)
    mono = soxr.resample(samples[:, 0], rate, RATE)
    whole = np.resize(mono, RATE * SECONDS)
    soundfile.write(path, whole, RATE, subtype="PCM_16")


async def measure(directory: Path, encoding: str, chunk_ms: int, *, tls: bool) -> Measured:
    """Publish a minute of speech, over WebSocket with TLS or over plain TCP."""
    home = Path(tempfile.mkdtemp(dir=directory))
    server = WebSocketServer(home / "nats", Authority(home / "ca") if tls else None)
    server.start()
    try:
        return await _publish(directory / "speech.wav", server, encoding, chunk_ms, tls=tls)
    finally:
        server.stop()


async def _publish(
    speech: Path, server: WebSocketServer, encoding: str, chunk_ms: int, *, tls: bool
) -> Measured:
    address = server.url if tls else server.plain_url
    relay = Relay(int(address.rpartition(":")[2]))
    port = await relay.start()
    scheme = address.partition(":")[0]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("EDGE_", "NATS_"))},
        **server.trust(),
        "NATS_URL": f"{scheme}://127.0.0.1:{port}",
        "EDGE_ENCODING": encoding,
        "EDGE_CHUNK_MS": str(chunk_ms),
    }
    direct = BrokerSettings(url=server.plain_url)
    async with connected(direct, name="bench", once=True) as broker:
        await ensure(broker, StreamSettings())
        edge = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_capture", "file", str(speech), "--speed", str(SPEED),
            "--quiet", env=environment, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await edge.wait() == 0
        state = (await broker.client.jetstream().stream_info(AUDIO)).state
    counts = (relay.sent, relay.received, state.bytes)
    return Measured(*(count * 8 / 1000 / SECONDS for count in counts))


def _cases() -> Iterator[tuple[str, int, bool]]:
    for tls in (False, True):
        for encoding in ("linear16", "flac"):
            for chunk_ms in CHUNKS_MS:
                yield encoding, chunk_ms, tls


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _speech(directory / "speech.wav")
        print("over   encoding  chunk   sent         received     stored")
        for encoding, chunk_ms, tls in _cases():
            found = await measure(directory, encoding, chunk_ms, tls=tls)
            print(
                f"{'wss' if tls else 'TCP':<6} {encoding:<9} {chunk_ms:>3} ms  "
                f"{found.sent:4.0f} kbit/s  {found.received:4.0f} kbit/s  "
                f"{found.stored:4.0f} kbit/s",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
