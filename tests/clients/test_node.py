"""clients/js: its own tests, and least-privilege subscribers while the broker crashes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from natterjack.local.embedded import find_binary

from ..deploy.secured import SecuredServer
from ..waiting import bound, slowdown, until
from .conftest import Program
from .events import Session, publish
from .npm import CLIENT, ROOT, build, program

pytestmark = pytest.mark.process
EXAMPLES = ROOT / "examples"


@pytest.mark.slow
def test_the_tests_of_the_package_pass() -> None:
    build()
    path = os.pathsep.join([str(find_binary().parent), os.environ["PATH"]])
    done = subprocess.run(
        [program("npm"), "test"],
        cwd=CLIENT, capture_output=True, text=True, check=False, timeout=bound(240),
        env={**os.environ, "PATH": path, "TEST_SLOWDOWN": str(slowdown())},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def subscriber(
    secured: SecuredServer, node: type[Program], tmp_path: Path
) -> Iterator[list[Program]]:
    """Programs that are killed at the end, and then the server."""
    started: list[Program] = []
    yield started
    for one in started:
        one.kill()
    secured.stop()


def listening(secured: SecuredServer, folder: Path, user: str, **options: Any) -> Program:
    folder.mkdir()
    script = str(CLIENT / "test" / "print.mjs")
    return Program(folder, script, json.dumps(options), **secured.environment(user))


def texts(listener: Program) -> list[str]:
    events = [json.loads(line) for line in listener.lines]
    return [event["text"] for event in events if event["type"] == "final"]


async def test_a_subscriber_misses_and_repeats_nothing_while_the_broker_crashes(
    secured: SecuredServer, subscriber: list[Program], tmp_path: Path
) -> None:
    one = listening(secured, tmp_path / "one", "subscriber_acme_app", tenant="acme", since="start")
    subscriber.append(one)
    session, words = Session("session-one"), [f"word{n}" for n in range(60)]
    for crash in range(3):
        part = words[crash * 20 : crash * 20 + 20]
        await publish(secured, *(session.final(word) for word in part[:10]))
        if crash != 1:  # else it crashes while these are on their way
            await until(lambda last=part[9]: last in texts(one), "the first ones arrive", 30)
        secured.kill()
        secured.start()
        await publish(secured, *(session.final(word) for word in part[10:]))
    await publish(secured, session.status("closed"))
    await until(lambda: one.lines and '"closed"' in one.lines[-1], "the end arrives", 60)
    assert texts(one) == words
    assert not [line for line in secured.complaints if "Violation" in line]
    assert one.status is None, one.errors
