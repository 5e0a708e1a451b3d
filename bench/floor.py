"""The lower bound of a worker's cost, a bare relay: `python -m bench.floor`.

It passes messages of a core NATS subscription to aiohttp's `send_bytes`, and replies to `publish`.
"""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from natterjack.subjects import audio_subject

from .load import result_subject, spec


async def _relay(broker: Client, http: aiohttp.ClientSession, url: str, number: int) -> None:
    async with http.ws_connect(url, compress=0) as socket:

        async def forward(message: Msg) -> None:
            await socket.send_bytes(message.data)

        await broker.subscribe(audio_subject(spec(number).key), cb=forward)
        subject = result_subject(number)
        async for message in socket:
            await broker.publish(subject, message.data.encode())


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nats", required=True)
    parser.add_argument("--provider", required=True, help="WebSocket URL of the emulator")
    parser.add_argument("--sessions", type=int, required=True)
    arguments = parser.parse_args()
    broker = await nats.connect(arguments.nats)
    print("ready", flush=True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(
            *(
                _relay(broker, http, arguments.provider, number)
                for number in range(arguments.sessions)
            )
        )


if __name__ == "__main__":
    asyncio.run(main())
