"""Certificates and keys are renewed under a worker, an edge, `listen()` and a command at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from natterjack import listen
from natterjack.broker.connection import Broker, connected
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import DurableEvent, InterimEvent, StatusEvent, parse_event
from natterjack.settings import BrokerSettings
from tests.edge_capture.program import Edge
from tests.identities import Authority, Operator, make_key, replace
from tests.nats_server import NatsServer
from tests.natterjack.cli.commands import Command
from tests.waiting import bound, until
from tests.worker.programs import UNDISTURBED, WorkerProcess

from .audit import audit

pytestmark = [pytest.mark.process, pytest.mark.slow]

HOW = {"phrase_words": 6, "pause_seconds": 0.8, "lead_seconds": 0.3}
BACK = "NATS connection is back"


class Installation:
    """A server that requires certificates and one user, and the files of all its clients."""

    def __init__(self, home: Path, users: str) -> None:
        """`users` is `nkey` or `jwt`."""
        self.home = home
        self.operator = Operator()
        self._authorities = 0
        self.server = NatsServer(home / "nats", extra_arguments=("-c", str(home / "nats.conf")))
        self.trusted = self.new_authority()
        """Issues the server's certificate."""
        self.clients = self.trusted
        """Issues those of clients."""
        self._keys: list[str] = []
        self.certify_server()
        self.certify_clients()
        self._users = users
        if users == "nkey":
            self.use_key()
        else:
            self.use_creds()
        self.configure()

    def new_authority(self) -> Authority:
        self._authorities += 1
        return Authority(self.home / f"ca{self._authorities}", f"CA {self._authorities}")

    def certify_server(self) -> None:
        for name, content in zip(("cert", "key"), self.trusted.issue("server"), strict=True):
            replace(self.home / f"server-{name}.pem", content)
        replace(self.home / "ca.pem", self.trusted.certificate)

    def certify_clients(self, until: float | None = None) -> None:
        for name, content in zip(
            ("cert", "key"), self.clients.issue("client", until=until), strict=True
        ):
            replace(self.home / f"client-{name}.pem", content)
        replace(self.home / "client-ca.pem", self.clients.certificate)

    def use_key(self) -> None:
        """Give all clients a new key, which the server gets beside the old one."""
        key = make_key()
        self._keys = [*self._keys[-1:], key.public]
        replace(self.home / "user.nk", key.seed)

    def remove_old_key(self) -> None:
        self._keys = self._keys[-1:]
        self.configure()

    def use_creds(self, until: float | None = None) -> None:
        replace(self.home / "user.creds", self.operator.creds(until=until))

    def configure(self) -> None:
        """Write the server's configuration."""
        users = ", ".join(f"{{nkey: {key}}}" for key in self._keys)
        (self.home / "nats.conf").write_text(
            f'tls {{ cert_file: "{self.home}/server-cert.pem", verify: true,\n'
            f'  key_file: "{self.home}/server-key.pem", ca_file: "{self.home}/client-ca.pem" }}\n'
            + (f"authorization {{ users = [{users}] }}\n" if users else "")
            + (self.operator.configuration() if self._users == "jwt" else "")
        )

    def restart(self) -> None:
        self.server.stop()
        self.server.start()

    def reload(self) -> None:
        os.kill(self.server.pid, signal.SIGHUP)

    @property
    def environment(self) -> dict[str, str]:
        """The settings of every program."""
        user = ("NATS_NKEY", "user.nk") if self._users == "nkey" else ("NATS_CREDS", "user.creds")
        files = {
            "NATS_CA": "ca.pem", "NATS_CERT": "client-cert.pem", "NATS_KEY": "client-key.pem",
            user[0]: user[1],
        }  # fmt: skip
        url = {"NATS_URL": f"tls://127.0.0.1:{self.server.port}"}
        return url | {name: str(self.home / file) for name, file in files.items()}


