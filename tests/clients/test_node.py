"""clients/js: its own tests, and least-privilege subscribers while the broker crashes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from natterjack.local.embedded import find_binary
from natterjack.position import Position

from ..deploy.secured import SecuredServer
from ..waiting import bound, slowdown, until
from .conftest import Program, example
from .events import Session, publish
from .npm import CLIENT, build, program

pytestmark = pytest.mark.process


@pytest.mark.slow
def test_the_tests_of_the_package_pass() -> None:
    build()
    path = os.pathsep.join([str(find_binary().parent), os.environ["PATH"]])
    done = subprocess.run(
        [program("npm"), "test"],
        cwd=CLIENT, capture_output=True, text=True, check=False, timeout=bound(60),
        env={**os.environ, "PATH": path, "TEST_SLOWDOWN": str(slowdown())},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


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
    stored = [json.loads(line) for line in one.lines]
    assert [event["id"] for event in stored] == [f"session-one:{n}" for n in range(61)]
    positions = [Position.parse(event["position"]) for event in stored]  # as for Python
    assert [position.sequence for position in positions] == list(range(1, 62))
    assert not [line for line in secured.complaints if "Violation" in line]
    assert one.status is None, one.errors


@pytest.mark.parametrize(
    ("user", "options", "refused"),
    [
        ("subscriber_acme_app", {"tenant": "other"}, r"stt\.transcript\.other\."),
        ("subscriber_acme_app", {}, r"stt\.transcript\.\*"),
        ("subscriber_acme_shown", {"tenant": "acme", "interims": None}, "CONSUMER.CREATE"),
        ("subscriber_acme_call", {"tenant": "acme", "conversation": "call"}, "interim"),
    ],
    ids=["another tenant", "all tenants", "live only", "not these kinds"],
)
async def test_a_missing_right_is_named(
    secured: SecuredServer, subscriber: list[Program], tmp_path: Path, user: str,
    options: dict[str, Any], refused: str,
) -> None:  # fmt: skip
    one = listening(secured, tmp_path / "one", user, **options)
    subscriber.append(one)
    await until(lambda: one.status is not None, "the program ends", 30)
    assert one.status == 1
    assert re.match(f"NotAllowed: the user may not .*{refused}.*natterjack users", one.errors)


async def test_a_subscriber_reads_the_kinds_that_it_may(
    secured: SecuredServer, subscriber: list[Program], tmp_path: Path
) -> None:
    session = Session("session-one")
    await publish(secured, session.status("assigned"), session.final("word"))
    options = {"tenant": "acme", "conversation": "call", "kinds": ["final"]}
    one = listening(
        secured, tmp_path / "one", "subscriber_acme_call", **options, since="start", until="stored"
    )
    subscriber.append(one)
    await until(lambda: one.status is not None, "the program ends", 30)
    assert (one.status, texts(one)) == (0, ["word"]), one.errors


async def test_the_official_client_goes_on_when_the_broker_is_back(
    secured: SecuredServer, subscriber: list[Program], tmp_path: Path
) -> None:
    """examples/bare_client.mjs, with the rights of a subscriber that has a durable consumer."""
    user = secured.environment("subscriber_acme_index")
    one = example(tmp_path / "example", "bare_client.mjs", "acme", "index", **user)
    subscriber.append(one)
    session, words = Session("session-one"), [f"word{n}" for n in range(30)]
    expected = [f"call agent: {word}" for word in words]
    for crash in range(3):
        at = crash * 10
        await publish(secured, *(session.final(word) for word in words[at : at + 5]))
        await one.wrote(expected[: at + 5], "the first ones arrive")
        secured.kill()
        secured.start()
        await publish(secured, *(session.final(word) for word in words[at + 5 : at + 10]))
        await one.wrote(expected[: at + 10], "the next ones arrive")
    one.kill()
    await publish(secured, session.final("while it was away"))
    again = example(tmp_path / "again", "bare_client.mjs", "acme", "index", **user)
    subscriber.append(again)
    await until(lambda: "call agent: while it was away" in again.lines, "it goes on", 60)
    assert not [line for line in secured.complaints if "Violation" in line]
