"""The nats-server of tests."""

from __future__ import annotations

from pathlib import Path

from natterjack.local.embedded import EmbeddedServer

from .ports import free_port
from .waiting import bound


class NatsServer(EmbeddedServer):
    """A server whose port is known before its first start, and still free at every later one."""

    def __init__(
        self, store: Path, *, extra_arguments: tuple[str, ...] = (), tied: bool = False
    ) -> None:
        super().__init__(store, extra_arguments=extra_arguments, tied=tied)
        self.port = free_port()

    def start(self, timeout: float = 15) -> None:
        """`timeout` is in seconds of an idle machine."""
        super().start(bound(timeout))
