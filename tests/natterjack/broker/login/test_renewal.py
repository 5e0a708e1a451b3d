"""Renewed credentials are tried, and used before those in use expire."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from natterjack.broker.connection import connected
from natterjack.broker.login.renewal import reconnect_after
from natterjack.settings import BrokerSettings
from tests.identities import Key, Operator, make_key, replace
from tests.nats_server import NatsServer
from tests.waiting import bound, until

NOW = 1000.0


@pytest.mark.parametrize(
    ("expires", "chance", "expected"),
    [
        (None, 0.5, None),
        (NOW + 1e6, 0.0, 0),
        (NOW + 1e6, 1.0, 60),
        (NOW + 40, 1.0, 20),
        (NOW - 5, 1.0, 0),
    ],
)
def test_the_connection_is_replaced_in_the_first_half_of_what_is_left(
    expires: float | None, chance: float, expected: float | None
) -> None:
    assert reconnect_after(expires, NOW, chance) == expected


@pytest.fixture
def start(tmp_path: Path, processes: None) -> Iterator[Callable[[str], NatsServer]]:
    """Start a server with a configuration, or give it another one."""
    path = tmp_path / "nats.conf"
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(path)))

    def apply(configuration: str) -> NatsServer:
        started = path.exists()
        path.write_text(configuration)
        if started:
            os.kill(server.pid, signal.SIGHUP)
        else:
            server.start()
        return server

    yield apply
    server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at files, and try them again, more often than usual."""
    monkeypatch.setattr("natterjack.broker.login.renewal._LOOK_S", 0.05)
    monkeypatch.setattr("natterjack.broker.login.renewal._TRY_AGAIN_S", 0.2)


async def test_a_jwt_that_is_renewed_in_time_never_expires_in_use(
    start: Callable[[str], NatsServer], tmp_path: Path
) -> None:
    operator, path = Operator(), tmp_path / "user.creds"
    server = start(operator.configuration())
    path.write_bytes(operator.creds(until=time.time() + bound(9)))
    async with connected(BrokerSettings(url=server.url, creds=path), name="test") as broker:
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def receive(message: object) -> None:
            received.put_nowait(message.data)  # type: ignore[attr-defined]

        await broker.client.subscribe("a", cb=receive)
        used = broker.client.identity
        replace(path, operator.creds())
        await until(lambda: broker.connected and broker.reconnects == 1, "another connection")
        assert not used.expired
        assert broker.client.identity.expires is None
        await broker.client.publish("a", b"after")
        assert await asyncio.wait_for(received.get(), bound(5)) == b"after"
        assert broker.reconnects == 1
    assert "Authentication Expired" not in server.log_path.read_text()


def users(*keys: Key) -> str:
    listed = ", ".join(f"{{nkey: {key.public}}}" for key in keys)
    return f"authorization {{ users = [{listed}] }}"


async def test_a_new_key_that_the_server_does_not_know_is_reported_while_the_old_one_works(
    start: Callable[[str], NatsServer],
    tmp_path: Path,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    old, new, path = make_key(), make_key(), tmp_path / "user.nk"
    server = start(users(old))
    path.write_bytes(old.seed)
    async with connected(BrokerSettings(url=server.url, nkey=path), name="test") as broker:
        replace(path, new.seed[:20])
        await until(lambda: "what was read before stays in use" in caplog.text, "it is half there")
        replace(path, new.seed)
        failures = broker.attempts.failures
        await until(lambda: failures["authorization"] >= 2, "it is tried and tried again")
        assert failures.total() == failures["authorization"]
        refused = "cannot be used yet: the server refuses the credentials: Authorization Violation"
        assert caplog.text.count(refused) == 1
        assert broker.trouble is None
        start(users(old, new))
        await until(lambda: "are accepted" in caplog.text, "the server knows it")
        assert broker.reconnects == 0, "nothing expires, so no connection is replaced"
        start(users(new))
        await until(lambda: broker.reconnects == 1 and broker.connected, "the old one is gone")
        assert broker.client.identity.public_key == new.public


async def test_a_full_server_says_nothing_about_new_credentials(
    start: Callable[[str], NatsServer],
    tmp_path: Path,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    old, path = make_key(), tmp_path / "user.nk"
    server = start(f"max_connections: 1\n{users(old)}")
    path.write_bytes(old.seed)
    async with connected(BrokerSettings(url=server.url, nkey=path), name="test") as broker:
        replace(path, make_key().seed)
        failures = broker.attempts.failures
        await until(lambda: failures["limit"] >= 2, "they are tried and tried again")
        assert "cannot be used yet" in caplog.text
        assert "are accepted" not in caplog.text
