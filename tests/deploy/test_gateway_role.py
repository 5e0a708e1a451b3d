"""Gateways work with the permissions of their role, on a real server that refuses all else."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.fleet.keys import add_key, make_key

from ..gateway.process import GatewayProcess
from ..waiting import until, within
from ..worker.programs import UNDISTURBED, WorkerProcess
from .secured import SecuredServer

pytestmark = pytest.mark.process

SPEECH = "/v1/listen?encoding=linear16&sample_rate=16000&interim_results=true"


class Client:
    """A client of the doors and of the API, with one key."""

    def __init__(self, gateway: GatewayProcess, secret: str) -> None:
        self.gateway = gateway
        self.http = aiohttp.ClientSession(headers={"Authorization": f"Token {secret}"})

    def listen(self, conversation: str) -> Any:
        """Connect to the door for Deepgram's clients, with an ID that the client repeats."""
        return self.http.ws_connect(
            self.gateway.http + SPEECH,
            headers={"x-deepgram-session-id": conversation},
        )

    async def read(self, path: str) -> Any:
        async with self.http.get(self.gateway.http + path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


@pytest.fixture
async def gateways(server: SecuredServer, tmp_path: Path) -> AsyncIterator[list[Client]]:
    """Clients of two gateways, and a worker."""
    record, secret = make_key(tenant="acme", doors=("deepgram", "api"))
    add_key(tmp_path / "keys", record)
    async with DeepgramEmulator() as emulator, contextlib.AsyncExitStack() as ending:
        clients = []
        for _ in range(2):
            environment = {**server.environment("gateway"), **UNDISTURBED}
            gateway = GatewayProcess(
                environment.pop("NATS_URL"), GATEWAY_KEYS_FILE=str(tmp_path / "keys"), **environment
            )
            ending.push_async_callback(gateway.stop)
            await gateway.start()
            client = Client(gateway, secret)
            await ending.enter_async_context(client.http)
            clients.append(client)
        environment = {**server.environment("worker"), **UNDISTURBED}
        worker = WorkerProcess(environment.pop("NATS_URL"), emulator.url, **environment)
        ending.push_async_callback(worker.stop)
        await worker.start()
        yield clients


async def texts(socket: aiohttp.ClientWebSocketResponse, until_count: int) -> list[str]:
    """Read results until there are so many words in finals."""
    found: list[str] = []
    while len(found) < until_count:
        message = await socket.receive_json()
        if message["type"] == "Results" and message["is_final"]:
            text = message["channel"]["alternatives"][0]["transcript"]
            found += tones.words_of(text)
    return found


async def test_sessions_transcripts_and_the_console(
    server: SecuredServer, gateways: list[Client]
) -> None:
    """A client speaks, loses its gateway, and goes on at another one; all of it is read."""
    words = tones.sequence(8)
    first, second = (tones.encode(part, tail_seconds=1.5) for part in (words[:4], words[4:]))
    one, other = gateways
    async with within(60):
        async with one.listen("a-client") as socket:
            await socket.send_bytes(first)
            received = await texts(socket, 4)

            async def shown() -> bool:
                found = (await one.read("/api/conversations"))["conversations"]
                return [each["sessions"][0]["provider"] for each in found] == ["deepgram"]

            await until(shown, "its session is shown as the worker tells")
            assert not (await one.read("/api/fleet"))["notes"]
            assert not (await one.read("/api/edges"))["notes"]
        one.gateway.signal(signal.SIGTERM)
        assert await one.gateway.wait() == 0
        async with other.listen("a-client") as socket:
            await socket.send_bytes(second)
            await socket.send_json({"type": "Finalize"})  # a control request
            await socket.send_json({"type": "CloseStream"})
            received += await texts(socket, 4)
        assert received == words

        async def ended() -> bool:
            found = (await other.read("/api/conversations"))["conversations"]
            return len(found) == 1 and not found[0]["open"]

        await until(ended, "the conversation is listed and over")
        (conversation,) = (await other.read("/api/conversations"))["conversations"]
        name = conversation["conversation"]
        document = await other.read(f"/api/conversations/{name}/transcript.json")
        assert tones.words_of(" ".join(line["text"] for line in document["lines"])) == words
        path = f"{other.gateway.http}/api/conversations/{name}/events"
        async with other.http.get(path) as stream:
            assert stream.status == 200
            async for line in stream.content:
                if line.startswith(b"data: ") and b'"type":"final"' in line:
                    break
    assert not server.complaints