class Programs:
    """A worker, an edge that speaks until `end`, a listener and `natterjack tail`."""

    def __init__(
        self, worker: WorkerProcess, edge: Edge, listener: Broker, command: Command
    ) -> None:
        self.worker, self.edge, self.command = worker, edge, command
        self._listener = listener
        self._going = True
        self.events: list[DurableEvent] = []
        """The events that `listen()` yielded."""
        self.words: list[str] = []
        """The words that were said so far."""

    def reconnected(self) -> list[int]:
        """How often each program has reconnected."""
        return [
            sum(BACK in entry["message"] for entry in self.worker.log),
            self.edge.stderr.count(BACK),
            self._listener.reconnects,
            self.command.errors.count(BACK),
        ]

    async def all_reconnected(self, before: list[int]) -> None:
        try:
            await until(
                lambda: all(n > m for n, m in zip(self.reconnected(), before, strict=True)),
                "all programs are back",
                60,
            )
        except AssertionError as error:
            raise AssertionError(
                f"{error}: {self.reconnected()}\nworker: {self.worker.log[-4:]}\n"
                f"edge: {self.edge.stderr[-900:]}\ncommand: {self.command.errors[-900:]}\n"
                f"listener: {self._listener.trouble}"
            ) from None

    async def speak(self) -> None:
        """Write phrases to the edge's standard input in real time, until `end`."""
        words, size = tones.sequence(3000), HOW["phrase_words"]
        pcm = tones.encode(words, tail_seconds=0.8, **HOW)  # type: ignore[arg-type]
        places = tones.places(words, **HOW)  # type: ignore[arg-type]
        stdin = self.edge.process.stdin
        assert stdin is not None
        at, began = 0, time.monotonic()
        while self._going:
            self.words = words[: len(self.words) + int(size)]
            end = round((places[len(self.words) - 1].end + 0.8) * 16_000) * 2
            while at < end:
                block = pcm[at : min(end, at + 3200)]
                await asyncio.to_thread(stdin.write, block)
                await asyncio.to_thread(stdin.flush)
                at += len(block)
                await asyncio.sleep(began + at / 32_000 - time.monotonic())
        await asyncio.to_thread(stdin.close)

    def end(self) -> None:
        """Stop speaking after the phrase."""
        self._going = False

    async def take(self) -> None:
        """Collect durable events until the session ends."""
        async for event in listen(since="start", broker=self._listener):
            if isinstance(event, DurableEvent):
                self.events.append(event)
                if isinstance(event, StatusEvent) and event.closing:
                    return

    async def heard(self, words: int) -> None:
        """Wait until `words` more have been said."""
        before = len(self.words)
        await until(lambda: len(self.words) >= before + words, f"{words} words", 60)

    def check(self) -> None:
        """Assert that the listener and the command received each word once."""
        places = tones.places(self.words, **HOW)  # type: ignore[arg-type]
        shown = [parse_event(line.encode()) for line in self.command.out.splitlines()]
        durable = [event for event in shown if not isinstance(event, InterimEvent)]
        for events in (self.events, durable):
            found = audit(events, self.words, places)
            assert found.clean, found
        assert not self.worker.stray_lines


@contextlib.asynccontextmanager
async def running(
    installation: Installation, emulator: DeepgramEmulator, directory: Path
) -> AsyncIterator[Programs]:
    """Start all programs; when the block has ended, end the session and check its words."""
    environment = installation.environment
    worker = WorkerProcess("", emulator.url, **{**UNDISTURBED, **environment})
    edge = None
    try:
        await worker.start()
        edge = Edge(
            directory / "edge",
            ("stdin", "--live", "--conversation", "c", "--speaker", "s"),
            {**environment, "NATTERJACK_LOG_FORMAT": "text"},
            subprocess.PIPE,
        )
        settings = {k.removeprefix("NATS_").lower(): v for k, v in environment.items()}
        async with (
            connected(BrokerSettings.model_validate(settings), name="listener") as listener,
            Command("tail", "--json", "--from-start", terminal=False, **environment) as command,
        ):
            programs = Programs(worker, edge, listener, command)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(programs.speak())
                taking = tasks.create_task(programs.take())
                await until(lambda: programs.events, "the listener receives events")
                await until(lambda: "assigned" in command.out, "so does the command", 60)
                await programs.heard(6)
                yield programs
                await programs.heard(6)
                programs.end()
                assert await edge.exit_code(60) == 0, edge.stderr
            assert taking.done()
            await until(
                lambda: command.out.count("\n") and '"account"' in command.out.splitlines()[-1],
                "the command shows the end",
            )
            programs.check()
    finally:
        if edge is not None:
            edge.end()
        await worker.stop()


