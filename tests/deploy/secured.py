"""A nats-server with the configuration of deploy/nats, TLS and users of every role."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

from nats.aio.client import Client

from natterjack.settings import KINDS
from tests.nats_server import NatsServer
from tests.natterjack.cli.commands import Command
from tests.ports import free_port

from ..waiting import Countdown, until, within

DEPLOY = Path(__file__).parents[2] / "deploy"
USERS = {
    "operator": ("operator",),
    "worker": ("worker",),
    "monitor": ("monitor",),
    "registrar": ("registrar",),
    "gateway": ("gateway",),
    "edge_acme_pi-1": ("edge", "--tenant", "acme", "--name", "pi-1"),
    "edge_acme_pi-2": ("edge", "--tenant", "acme", "--name", "pi-2", "--speaker", "agent"),
    "edge_acme_wall": (
        "edge", "--tenant", "acme", "--name", "wall", "--speaker", "agent", "--captions",
        "--agent", "screen",
    ),
    "edge_other_x": ("edge", "--tenant", "other", "--name", "x"),
    "subscriber_acme_app": ("subscriber", "--tenant", "acme", "--name", "app", "--control"),
    "subscriber_acme_shown": ("subscriber", "--tenant", "acme", "--name", "shown", "--live"),
    "subscriber_archive": ("subscriber", "--name", "archive"),
    "subscriber_acme_index": (
        "subscriber", "--tenant", "acme", "--name", "index", "--durable", "index",
    ),
    "subscriber_acme_call": (
        "subscriber", "--tenant", "acme", "--name", "call", "--conversation", "call", "--kinds",
        "final,status",
    ),
    "application_acme_bot": ("application", "--tenant", "acme", "--name", "bot"),
}  # fmt: skip


class SecuredServer(NatsServer):
    """A server with deploy/nats/nats.conf, except for its port and store."""

    def __init__(self, home: Path) -> None:
        super().__init__(home / "data", extra_arguments=("-c", str(home / "nats.conf"), "-m", "-1"))
        self.home = home
        self._web_port = free_port()
        configuration = home / "nats.conf"
        text, count = re.subn(
            r"(?<=^websocket \{\n  port: )\d+", f"{self._web_port}", configuration.read_text(),
            flags=re.M,
        )  # fmt: skip
        assert count == 1
        configuration.write_text(text)

    def store_arguments(self) -> tuple[str | Path, ...]:
        return ()  # the file has all options

    def start(self, timeout: float = 15) -> None:
        before = Path.cwd()
        os.environ["NATS_SERVER_NAME"] = "test"
        os.chdir(self.home)  # paths in the configuration are relative to it
        try:
            super().start(timeout)
        finally:
            os.chdir(before)
            del os.environ["NATS_SERVER_NAME"]

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        """The URL of the port for edges that only reach HTTPS."""
        return f"wss://127.0.0.1:{self._web_port}"

    def reload(self) -> None:
        """Make the server reload its configuration, and wait until it has."""
        before = self.log_path.read_text().count("Reloaded server configuration")
        os.kill(self.pid, signal.SIGHUP)
        countdown = Countdown(10)
        while self.log_path.read_text().count("Reloaded server configuration") == before:
            assert not countdown.expired(), self.log_path.read_text()
            time.sleep(0.02)  # between two looks at the log

    @property
    def complaints(self) -> list[str]:
        """Log lines that report permission violations or errors."""
        lines = self.log_path.read_text().splitlines()
        return [line for line in lines if "Violation" in line or "[ERR]" in line]

    def environment(self, user: str) -> dict[str, str]:
        """Return the settings of a program that connects as `user`."""
        return {
            "NATS_URL": self.url,
            "NATS_CA": str(self.home / "tls" / "ca.pem"),
            "NATS_NKEY": str(self.home / "users" / f"{user}.nk"),
            "NATS_INBOX_PREFIX": f"_INBOX_{user}",
            "NATTERJACK_CREATE_STREAMS": "false",
        }


async def add_user(home: Path, *arguments: str) -> str:
    """Run `natterjack users add` and return its output."""
    async with Command("users", "add", "--dir", str(home / "users"), *arguments) as command:
        assert await command.status() == 0, command.errors
    return command.out


async def make_home(home: Path) -> None:
    """Create a directory as in deploy/README.md: configuration, certificates, users."""
    home.mkdir()
    (home / "nats.conf").write_text((DEPLOY / "nats" / "nats.conf").read_text())
    script = [str(DEPLOY / "tls.sh"), "--dir", str(home / "tls")]
    await asyncio.to_thread(subprocess.run, script, check=True, capture_output=True)
    for user, arguments in USERS.items():
        assert f"NATS_INBOX_PREFIX=_INBOX_{user}" in await add_user(home, *arguments)


class Guest:
    """A plain NATS client of one user, and the permission errors that it receives."""

    def __init__(self) -> None:
        self.client = Client()
        self._refusals: asyncio.Queue[str] = asyncio.Queue()
        self._count = 0

    async def complain(self, error: Exception) -> None:
        self._refusals.put_nowait(str(error))

    async def may_publish(self, subject: str) -> bool:
        return await self._may(self.client.publish(subject))

    async def may_subscribe(self, subject: str) -> bool:
        return await self._may(self.client.subscribe(subject))

    async def _may(self, asking: Awaitable[object]) -> bool:
        await asking
        self._count += 1
        mark = f"nobody.may.{self._count}"
        await self.client.publish(mark)
        refusals: list[str] = []
        async with within(10):
            while not refusals or mark not in refusals[-1]:
                refusals.append(await self._refusals.get())
        return len(refusals) == 1


@contextlib.asynccontextmanager
async def guest(server: SecuredServer, user: str) -> AsyncIterator[Guest]:
    one = Guest()
    await one.client.connect(
        server.url,
        tls=ssl.create_default_context(cafile=server.environment(user)["NATS_CA"]),
        nkeys_seed=server.environment(user)["NATS_NKEY"],
        inbox_prefix=f"_INBOX_{user}".encode(),
        error_cb=one.complain,
        allow_reconnect=False,
        connect_timeout=10,
    )
    try:
        yield one
    finally:
        await one.client.close()


async def apply_streams(server: SecuredServer) -> None:
    """Apply the streams as an installation does."""
    async with Command(
        "streams", "apply", "--kinds", ",".join(KINDS), terminal=False,
        **server.environment("operator"),
    ) as command:  # fmt: skip
        assert await command.status() == 0, command.errors
    await until(lambda: not server.complaints, "no client was refused")


async def make_installation(home: Path) -> None:
    """Make the directory of a server that has users and streams, for tests to copy."""
    await make_home(home)
    server = SecuredServer(home)
    server.start()
    try:
        await apply_streams(server)
    finally:
        server.stop()
