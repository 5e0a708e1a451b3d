"""Settings of the identity of an edge."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.errors import UsageError
from natterjack.settings import FsPath, described

_NAME = "natterjack-edge"


class IdentitySettings(BaseSettings):
    """The identity of this edge, if `natterjack-edge enroll` has made one."""

    model_config = SettingsConfigDict(
        env_prefix="EDGE_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    identity: FsPath | None = described(
        None,
        "directory of what `natterjack-edge enroll` stores; if unset, `identity` in systemd's "
        "state directory, else /var/lib/natterjack-edge/identity for root and "
        "~/.local/state/natterjack-edge/identity for others",
    )
    token: SecretStr | None = described(
        None, "token of `natterjack edges invite`, with which an edge that is not enrolled does so"
    )
    token_file: FsPath | None = described(
        None,
        "file with a token of `natterjack edges invite`, read when the edge is not enrolled, or "
        "runs on a clone",
    )

    @property
    def directory(self) -> Path:
        """The directory of the identity."""
        if self.identity is not None:
            return self.identity
        if given := os.environ.get("STATE_DIRECTORY"):  # systemd's; several have colons between
            return Path(given.partition(":")[0]) / "identity"
        if not hasattr(os, "geteuid"):  # on Windows
            return Path(os.environ.get("PROGRAMDATA", "C:/ProgramData")) / _NAME / "identity"
        if os.geteuid() == 0:
            return Path("/var/lib") / _NAME / "identity"
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(state) / _NAME / "identity"

    def stored_token(self) -> str | None:
        """Return the token that is set, or None. Raises UsageError."""
        if self.token is not None:
            return self.token.get_secret_value()
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(
                f"EDGE_TOKEN_FILE: {self.token_file} cannot be read: {error.strerror}"
            ) from None