Rotate = Callable[[Installation, Programs], Awaitable[None]]


async def new_ca(installation: Installation, programs: Programs) -> None:
    """Everything is issued by a new CA, as after a leak."""
    before = programs.reconnected()
    installation.trusted = installation.clients = installation.new_authority()
    installation.certify_server()
    installation.certify_clients()
    installation.restart()
    await programs.all_reconnected(before)


async def new_server_certificate(installation: Installation, programs: Programs) -> None:
    before = programs.reconnected()
    installation.certify_server()
    installation.restart()
    await programs.all_reconnected(before)


async def new_client_certificate(installation: Installation, programs: Programs) -> None:
    """The certificate of a new issuer, which expires; its successor is there in time."""
    before = programs.reconnected()
    installation.clients = installation.new_authority()
    installation.certify_clients(expiry := time.time() + bound(3))
    installation.restart()
    await programs.all_reconnected(before)
    before = programs.reconnected()
    installation.certify_clients()
    await until(lambda: time.time() > expiry, "the certificate expires", 60)
    installation.restart()
    await programs.all_reconnected(before)


async def new_key(installation: Installation, programs: Programs) -> None:
    """The server knows both keys, until the old one is removed."""
    before = programs.reconnected()
    installation.use_key()
    installation.configure()
    installation.reload()
    installation.remove_old_key()
    installation.reload()
    await programs.all_reconnected(before)


async def new_jwt(installation: Installation, programs: Programs) -> None:
    """The file has the new JWT before the old one expires, so that the server refuses nobody."""
    before = programs.reconnected()
    installation.use_creds(time.time() + bound(8))
    installation.restart()
    await programs.all_reconnected(before)
    before = programs.reconnected()
    installation.use_creds()
    await programs.all_reconnected(before)
    assert "Authentication Expired" not in installation.server.log_path.read_text()


async def late_jwt(installation: Installation, programs: Programs) -> None:
    """The new JWT comes when the old one has expired."""
    before = programs.reconnected()
    installation.use_creds(expiry := time.time() + bound(3))
    installation.restart()
    await programs.all_reconnected(before)
    before = programs.reconnected()
    refused = "the server refuses the credentials, which have expired"
    await until(lambda: programs.worker.find(refused), "the worker says why", 60)
    await programs.edge.says(refused)
    assert refused in (await programs.worker.get("/readyz"))[1]
    lines = (await programs.worker.get("/metrics"))[1].splitlines()
    series = dict(line.rsplit(" ", 1) for line in lines)
    assert float(series['natterjack_nats_connect_failures_total{reason="expired"}']) > 0
    known = series['natterjack_nats_credentials_expiry_timestamp_seconds{credential="creds"}']
    assert float(known) == int(expiry)
    installation.use_creds()
    await programs.all_reconnected(before)


@pytest.mark.parametrize(
    ("rotate", "users"),
    [
        (new_ca, "nkey"),
        (new_server_certificate, "nkey"),
        (new_client_certificate, "nkey"),
        (new_key, "nkey"),
        (new_jwt, "jwt"),
        (late_jwt, "jwt"),
    ],
)
async def test_no_word_is_lost_or_doubled_when_credentials_are_renewed(
    rotate: Rotate, users: str, tmp_path: Path, emulator: DeepgramEmulator
) -> None:
    installation = Installation(tmp_path, users)
    installation.server.start()
    try:
        async with running(installation, emulator, tmp_path) as programs:
            await rotate(installation, programs)
    finally:
        installation.server.stop()
