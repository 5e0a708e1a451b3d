"""The owner of a port is found."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from natterjack.local.embedded import EmbeddedServer
from natterjack.local.ports import CONNECTION, HOST, _program, port_owner
from tests.ports import free_port


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as listener:
        yield listener


def test_a_free_port() -> None:
    assert port_owner(free_port()) is None


def test_a_nats_server(nats_server: EmbeddedServer) -> None:
    owner = port_owner(nats_server.port)
    assert owner is not None
    assert owner.startswith("the NATS server N")


@pytest.mark.parametrize("greeting", [b"220 mail ESMTP\r\n", b"INFO {\r\n", b""])
def test_a_server_of_another_kind(greeting: bytes, listener: socket.socket) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(greeting)

    thread = threading.Thread(target=serve)
    thread.start()
    expected = "another NATS server" if greeting.startswith(b"INFO") else "another program"
    assert port_owner(listener.getsockname()[1]) == expected
    thread.join()


def test_a_server_on_all_addresses() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        listener.settimeout(0)
        assert port_owner(listener.getsockname()[1]) == "another program"


def test_a_port_that_is_bound_but_does_not_listen() -> None:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        assert port_owner(bound.getsockname()[1]) == CONNECTION


def test_a_connection_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system connects a socket to itself if it gives it the port that it connects to."""
    port, connect = free_port(), socket.create_connection

    def from_the_same_port(address: tuple[str, int], timeout: float) -> socket.socket:
        return connect(address, timeout, source_address=address)

    monkeypatch.setattr(socket, "create_connection", from_the_same_port)
    assert port_owner(port) is None


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("natterjack-up-812", "`natterjack up`, process 812"),
        ("natterjack-demo-7", "`natterjack demo`, process 7"),
        ("natterjack-up-x", "the NATS server natterjack-up-x"),
        ("prod-1", "the NATS server prod-1"),
    ],
)
def test_stacks_of_ours_are_named_after_their_processes(name: str, owner: str) -> None:
    assert _program(b'INFO {"server_name":"%s","version":"2"} ' % name.encode()) == owner
