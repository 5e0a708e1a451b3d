"""A `python -m gateway` process that keeps its port, so that it can be killed and started again."""

from __future__ import annotations

import os

import aiohttp

from ..ports import free_port
from ..waiting import until
from ..worker.programs import WorkerProcess


class GatewayProcess(WorkerProcess):
    """The gateway, whose log is read continuously."""

    arguments = ("-m", "gateway")

    def __init__(self, nats_url: str, **settings: str | None) -> None:
        """A setting of None removes the variable from the environment."""
        super().__init__(nats_url, "")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "GATEWAY_"))}
        self.port = free_port()
        wanted = {
            **clean, "NATS_URL": nats_url, "NATTERJACK_LOG_FORMAT": "json",
            "GATEWAY_HTTP_PORT": str(self.port), **settings,
        }  # fmt: skip
        self._environment = {k: v for k, v in wanted.items() if v is not None}

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, timeout: float = 60) -> None:
        """Start it, and wait until it is ready."""
        await self.launch()
        try:
            await until(self._ready, "gateway ready", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.log}") from None
        assert self.running, f"the gateway ended: {self.log}"

    async def _ready(self) -> bool:
        if not self.running:
            return True
        try:
            return (await self.get("/readyz"))[0] == 200
        except aiohttp.ClientError:
            return False
