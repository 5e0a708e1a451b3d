"""A gateway process, with and without keys, and clients of its API."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from natterjack.broker.connection import Broker
from natterjack.fleet.keys import add_key, make_key

from ...nats_server import NatsServer
from ...waiting import within
from ..process import GatewayProcess


@pytest.fixture
async def gateway(nats_server: NatsServer, ready_broker: Broker) -> AsyncIterator[GatewayProcess]:
    """A gateway without keys."""
    process = GatewayProcess(nats_server.url)
    await process.start()
    yield process
    await process.stop()


class Keys:
    """A file of keys, and their secrets."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys"
        self.token_secret = secrets.token_hex(32)

    def add(self, tenant: str, **fields: Any) -> str:
        """Add a key and return its secret."""
        record, secret = make_key(tenant=tenant, **{"doors": ("api", "deepgram"), **fields})
        add_key(self.file, record)
        return secret

    @property
    def settings(self) -> dict[str, str]:
        return {"GATEWAY_KEYS_FILE": str(self.file), "GATEWAY_TOKEN_SECRET": self.token_secret}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


class Viewer:
    """Reads the events of a conversation, as a browser does."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.last_id: str | None = None

    async def next(self) -> dict[str, Any]:
        """The next message with data."""
        found: dict[str, Any] | None = None
        place: str | None = None
        async with within(30):
            while True:
                line = (await self._response.content.readline()).decode()
                if not line:
                    raise EOFError
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "data":
                    found = json.loads(value)
                elif field == "id":
                    place = value
                elif not line.strip() and found is not None:
                    self.last_id = place or self.last_id
                    return found

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """All messages up to the first of a type."""
        messages = [await self.next()]
        while messages[-1]["type"] != kind:
            messages.append(await self.next())
        return messages

    async def texts(self, count: int) -> list[str]:
        """The texts of the next finals."""
        found: list[str] = []
        while len(found) < count:
            message = await self.next()
            if message["type"] == "final":
                found.append(message["text"])
        return found


@contextlib.asynccontextmanager
async def viewing(
    gateway: GatewayProcess,
    conversation: str,
    *,
    last_id: str | None = None,
    key: str | None = None,
    **query: str,
) -> AsyncIterator[Viewer]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    url = f"{gateway.http}/api/conversations/{conversation}/events"
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as client,
        client.get(url, params=query, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        yield Viewer(response)


async def call(
    gateway: GatewayProcess, path: str, key: str | None = None, body: Any = None, **headers: str
) -> tuple[int, Any, aiohttp.ClientResponse]:
    """Ask for JSON, or for text. `body` is posted."""
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    async with (
        aiohttp.ClientSession() as client,
        client.request(
            "GET" if body is None else "POST", gateway.http + path, headers=headers, json=body
        ) as response,
    ):
        if response.content_type == "application/json":
            return response.status, await response.json(), response
        return response.status, await response.text(), response
