"""A nats-server whose max_payload can be changed while it runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

from tests.nats_server import NatsServer

from .waiting import until


class LimitedServer(NatsServer):
    """A server that disconnects clients that publish more than `limit` bytes."""

    def __init__(self, path: Path, limit: int) -> None:
        self._configuration = path.with_suffix(".conf")
        super().__init__(path, extra_arguments=("-c", str(self._configuration)))
        self.write_limit(limit)

    def write_limit(self, limit: int) -> None:
        """Set the limit from the next start on."""
        self._configuration.write_text(f"max_payload: {limit}\n")

    async def reload(self, limit: int) -> None:
        """Change the limit. The server does not tell clients that are connected."""
        self.write_limit(limit)
        os.kill(self.pid, signal.SIGHUP)

        async def applies() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            info = json.loads((await reader.readline()).removeprefix(b"INFO "))
            writer.close()
            return bool(info["max_payload"] == limit)

        await until(applies, f"max_payload is {limit}")
