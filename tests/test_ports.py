"""The ports of tests: free, below those of outgoing connections, and of one process alone."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_server import NatsServer
from tests.ports import PortRange, free_port

TESTS = Path(__file__).parent
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_CLAIM = """
from tests.ports import free_port
print(free_port(), flush=True)
input()
"""


@pytest.fixture
def ports() -> Iterator[PortRange]:
    ports = PortRange()
    yield ports
    ports.close()


def test_every_port_comes_before_one_comes_again(ports: PortRange) -> None:
    taken = [ports.take() for _ in range(100)]
    assert len(set(taken)) == 100
    assert set(taken) <= set(ports.ports)


def test_a_port_in_use_is_left_out(ports: PortRange) -> None:
    used = ports.take()
    with socket.socket() as holder:  # which does not listen
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", used))
        later = [ports.take() for _ in ports.ports[:-1]]
    assert used not in later
    assert used in [ports.take() for _ in ports.ports]


def test_without_a_free_port_it_says_so(ports: PortRange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "ports", ports.ports[:1])
    (only,) = ports.ports
    words = f"no port from {only} to {only} is free"
    with socket.create_server(("127.0.0.1", only)), pytest.raises(AssertionError, match=words):
        ports.take()


def test_no_outgoing_connection_has_them() -> None:
    if not _OUTGOING.exists():
        pytest.skip("this system does not tell the range of outgoing connections")
    first, _ = map(int, _OUTGOING.read_text().split())
    if first < 32_768:
        pytest.skip(f"this machine gives outgoing connections ports from {first}")
    assert free_port() < first


@pytest.mark.process
def test_ranges_of_processes_are_apart(ports: PortRange) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", _CLAIM], cwd=TESTS.parent,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert int(other.stdout.readline()) not in ports.ports
    finally:
        other.kill()
        other.communicate()


def test_a_range_is_claimed_until_it_is_given_up() -> None:
    ports = PortRange()
    with pytest.raises(OSError, match="in use"), socket.socket() as claim:
        claim.bind(("127.0.0.1", ports.ports[0] - 1))
    ports.close()
    with socket.socket() as claim:
        claim.bind(("127.0.0.1", ports.ports[0] - 1))


@pytest.mark.process
def test_a_server_keeps_its_port(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    port = server.port
    for _ in range(2):
        server.start()
        assert server.port == port
        server.kill()


def test_every_server_of_tests_has_such_a_port() -> None:
    """A server of the plain class gets a port that the system chooses, and loses it when killed."""
    plain = re.compile(r"\bEmbeddedServer\(|^class .*\(EmbeddedServer\)", re.MULTILINE)
    found = [path for path in TESTS.rglob("*.py") if plain.search(path.read_text())]
    assert found == [TESTS / "nats_server.py"]
