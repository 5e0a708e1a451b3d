"""A cluster of three nats-server processes on loopback."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

from nats.js.errors import NotFoundError

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer

_NODES = 3


def _free_ports(count: int) -> list[int]:
    """Choose free ports below the ephemeral range, from a range of this test process alone.

    A node that restarts therefore finds its port still free.
    """
    ports: list[int] = []
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 12
    first = 20_000 + 1_000 * process
    while len(ports) < count:
        port = random.randrange(first, first + 1_000)
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
    return ports


class Cluster:
    """Nodes `n0` to `n2`, each with its own store. Streams in it should have 3 replicas."""

    def __init__(self, store: Path, known: int = _NODES) -> None:
        """Only the first `known` nodes are named in the routes; the others join when they start."""
        free = _free_ports(2 * _NODES)
        ports, own = free[:_NODES], free[_NODES:]
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports[:known])
        self.nodes = [
            EmbeddedServer(
                store / f"n{number}",
                extra_arguments=(
                    "--name", f"n{number}", "--cluster_name", "natterjack",
                    "--cluster", f"nats://127.0.0.1:{port}", "--routes", routes,
                ),
            )
            for number, port in enumerate(ports)
        ]  # fmt: skip
        for node, port in zip(self.nodes, own, strict=True):
            node.port = port

    @property
    def url(self) -> str:
        """The addresses of all nodes, in the form of NATS_URL."""
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def stop(self) -> None:
        """Stop all nodes. Idempotent."""
        for node in self.nodes:
            node.stop()

    async def leader(self, broker: Broker, stream: str) -> EmbeddedServer | None:
        """Return the node that leads `stream`, or None while there is no leader."""
        try:
            info = await broker.client.jetstream().stream_info(stream)
        except (NotFoundError, TimeoutError):
            return None
        if info.cluster is None or not info.cluster.leader:
            return None
        return self.nodes[int(info.cluster.leader.removeprefix("n"))]
