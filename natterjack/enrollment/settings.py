"""Settings of `natterjack registrar`."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.broker.login.jwt import ACCOUNT, Key, is_public_key, read_key
from natterjack.errors import UsageError
from natterjack.settings import FsPath, described


class RegistrarSettings(BaseSettings):
    """The registrar, which enrolls edges and renews their credentials."""

    model_config = SettingsConfigDict(
        env_prefix="REGISTRAR_", frozen=True, extra="ignore", allow_inf_nan=False
    )

    signing_key_file: FsPath | None = described(
        None,
        "file with the seed that signs the credentials of edges: `jwt/edges.nk` of "
        "`natterjack users`; read again for each",
    )
    lifetime_hours: float = described(
        2160,
        "hours after which the credentials of an edge expire; it renews them when a third of that "
        "has passed, so that it may be switched off for two thirds",
        gt=0,
        le=87_600,
    )
    http_host: str = described("127.0.0.1", "address of the HTTP port")
    http_port: int = described(
        9466, "port of /livez /readyz /metrics; 0 picks a free one", ge=0, le=65535
    )

    def signing_key(self) -> Key:
        """Read the key. Raises UsageError."""
        path = self.signing_key_file
        if path is None:
            raise UsageError(
                "REGISTRAR_SIGNING_KEY_FILE is not set: it is the file jwt/edges.nk in the "
                "directory of `natterjack users`"
            )
        try:
            key = read_key(path.read_bytes())
        except OSError as error:
            raise UsageError(
                f"REGISTRAR_SIGNING_KEY_FILE: {path} cannot be read: {error.strerror}"
            ) from None
        except ValueError as error:
            raise UsageError(f"REGISTRAR_SIGNING_KEY_FILE: {path}: {error}") from None
        if not is_public_key(key.public, ACCOUNT):
            raise UsageError(
                f"REGISTRAR_SIGNING_KEY_FILE: {path} is the seed of a user, not jwt/edges.nk"
            )
        return key
