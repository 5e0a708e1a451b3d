"""`natterjack-edge run` with an enrolled identity, over TLS with a CA that only the token has."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from edge_capture.enrollment.enroll import enroll, enroll_until
from edge_capture.enrollment.identity import Identity
from edge_capture.enrollment.machine import read_machine
from natterjack.broker import streams
from natterjack.broker.connection import connected
from natterjack.enrollment.token import parse_token
from natterjack.settings import BrokerSettings, StreamSettings
from tests.edge_capture.program import Edge
from tests.edge_capture.supervisor.agents import Counter, pipe
from tests.identities import Authority
from tests.natterjack.enrollment.signed import SignedServer
from tests.waiting import bound, until

pytestmark = pytest.mark.process


class SecureServer(SignedServer):
    """A server whose certificate is signed by a CA of its own."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        authority = Authority(home / "ca")
        self.ca = home / "ca" / "ca.pem"
        certificate, key = authority.issue("nats")
        (home / "server.pem").write_bytes(certificate)
        (home / "server-key.pem").write_bytes(key)
        with (home / "nats.conf").open("a") as file:
            file.write('tls { cert_file: "server.pem", key_file: "server-key.pem" }\n')

    def environment(self, user: str) -> dict[str, str]:
        return {**super().environment(user), "NATS_CA": str(self.ca)}

    def settings(self, user: str) -> BrokerSettings:
        return super().settings(user).model_copy(update={"ca": self.ca})


async def test_an_agent_of_several_sources_renews_what_it_enrolled_with(
    tmp_path: Path,
) -> None:
    server = SecureServer(tmp_path / "home")
    server.start()
    counter = Counter(tmp_path / "a.pipe")
    identity, path = tmp_path / "identity", tmp_path / "edge.toml"
    path.write_text(pipe("a", counter, 'speaker = "a"', 'conversation = "room"'))
    try:
        async with connected(server.settings("operator"), name="test", once=True) as broker:
            await streams.ensure(broker, StreamSettings())
        lifetime = str(bound(15) / 3600)
        async with server.registrar(REGISTRAR_LIFETIME_HOURS=lifetime) as registrar:
            await until(lambda: "ready to enroll" in registrar.errors, "the registrar is ready")
            token = parse_token(await server.invite())
            await enroll(token, Identity(identity), read_machine(), agent="hall", new_key=False)
            assert (identity / "ca.pem").read_text() == server.ca.read_text()
            first = (identity / "edge.creds").read_text()
            environment = {"EDGE_IDENTITY": str(identity), "NATTERJACK_LOG_FORMAT": "json"}
            arguments = ("run", "--config", str(path))
            edge = Edge(tmp_path / "edge", arguments, environment, subprocess.DEVNULL)
            try:
                await counter.write(50)
                await edge.says("the registrar has renewed the credentials", 200)
                edge.process.send_signal(signal.SIGTERM)
                assert await edge.exit_code() == 0, edge.stderr
            finally:
                edge.end()
            assert (identity / "edge.creds").read_text() != first
            async with connected(server.settings("operator"), name="test", once=True) as broker:
                info = await broker.client.jetstream().stream_info(
                    streams.AUDIO, subjects_filter="stt.audio.acme.room.a"
                )
        assert sum((info.state.subjects or {}).values()) > 0
    finally:
        counter.close()
        server.stop()


async def test_an_agent_whose_credentials_expired_while_it_runs_enrolls_again(
    tmp_path: Path,
) -> None:
    """As one that was cut off for longer than they last."""
    server = SignedServer(tmp_path / "home")
    server.start()
    counter = Counter(tmp_path / "a.pipe")
    identity, path = Identity(tmp_path / "identity"), tmp_path / "edge.toml"
    path.write_text(pipe("a", counter, 'speaker = "a"', 'conversation = "room"'))
    try:
        async with connected(server.settings("operator"), name="test", once=True) as broker:
            await streams.ensure(broker, StreamSettings())
        token = await server.invite()
        async with server.registrar(REGISTRAR_LIFETIME_HOURS=str(0.2 / 3600)):
            first = await enroll_until(
                parse_token(token), identity, read_machine(), agent=None, new_key=False
            )
        await until(lambda: identity.expired(time.time()), "the credentials have expired")
        environment = {"EDGE_IDENTITY": str(identity.directory), "EDGE_TOKEN": token}
        edge = Edge(tmp_path / "edge", ("run", "--config", str(path)), environment, subprocess.PIPE)
        try:
            # Once at its start, when no registrar answers.
            await edge.says("the credentials have expired, and the token gives no new ones", 60)
            await counter.write(50)
            async with server.registrar():
                await until(lambda: not identity.expired(time.time()), "it has enrolled", 60)
            async with connected(server.settings("operator"), name="test", once=True) as broker:

                async def stored() -> bool:
                    info = await broker.client.jetstream().stream_info(streams.AUDIO)
                    return info.state.messages > 0

                await until(stored, "its audio is stored", 60)
            edge.process.send_signal(signal.SIGTERM)
            assert await edge.exit_code() == 0, edge.stderr
        finally:
            edge.end()
        assert identity.read() == first
    finally:
        counter.close()
        server.stop()
