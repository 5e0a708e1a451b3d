"""nats-server with JWTs in users.conf: it keeps earlier streams, and accounts that are newer."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import connected
from natterjack.broker.login.jwt import read_claims
from natterjack.cli.enrollment.directory import SignedDirectory
from natterjack.errors import BrokerUnreachable
from natterjack.settings import BrokerSettings, StreamSettings
from tests.waiting import until

from ..cli.commands import run, run_async
from .signed import SignedServer

pytestmark = pytest.mark.process


class MovedServer(SignedServer):
    """A server whose users have NKeys at first."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, signed=False)

    def known(self, user: str) -> BrokerSettings:
        """The settings of a user by its NKey."""
        path = self.users / f"{user}.nk"
        return BrokerSettings(url=self.url, nkey=path, inbox_prefix=f"_INBOX_{user}")

    def manage(self, *arguments: str) -> None:
        done = run("users", *arguments, "--dir", str(self.users))
        assert done.status == 0, done


async def publish(settings: BrokerSettings, number: int) -> int:
    """Publish a chunk as an edge. Returns its sequence number in the stream."""
    async with connected(settings, name="test", once=True) as broker:
        headers = {"Nats-Msg-Id": str(number)}
        reply = await broker.client.request("stt.audio.acme.c.s", b"x", 10, headers=headers)
    return int(json.loads(reply.data)["seq"])


async def test_streams_stay_when_users_get_jwts_and_revoked_keys_stay_out(tmp_path: Path) -> None:
    server = MovedServer(tmp_path / "home")
    server.manage("add", "edge", "--tenant", "acme", "--name", "pi")
    server.start()
    try:
        async with connected(server.known("operator"), name="test", once=True) as broker:
            await streams.ensure(broker, StreamSettings())
        assert await publish(server.known("edge_acme_pi"), 1) == 1
        server.manage("config", "--jwt")
        server.stop()
        config = server.users / "users.conf"
        older = config.read_text()
        found = re.search(r"^# (A.*) is STT$", older, re.M)
        assert found is not None
        stored = server.home / "data" / "jetstream"
        (stored / "STT").rename(stored / found[1])
        server.start()
        edge = server.settings("edge_acme_pi")
        assert await publish(edge, 2) == 2

        # The newest account wins, and accounts have the time in whole seconds.
        account = (server.users / "jwt" / "accounts" / "EDGE_acme.jwt").read_text()
        issued = read_claims(account)["iat"]
        await until(lambda: time.time() >= issued + 1, "a later account is newer")
        (key,) = (
            user["public_key"]
            for user in json.loads((server.users / "users.json").read_text())
            if user["role"] == "edge"
        )
        SignedDirectory(server.users).revoke("EDGE_acme", [key])
        done = await run_async(
            "users", "push", "--dir", str(server.users), **server.environment("operator")
        )
        assert "EDGE_acme: pushed" in done.out, done
        server.stop()
        config.write_text(older)
        server.start()
        with pytest.raises(BrokerUnreachable, match="refuses the credentials"):
            await publish(edge, 3)
    finally:
        server.stop()
