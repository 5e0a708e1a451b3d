"""A cluster of three nats-server processes on loopback."""

from __future__ import annotations

from pathlib import Path

from nats.js.errors import NotFoundError

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.nats_server import NatsServer
from tests.ports import free_port

_NODES = 3


class Cluster:
    """Nodes `n0` to `n2`, each with its own store. Streams in it should have 3 replicas."""

    def __init__(self, store: Path, known: int = _NODES, extra: tuple[str, ...] = ()) -> None:
        """Only the first `known` nodes are named in the routes; the others join when they start.
        `extra` are further arguments of each."""
        ports = [free_port() for _ in range(_NODES)]
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports[:known])
        self.nodes: list[EmbeddedServer] = [
            NatsServer(
                store / f"n{number}",
                extra_arguments=(
                    "--name", f"n{number}", "--cluster_name", "natterjack",
                    "--cluster", f"nats://127.0.0.1:{port}", "--routes", routes,
                    *extra,
                ),
            )
            for number, port in enumerate(ports)
        ]  # fmt: skip

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
