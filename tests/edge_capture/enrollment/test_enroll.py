"""Enrollment on a real broker with JWTs, with a registrar that is killed, and clones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import stat
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile
from nats.aio.msg import Msg

from edge_capture.enrollment.enroll import enroll
from edge_capture.enrollment.identity import Enrollment, Identity
from edge_capture.enrollment.machine import Machine, read_machine
from edge_capture.errors import EnrollmentRefused
from natterjack.broker import streams
from natterjack.broker.connection import connected
from natterjack.broker.login.credentials import Credentials
from natterjack.broker.login.jwt import ACCOUNT, make_jwt, make_key, read_claims
from natterjack.enrollment.records import Invitation, Reply
from natterjack.enrollment.store import Store, invitation_key
from natterjack.enrollment.token import Token, parse_token
from natterjack.errors import BrokerUnreachable
from natterjack.settings import BrokerSettings, StreamSettings
from tests.natterjack.cli.commands import Command
from tests.natterjack.cli.ports import get
from tests.natterjack.enrollment.signed import SignedServer
from tests.waiting import bound, soon, until

from ..program import Edge, announced

pytestmark = pytest.mark.process

MACHINE = Machine(installation="one", serials={"board_serial": "1"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Iterator[SignedServer]:
    server = SignedServer(tmp_path_factory.mktemp("signed") / "home")
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
async def made(server: SignedServer) -> None:
    async with connected(server.settings("operator"), name="test", once=True) as broker:
        await streams.ensure(broker, StreamSettings())


@contextlib.asynccontextmanager
async def registrar(server: SignedServer, **settings: str) -> AsyncIterator[Command]:
    async with server.registrar(**settings) as command:
        await until(lambda: "ready to enroll" in command.errors, "the registrar is ready")
        yield command


@contextlib.contextmanager
def edge(directory: Path, identity: Path, *arguments: str, **environment: str) -> Iterator[Edge]:
    number = len(list(directory.glob("edge-*")))
    environment = {"EDGE_IDENTITY": str(identity), "NATTERJACK_LOG_FORMAT": "json", **environment}
    process = Edge(directory / f"edge-{number}", arguments, environment, subprocess.PIPE)
    try:
        yield process
    finally:
        process.end()


async def enrolled(
    token: str, identity: Path, agent: str | None = None, machine: Machine = MACHINE
) -> Enrollment:
    return await enroll(parse_token(token), Identity(identity), machine, agent=agent, new_key=False)


async def used(server: SignedServer, token: str) -> int:
    shown = await server.edges("invitations", "--json")
    (one,) = (one for one in json.loads(shown.out) if one["id"] == parse_token(token).public_key)
    return int(one["used"])


def wav(path: Path, seconds: float) -> Path:
    soundfile.write(path, np.zeros(int(16_000 * seconds), np.int16), 16_000)
    return path


async def stored(server: SignedServer, key: str) -> int:
    """The chunks that the broker has of a key."""
    async with connected(server.settings("operator"), name="test", once=True) as broker:
        info = await broker.client.jetstream().stream_info(
            streams.AUDIO, subjects_filter=f"stt.audio.{key}"
        )
    return sum((info.state.subjects or {}).values())


async def check_speaks_for_itself_alone(server: SignedServer, creds: Path) -> None:
    """Assert that the edge acme.hall may report as no other edge, and answer for none."""
    refused: set[str] = set()
    foreign = {"$KV.stt_edges.acme.desk", "$KV.stt_edges.other.hall", "stt.edge.acme.desk.token"}
    heard = {
        "stt.edge.acme.desk", "stt.edge.other.hall", "stt.edge.acme.*",
        "stt.transcript.acme.*.*.final",
    }  # fmt: skip
    async with connected(BrokerSettings(url=server.url, creds=creds), name="test") as broker:
        broker.on_refusal.add(lambda refusal: refused.add(refusal.subject))
        for subject in foreign:
            await broker.client.publish(subject, b"{}")
        for subject in heard:
            await broker.client.subscribe(subject)
        await until(lambda: refused == foreign | heard, "the broker refuses all of it")


async def test_an_invited_machine_captures_until_it_is_revoked(
    server: SignedServer, tmp_path: Path
) -> None:
    identity = tmp_path / "identity"
    async with registrar(server) as running:
        token = await server.invite()
        with edge(tmp_path, identity, "enroll", "-", "--agent", "hall") as enrolling:
            assert enrolling.process.stdin is not None
            enrolling.process.stdin.write(f"{token}\n".encode())
            enrolling.process.stdin.close()
            assert await enrolling.exit_code() == 0, enrolling.stderr
        assert stat.S_IMODE((identity / "edge.creds").stat().st_mode) == 0o600
        assert sorted(path.name for path in identity.iterdir()) == ["edge.creds", "enrollment.json"]

        with edge(
            tmp_path, identity, "file", str(wav(tmp_path / "a.wav", 2)), "--conversation", "c",
            "--speed", "max",
        ) as capturing:  # fmt: skip
            assert await capturing.exit_code() == 0, capturing.stderr
            assert str(announced(capturing.stdout)[0].key) == "acme.c.speaker"
        assert await stored(server, "acme.c.speaker") >= 25

        with edge(tmp_path, identity, "stdin", "--conversation", "d") as capturing:
            assert capturing.process.stdin is not None
            capturing.process.stdin.write(bytes(32_000))
            capturing.process.stdin.flush()
            await until(lambda: announced(capturing.stdout), "the session is open")

            async def arrives() -> bool:
                return await stored(server, "acme.d.speaker") > 0

            await until(arrives, "audio arrives")

            async def listed() -> bool:
                found = json.loads((await server.edges("--json")).out)
                return "hall" in [each["agent"] for each in found if each["state"] == "running"]

            await until(listed, "the center sees the edge")
            done = await server.edges("status", "hall", "--json")
            assert json.loads(done.out)["sources"][0]["key"] == "acme.d.speaker", done
            await check_speaks_for_itself_alone(server, identity / "edge.creds")
            assert [each["agent"] for each in json.loads((await server.edges("--json")).out)] == [
                "hall"
            ]
            done = await server.edges("revoke", "hall", "--tenant", "acme")
            assert done.status == 0, done
            await capturing.says("Authentication Revoked")
        held = Credentials(BrokerSettings(creds=identity / "edge.creds")).read()
        refused = json.loads((server.users / "jwt" / "revoked.json").read_text())["EDGE_acme"]
        assert list(refused.values()) == [pytest.approx(held.expires, abs=1)]
        again = await server.edges("revoke", "nobody", "--tenant", "acme")
        assert (again.status, "no enrolled agent nobody" in again.errors) == (1, True)
        with pytest.raises(EnrollmentRefused, match="--new-key"):
            await enrolled(await server.invite(), identity)
        named = await enrolled(await server.invite(), tmp_path / "second", "hall")
        assert named.agent == "hall"
    for secret in (token, parse_token(token).seed):
        assert secret not in running.errors + server.log_path.read_text()


async def test_tokens_that_open_nothing(server: SignedServer, tmp_path: Path) -> None:
    async with registrar(server) as running:
        withdrawn = await server.invite("--uses", "2")
        await enrolled(withdrawn, tmp_path / "a")
        key = parse_token(withdrawn).public_key
        assert (await server.edges("withdraw", key[:12])).status == 0
        with pytest.raises(EnrollmentRefused, match="was withdrawn"):
            await enrolled(withdrawn, tmp_path / "b")

        single = await server.invite()
        first = await enrolled(single, tmp_path / "c", "desk")
        assert await enrolled(single, tmp_path / "c", "desk") == first
        assert await used(server, single) == 1
        with pytest.raises(EnrollmentRefused, match="for 1 machines"):
            await enrolled(single, tmp_path / "d")

        token = parse_token(await server.invite())
        forged = make_key()
        with pytest.raises(BrokerUnreachable, match="refuses the credentials"):
            await _enroll(Token(token.url, token.jwt, forged.seed.decode()), tmp_path / "e")

        taken = await server.invite()
        with pytest.raises(EnrollmentRefused, match="has an agent desk"):
            await enrolled(taken, tmp_path / "f", "desk")

        assert await get(running, "/readyz") == (200, "ok\n")
        _, metrics = await get(running, "/metrics")
        for outcome, number in {"enrolled": 3, "withdrawn": 1, "used_up": 1, "taken": 1}.items():
            line = f'natterjack_registrar_answers_total{{outcome="{outcome}"}} {number}.0'
            assert line in metrics


async def _enroll(token: Token, directory: Path) -> Enrollment:
    return await enroll(token, Identity(directory), MACHINE, agent=None, new_key=False)


async def test_an_invitation_that_expires(server: SignedServer, tmp_path: Path) -> None:
    token = parse_token(await server.invite())
    claims = read_claims(token.jwt)
    assert claims["exp"] - claims["iat"] == pytest.approx(24 * 3600, abs=5)
    async with (
        registrar(server),
        connected(server.settings("registrar"), name="test", once=True) as broker,
    ):
        store, key = Store(broker), invitation_key(token.public_key)
        found = await store.get(key)
        invitation = found.parse(Invitation)
        assert invitation is not None
        past = invitation.model_copy(update={"expires_at": invitation.created_at})
        assert await store.put(key, past, found.revision)
        assert not await store.put(key, past, found.revision)
        with pytest.raises(EnrollmentRefused, match="expired"):
            await _enroll(token, tmp_path / "a")


async def test_twenty_machines_and_ten_uses(server: SignedServer, tmp_path: Path) -> None:
    async with registrar(server), registrar(server):
        token = await server.invite("--uses", "10")

        async def attempt(number: int) -> Enrollment:
            return await enrolled(token, tmp_path / str(number))

        answers = await asyncio.gather(*map(attempt, range(20)), return_exceptions=True)
        names = {one.agent for one in answers if isinstance(one, Enrollment)}
        assert len(names) == 10
        refused = [str(one) for one in answers if isinstance(one, EnrollmentRefused)]
        assert len(refused) == 10
        assert all("for 10 machines" in words for words in refused)
        assert await used(server, token) == 10


async def test_killed_registrars_and_edges_use_an_invitation_once(
    server: SignedServer, tmp_path: Path
) -> None:
    token, identity = await server.invite("--uses", "3"), tmp_path / "identity"
    asked = asyncio.Event()

    async def hear(_: object) -> None:
        asked.set()

    async with (
        connected(server.settings("registrar"), name="test", once=True) as broker,
        registrar(server) as first,
    ):
        await broker.client.subscribe("stt.enroll.*", cb=hear)
        await broker.client.flush()
        first.signal(signal.SIGSTOP)
        with edge(tmp_path, identity, "enroll", token) as enrolling:
            await soon(asked.wait(), 30)
            enrolling.kill()
        key = Identity(identity).key(new=False)
        assert Identity(identity).read() is None
        first.signal(signal.SIGCONT)

        async def counted() -> bool:
            return await used(server, token) == 1

        await until(counted, "the request of the killed edge is counted")
        first.signal(signal.SIGKILL)
        await first.status()
        with pytest.raises(BrokerUnreachable, match="no registrar answers"):
            await enrolled(token, identity)
    async with registrar(server):
        found = await enrolled(token, identity)
    assert found.public_key == key.public
    assert await used(server, token) == 1


async def test_credentials_are_renewed_during_a_capture(
    server: SignedServer, tmp_path: Path
) -> None:
    identity, done = tmp_path / "identity", threading.Event()
    async with registrar(server, REGISTRAR_LIFETIME_HOURS=str(bound(15) / 3600)):
        await enrolled(await server.invite(), identity, machine=read_machine())
        first = (identity / "edge.creds").read_text()
        with edge(
            tmp_path, identity, "stdin", "--conversation", "long", "--speed", "1"
        ) as capturing:
            stdin = capturing.process.stdin
            assert stdin is not None
            feeding = asyncio.create_task(asyncio.to_thread(_feed, stdin, done))
            try:
                await capturing.says("NATS connection is back", 60)
            finally:
                done.set()
                seconds = await feeding
            assert await capturing.exit_code() == 0, capturing.stderr
    assert (identity / "edge.creds").read_text() != first
    assert stat.S_IMODE((identity / "edge.creds").stat().st_mode) == 0o600
    assert await stored(server, "acme.long.speaker") >= seconds * 1000 // 80


async def test_credentials_that_the_server_refuses_do_not_replace_those_that_work(
    server: SignedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = tmp_path / "identity"
    async with registrar(server, REGISTRAR_LIFETIME_HOURS=str(bound(15) / 3600)):
        found = await enrolled(await server.invite(), identity)
    creds = identity / "edge.creds"
    first = creds.read_text()
    jwt = first.splitlines()[1]
    claims = read_claims(jwt)
    forged = make_jwt(
        make_key(ACCOUNT), found.public_key, claims["nats"], name=found.agent,
        expires=claims["exp"] + 3600,
    )  # fmt: skip

    async def answer(message: Msg) -> None:
        await message.respond(Reply(jwt=forged).model_dump_json().encode())

    inbox = f"_INBOX_edge_acme_{found.agent}"
    settings = BrokerSettings(url=server.url, creds=creds, inbox_prefix=inbox)
    async with connected(server.settings("registrar"), name="forger", once=True) as broker:
        await broker.client.subscribe("stt.renew.*", cb=answer)
        await broker.client.flush()
        async with connected(settings, name="edge", once=True):
            await until(lambda: "refuses what the registrar has signed" in caplog.text, "a refusal")
            assert creds.read_text() == first


def _feed(stdin: IO[bytes], done: threading.Event) -> int:
    """Write whole seconds of audio until the test is done. Returns how many."""
    seconds = 0
    with contextlib.suppress(BrokenPipeError):  # the edge has ended, which its status tells
        while not done.is_set():
            stdin.write(bytes(32_000))
            stdin.flush()
            seconds += 1
        stdin.close()
    return seconds


async def test_a_machine_that_was_off_too_long_enrolls_again_by_itself(
    server: SignedServer, tmp_path: Path
) -> None:
    identity = tmp_path / "identity"
    token = await server.invite("--captions", "--uses", "2", tenant="theater")
    async with registrar(server, REGISTRAR_LIFETIME_HOURS=str(0.2 / 3600)):
        first = await enrolled(token, identity, "stage", machine=read_machine())
    await until(lambda: Identity(identity).expired(time.time()), "the credentials have expired")
    async with registrar(server):
        capture = ("file", str(wav(tmp_path / "a.wav", 1)), "--conversation", "f")
        with edge(tmp_path, identity, *capture, "--speed", "max", EDGE_TOKEN=token) as again:
            assert await again.exit_code() == 0, again.stderr
    assert Identity(identity).read() == first
    assert not Identity(identity).expired(time.time())
    assert await used(server, token) == 1
    # Its invitation grants captions, and no stored text.
    events = {
        f"stt.transcript.theater.*.*.{kind}" for kind in ("interim", "final", "turn", "usage")
    }
    refused: set[str] = set()
    settings = BrokerSettings(url=server.url, creds=identity / "edge.creds")
    async with connected(settings, name="test") as broker:
        broker.on_refusal.add(lambda refusal: refused.add(refusal.subject))
        for subject in events:
            await broker.client.subscribe(subject)
        allowed = {subject for subject in events if subject.endswith(("interim", "final"))}
        await until(lambda: refused == events - allowed, "the broker refuses the others")


async def test_a_clone_enrolls_anew(server: SignedServer, tmp_path: Path) -> None:
    identity, audio = tmp_path / "identity", str(wav(tmp_path / "a.wav", 1))
    async with registrar(server):
        token = await server.invite("--uses", "2")
        original = await enrolled(token, identity, machine=Machine(installation="another"))
        known = json.loads((identity / "enrollment.json").read_text())
        known["machine"] = {"installation": "another"}
        capture = ("file", audio, "--conversation", "e", "--speed", "max")
        with edge(tmp_path, identity, *capture) as refused:
            assert await refused.exit_code() == 2
            assert "clone" in refused.stderr
        with edge(tmp_path, identity, *capture, EDGE_TOKEN=token) as anew:
            assert await anew.exit_code() == 0, anew.stderr
        found = Identity(identity).read()
        assert found is not None
        assert found.public_key != original.public_key
        assert found.agent != original.agent
        assert await used(server, token) == 2
