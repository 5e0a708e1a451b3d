"""A nats-server whose accounts and users have JWTs, made by `natterjack users`."""

from __future__ import annotations

import os
from pathlib import Path

from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer

from ..cli.commands import Command, Result, run, run_async

USERS = ("operator", "worker", "registrar")


class SignedServer(NatsServer):
    """A server in operator mode. `home` has its configuration, its data and the users."""

    def __init__(self, home: Path, *, signed: bool = True) -> None:
        """Without `signed`, the users have NKeys until `natterjack users config --jwt`."""
        super().__init__(home / "data", extra_arguments=("-c", str(home / "nats.conf")))
        self.home = home
        self.users = home / "users"
        home.mkdir(parents=True)
        (home / "nats.conf").write_text(
            'jetstream { store_dir: "data" }\nauthorization { timeout: 5 }\n'
            'include "users/users.conf"\n'
        )
        jwt = ["--jwt"] if signed else []
        for number, role in enumerate(USERS):
            made = run("users", "add", "--dir", str(self.users), role, *jwt[number:])
            assert made.status == 0, made

    def store_arguments(self) -> tuple[str | Path, ...]:
        return ()  # the file has all options

    def start(self, timeout: float = 15) -> None:
        before = Path.cwd()
        os.chdir(self.home)  # paths in the configuration are relative to it
        try:
            super().start(timeout)
        finally:
            os.chdir(before)

    def environment(self, user: str) -> dict[str, str]:
        """The settings of a program that connects as `user`."""
        return {
            "NATS_URL": self.url,
            "NATS_CREDS": str(self.users / f"{user}.creds"),
            "NATS_INBOX_PREFIX": f"_INBOX_{user}",
        }

    def settings(self, user: str) -> BrokerSettings:
        creds, prefix = self.users / f"{user}.creds", f"_INBOX_{user}"
        return BrokerSettings(url=self.url, creds=creds, inbox_prefix=prefix)

    async def edges(self, *arguments: str) -> Result:
        """Run `natterjack edges` as the operator."""
        if arguments[0] in ("invite", "revoke"):
            arguments = (*arguments, "--dir", str(self.users))
        return await run_async("edges", *arguments, **self.environment("operator"))

    async def invite(self, *arguments: str, tenant: str = "acme") -> str:
        """Return a token."""
        result = await self.edges("invite", "--tenant", tenant, *arguments)
        assert result.status == 0, result
        return result.out.strip()

    def registrar(self, **settings: str) -> Command:
        """A registrar as a process."""
        return Command(
            "registrar",
            terminal=False,
            folder="",
            **self.environment("registrar"),
            REGISTRAR_SIGNING_KEY_FILE=str(self.users / "jwt" / "edges.nk"),
            REGISTRAR_HTTP_PORT="0",
            NATTERJACK_LOG_FORMAT="json",
            **settings,
        )
