"""Streams of the Deepgram SDK under load: `python -m bench.gateway.client`.

It follows the SDK's documentation: a client, `listen.v1.connect()`, `send_media()`, and iteration
over the messages. Each stream has a client object of its own, as each user of a desktop program
has; they share one HTTP client, which no stream uses. See bench.peer for the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

import httpx

from ..peer import KEY, RATE, OnTranscript, parse, serve

with warnings.catch_warnings():
    # The SDK still looks for names that its own WebSocket library calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v1.client  # noqa: F401 - the SDK would import it later
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError as ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.types import ListenV1Results as ListenV1Results

OPTIONS: dict[str, Any] = {
    "model": "nova-3",
    "encoding": "linear16",
    "sample_rate": RATE,
    "interim_results": "true",
    "punctuate": "true",
}
"""The options that every stream asks for."""


def sdk(url: str, http: httpx.AsyncClient) -> AsyncDeepgramClient:
    """A client object for a server."""
    environment = DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url)
    return AsyncDeepgramClient(api_key=KEY, environment=environment, httpx_client=http)


class _Session:
    def __init__(self, connecting: Any, connection: Any, on_transcript: OnTranscript) -> None:
        self._connecting = connecting
        self._connection = connection
        self._on_transcript = on_transcript
        self._listening = asyncio.create_task(self._listen())

    async def send(self, chunk: bytes) -> None:
        await self._connection.send_media(chunk)

    async def end(self) -> None:
        try:
            await self._connection.send_close_stream()
            await self._listening
        finally:
            await self._connecting.aclose()

    async def _listen(self) -> None:
        async for message in self._connection:
            if isinstance(message, ListenV1Results):
                text = message.channel.alternatives[0].transcript
                self._on_transcript(text, bool(message.is_final))


class Sdk:
    """The SDK, for streams to one server."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._url = url
        self._http = http

    async def open(self, on_transcript: OnTranscript) -> _Session:
        connecting = contextlib.AsyncExitStack()
        connection = await connecting.enter_async_context(
            sdk(self._url, self._http).listen.v1.connect(**OPTIONS)
        )
        return _Session(connecting, connection, on_transcript)


async def main() -> None:
    arguments = parse(__doc__, ["deepgram"])
    async with httpx.AsyncClient() as http:
        await serve(arguments, Sdk(arguments.url, http), ("deepgram-sdk", "websockets"))


if __name__ == "__main__":
    asyncio.run(main())
