"""examples/webhook_receiver.py verifies what `natterjack webhook` sends, and prints finals once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from natterjack.broker.connection import Broker
from natterjack.settings import BrokerSettings
from natterjack.webhook.signature import parse_secrets, signed_headers
from tests.natterjack.cli.commands import Command
from tests.natterjack.webhook.events import final, publish, status
from tests.natterjack.webhook.receiver import SECRET
from tests.ports import free_port
from tests.waiting import until

RECEIVER = Path(__file__).parents[2] / "examples" / "webhook_receiver.py"


def test_the_example_is_short() -> None:
    text = RECEIVER.read_text().partition("\nasync def")[2]
    assert len(text.splitlines()) <= 16


@pytest.mark.process
async def test_it_prints_verified_finals_once(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    env = {**os.environ, "WEBHOOK_SECRET": f"whsec_{SECRET}\n"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(RECEIVER), str(port), env=env, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await publish(ready_broker, [final("a", 0), final("a", 1), status("a", 2, "closed")])
        hook = Command(
            "webhook", "--url", url, "--allow-private", "--from-start", "--http-port", "0",
            terminal=False, folder="", NATS_URL=broker_settings.url, WEBHOOK_SECRET=SECRET,
        )  # fmt: skip
        async with hook:
            assert await process.stdout.readline() == "c a final 0 ü\n".encode()
            assert await process.stdout.readline() == "c a final 1 ü\n".encode()
        async with aiohttp.ClientSession() as http:

            async def post(secret: bytes, webhook_id: str, text: str) -> int:
                body = final("a", 0).model_copy(update={"text": text}).encode()
                headers = signed_headers([secret], webhook_id, int(time.time()), body)
                async with http.post(url, data=body, headers=headers) as response:
                    return response.status

            (secret,) = parse_secrets(SECRET, "here")
            assert await post(b"x" * 32, "session-a:9", "forged") == 401
            assert await post(secret, "session-a:0", "again") == 204
            assert await post(secret, "session-a:3", "last") == 204
        assert await process.stdout.readline() == b"c a last\n", "neither is printed"
    finally:
        process.kill()
        await process.wait()
    assert await until(lambda: process.returncode is not None, "it has ended")
