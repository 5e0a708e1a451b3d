"""Three nats-server processes on loopback that are one cluster."""

from __future__ import annotations

import socket
from pathlib import Path

from nats.js.errors import NotFoundError

from natterjack.connection import Broker
from natterjack.embedded import EmbeddedServer

_NODES = 3


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Cluster:
    """Nodes `n0` to `n2`, each with a store of its own. Streams in it want 3 replicas."""

    def __init__(self, store: Path) -> None:
        ports = _free_ports(_NODES)
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
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

    @property
    def url(self) -> str:
        """All nodes, as NATS_URL takes them."""
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def stop(self) -> None:
        """Idempotent."""
        for node in self.nodes:
            node.stop()

    async def leader(self, broker: Broker, stream: str) -> EmbeddedServer | None:
        """The node that leads `stream`, or None while there is none."""
        try:
            info = await broker.client.jetstream().stream_info(stream)
        except (NotFoundError, TimeoutError):
            return None
        if info.cluster is None or not info.cluster.leader:
            return None
        return self.nodes[int(info.cluster.leader.removeprefix("n"))]
