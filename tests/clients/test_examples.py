"""The examples in Node and for the shell, as a least-privilege subscriber, while the broker, the
programs and what they talk to fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ..deploy.secured import SecuredServer
from ..waiting import until
from .conftest import EXAMPLES, Program, example
from .events import Session, publish

pytestmark = pytest.mark.process


class Crm:
    """A server that keeps what is put to it, and fails every other request."""

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}
        self.url = ""
        self._requests = 0

    async def put(self, request: web.Request) -> web.Response:
        self._requests += 1
        if self._requests % 2:
            return web.Response(status=503)
        self.calls[request.match_info["call"]] = await request.json()
        return web.Response()


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    crm, app = Crm(), web.Application()
    app.router.add_put("/calls/{call}", crm.put)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    crm.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield crm
    await runner.cleanup()


async def call(secured: SecuredServer, number: int) -> None:
    """Publish the events of one call with two speakers."""
    speakers = [
        Session(f"{speaker}-{number}", speaker, f"call-{number}") for speaker in ("agent", "caller")
    ]
    for session in speakers:
        await publish(secured, session.final(f"word{number}"), session.status("closed"))


async def test_each_call_is_put_into_the_crm(
    secured: SecuredServer, subscriber: list[Program], crm: Crm, tmp_path: Path
) -> None:
    user = secured.environment("subscriber_acme_app")
    arguments = ("crm.mjs", "acme", crm.url, str(tmp_path / "position"))
    one = example(tmp_path / "one", *arguments, **user)
    subscriber.append(one)
    await call(secured, 0)
    await until(lambda: "call-0" in crm.calls, "the first call", 60)
    secured.kill()
    secured.start()
    await call(secured, 1)
    await until(lambda: "call-1" in crm.calls, "the call after the broker's crash", 60)
    one.kill()
    await call(secured, 2)
    again = example(tmp_path / "again", *arguments, **user)
    subscriber.append(again)
    await call(secured, 3)

    def complete() -> bool:
        assert again.status is None, again.errors
        whole = [c for c in crm.calls.values() if not c["open"] and "caller" in c["text"]]
        return len(whole) == 4

    await until(complete, "all calls", 60)
    assert {name: c["text"] for name, c in crm.calls.items()} == {
        f"call-{n}": f"agent: word{n}\ncaller: word{n}" for n in range(4)
    }


@pytest.mark.slow
async def test_a_shell_writes_each_conversation_that_has_ended(
    secured: SecuredServer, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **secured.environment("subscriber_acme_app"), "PATH": path}
    await call(secured, 0)
    with (tmp_path / "log").open("w") as log:
        shell = subprocess.Popen(
            ["sh", EXAMPLES / "export_when_ended.sh", "acme", folder], env=environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:

        def written(number: int) -> bool:
            assert shell.poll() is None, (tmp_path / "log").read_text()
            file = folder / "acme" / f"call-{number}.txt"
            return file.exists() and "caller: " in file.read_text()

        await until(lambda: written(0), "what is stored", 60)
        secured.kill()
        secured.start()
        await call(secured, 1)
        await until(lambda: written(1), "what comes after the broker's crash", 60)
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
