"""The identity of an enrolled edge on disk: `edge.creds`, `enrollment.json`, `ca.pem`.

The key is on disk before anybody is asked about it (`pending.nk`), so that an enrollment that is
interrupted goes on with the same one. `enrollment.json` is written last.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from natterjack.broker.login.credentials import read_creds
from natterjack.broker.login.jwt import Key, credentials, make_key, read_key
from natterjack.errors import UsageError
from natterjack.process.files import replace_text

from .machine import Machine

_SECRET = 0o600


class Enrollment(BaseModel):
    """The facts that an enrolled edge stores beside its credentials."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str
    tenant: str
    agent: str
    public_key: str
    machine: Machine


class Identity:
    """The directory of an edge's identity."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.creds = directory / "edge.creds"
        self.ca = directory / "ca.pem"
        self._enrollment = directory / "enrollment.json"
        self._pending = directory / "pending.nk"

    def read(self) -> Enrollment | None:
        """Return what is known, or None if this edge is not enrolled. Raises UsageError."""
        try:
            text = self._enrollment.read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"{self._enrollment} cannot be read: {error.strerror}") from None
        try:
            return Enrollment.model_validate_json(text)
        except ValidationError:
            raise UsageError(
                f"{self._enrollment} is damaged: remove {self.directory} and enroll again"
            ) from None

    def expired(self, now: float) -> bool:
        """Whether the credentials have expired, by this machine's clock; `now` is in seconds since
        1970."""
        try:
            _, _, expiry = read_creds(self.creds.read_bytes())
        except (OSError, ValueError):
            return False  # whoever connects with them says what is wrong
        return expiry is not None and expiry <= now

    def key(self, *, new: bool) -> Key:
        """Return the key to enroll: that of an enrollment that was interrupted, else, unless it is
        to be `new`, the one that is enrolled, else one that is made now. Raises UsageError."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UsageError(f"{self.directory} cannot be used: {error.strerror}") from None
        key = self._read_key(self._pending)
        if key is None and not new:
            key = self._read_key(self.creds)
        if key is None:
            key = make_key()
        write_durably(self._pending, f"{key.seed.decode()}\n")
        return key

    def _read_key(self, path: Path) -> Key | None:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                if line.startswith("SU"):
                    return read_key(line.encode())
        return None

    def write(self, enrollment: Enrollment, jwt: str, key: Key, ca: str) -> None:
        """Store an enrollment. Raises UsageError."""
        if ca:
            write_durably(self.ca, ca)
        else:
            self.ca.unlink(missing_ok=True)
        write_durably(self.creds, credentials(jwt, key.seed))
        write_durably(self._enrollment, enrollment.model_dump_json(indent=2) + "\n")
        self._pending.unlink(missing_ok=True)

    def discard_pending(self) -> None:
        """Forget a key that the registrar has refused."""
        self._pending.unlink(missing_ok=True)


def write_durably(path: Path, text: str) -> None:
    """Replace a secret file so that a loss of power leaves the old one or the new one. Raises
    UsageError."""
    replace_text(path, text, mode=_SECRET)
    try:
        path.chmod(_SECRET)
        for each in (path, path.parent):
            with contextlib.suppress(PermissionError):  # a directory, on Windows
                descriptor = os.open(each, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
