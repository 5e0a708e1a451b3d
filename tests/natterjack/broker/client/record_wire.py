"""Records what nats-py and a nats-server say to each other, for `test_wire.py`.

`python -m tests.natterjack.broker.client.record_wire` writes `recorded/client` and
`recorded/server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import nats
from nats.errors import NoRespondersError

from tests.nats_server import NatsServer

RECORDED = Path(__file__).parent / "recorded"


class Publication(NamedTuple):
    subject: str
    payload: bytes
    headers: dict[str, str] | None = None
    reply: str = ""


PUBLISHED = (
    Publication("wire.a", b"plain"),
    Publication("wire.b", b""),
    Publication("wire.c", b"", {"A": "1"}),
    Publication("wire.d", b"MSG wire.d 1 5\r\nHMSG\r\n", {"Name": "Zoë", "Empty": ""}),
    Publication("other", b"not for the subscription that is decoded"),
    Publication("wire.e", bytes(range(256)), reply="answers.to.e"),
    Publication("wire.f.g", b"\r\n\r\n", {"Session-Id": "x", "Audio-Seq": "7"}, "answers.to.f"),
)
"""The published messages, in this order. Subscription 1 is to `wire.>`, 2 to `other`, and 3 is the
inbox of nats-py's requests: one without responders, two of JetStream, and a direct get."""


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copied: bytearray
) -> None:
    while data := await reader.read(65536):
        copied += data
        writer.write(data)
    writer.close()


async def record(server: NatsServer) -> tuple[bytes, bytes]:
    """Return the bytes that the client sent and those that the server sent."""
    sent, received, ended = bytearray(), bytearray(), asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(_copy(reader, far_writer, sent), _copy(far_reader, writer, received))
        ended.set()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        await client.subscribe("wire.>")
        await client.subscribe("other")
        for subject, payload, headers, reply in PUBLISHED:
            await client.publish(subject, payload, reply, headers)
        await client.flush()
        with contextlib.suppress(NoRespondersError):
            await client.request("nobody", b"")
        js = client.jetstream()
        await js.add_stream(name="WIRE", subjects=["stored"], allow_direct=True)
        await js.publish("stored", b"a stored message", headers={"Own": "header"})
        await client.request("$JS.API.DIRECT.GET.WIRE", b'{"last_by_subj": "stored"}')
        await client.close()
        await ended.wait()
    return bytes(sent), bytes(received)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory))
        server.start()
        try:
            sent, received = asyncio.run(record(server))
        finally:
            server.stop()
    RECORDED.mkdir(exist_ok=True)
    (RECORDED / "client").write_bytes(sent)
    (RECORDED / "server").write_bytes(received)


if __name__ == "__main__":
    main()
