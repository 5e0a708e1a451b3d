"""A nats-server that clients reach over WebSocket."""

from __future__ import annotations

from pathlib import Path

from tests.identities import Authority
from tests.nats_server import NatsServer
from tests.ports import free_port


class WebSocketServer(NatsServer):
    """Its `url` is that of its WebSocket, with TLS if there is an `authority`.

    Clients trust the authority's certificate, `ca`.
    """

    def __init__(self, store: Path, authority: Authority | None = None, more: str = "") -> None:
        self._configuration = store.with_suffix(".conf")
        super().__init__(store, extra_arguments=("-c", str(self._configuration)))
        self._web_port, self._more, self._tls = free_port(), more, "no_tls: true"
        self.scheme = "ws" if authority is None else "wss"
        self.ca = store.with_suffix(".ca.pem")
        if authority is not None:
            certificate, key = authority.issue("localhost")
            paths = store.with_suffix(".pem"), store.with_suffix(".key.pem")
            paths[0].write_bytes(certificate)
            paths[1].write_bytes(key)
            self.ca.write_bytes(authority.certificate)
            self._tls = f'tls: {{cert_file: "{paths[0]}", key_file: "{paths[1]}"}}'

    def start(self, timeout: float = 15) -> None:
        self._configuration.write_text(
            f'websocket {{listen: "127.0.0.1:{self._web_port}", {self._tls}}}\n{self._more}'
        )
        super().start(timeout)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._web_port}"

    @property
    def plain_url(self) -> str:
        """The URL without WebSocket."""
        return super().url

    def trust(self) -> dict[str, str]:
        """The environment of a client that trusts the server's certificate."""
        return {"NATS_CA": str(self.ca)} if self.scheme == "wss" else {}
