"""Clusters of nats-server on this machine, for benchmarks of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from natterjack.local.embedded import EmbeddedServer
from tests.faults.cluster import Cluster


@contextlib.asynccontextmanager
async def running_nodes(count: int, configuration: str = "") -> AsyncIterator[list[EmbeddedServer]]:
    """Run `count` servers, which form a cluster if there are several.

    `configuration` is the text of a configuration file; only a single server has one.

    Raises: UsageError, BrokerError.
    """
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory)
        arguments: tuple[str, ...] = ()
        if configuration:
            path = store / "nats.conf"
            path.write_text(configuration)
            arguments = ("-c", str(path))
        nodes = (
            Cluster(store).nodes[:count]
            if count > 1
            else [EmbeddedServer(store / "n0", extra_arguments=arguments, tied=True)]
        )
        try:
            for node in nodes:
                node.start()  # in the main thread, as it is tied
            yield nodes
        finally:
            for node in nodes:
                await asyncio.to_thread(node.stop)


def written_bytes(pid: int) -> int:
    """Return how many bytes of file pages a process has dirtied (proc(5): io, write_bytes)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])
