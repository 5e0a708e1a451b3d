"""Settings of the gateway."""

from __future__ import annotations

import os
import socket

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.errors import UsageError
from natterjack.settings import FsPath, described


class GatewaySettings(BaseSettings):
    """Settings of the gateway."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", frozen=True, extra="ignore", allow_inf_nan=False
    )

    http_host: str = described("127.0.0.1", "address of the HTTP port, to which clients connect")
    http_port: int = described(
        8080, "port of all doors, pages, probes and metrics; 0 picks a free one", ge=0, le=65535
    )
    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="name in logs",
    )
    provider: str = described(
        "",
        "provider of sessions whose keys name none, or a comma-separated list in order of "
        "preference; if unset, the worker decides, and models and options that clients ask of "
        "their own service are not passed on",
    )
    max_viewers: int = described(
        2000, "maximum number of viewers of live events at once; further ones are refused", ge=1
    )
    max_message_bytes: int = described(
        4 * 1024 * 1024, "maximum size of a message of a client, in bytes", ge=65_536
    )
    drain_seconds: float = described(
        10,
        "seconds that a connection may wait for its next final after SIGTERM, before it is closed",
        ge=0,
    )
    finish_seconds: float = described(
        60,
        "seconds that a client which has sent its last audio may wait for the rest of its finals",
        gt=0,
    )
    silence_seconds: float = described(
        10, "seconds without audio or a message after which a connection is closed", gt=0
    )
    rejoin_seconds: float = described(
        30,
        "seconds for which a session whose connection was lost waits for its client to come back, "
        "if the client has an ID that it repeats; then it ends",
        ge=0,
    )
    slow_client_seconds: float = described(
        10, "seconds after which a client that reads nothing is disconnected", gt=0
    )
    chunk_ms: int = described(
        50,
        "least length of a chunk in milliseconds; longer messages of clients are published as they "
        "come",
        ge=10,
        le=1000,
    )
    window_chunks: int = described(
        256,
        "maximum number of chunks of a session that are published and not yet acknowledged; then "
        "its client has to wait",
        ge=1,
        le=10_000,
    )
    burst_seconds: float = described(
        600, "seconds of audio that a session may publish at once, without a rate limit", ge=0
    )
    catch_up_rate: float = described(
        1.25,
        "seconds of audio per second that a session may publish beyond GATEWAY_BURST_SECONDS: at "
        "least 1, or 0 for no limit",
        ge=0,
    )

    twilio_auth_token_file: FsPath | None = described(
        None,
        "file with the auth token of the Twilio account, with which Twilio signs calls; without "
        "it, signatures are not checked",
    )
    twilio_auth_token: SecretStr | None = described(None, "the token itself, if there is no file")
    twilio_url: str | None = described(
        None,
        "URL of /twilio as it is in the TwiML, such as wss://asr.example.org/twilio, for the check "
        "of signatures; if unset, wss:// with the host of the request",
    )

    def twilio_secret(self) -> str | None:
        """The auth token, read again each time; None if signatures are not checked.

        Raises: UsageError if its file cannot be read.
        """
        if self.twilio_auth_token_file is not None:
            try:
                return self.twilio_auth_token_file.read_text().strip()
            except (OSError, ValueError) as error:
                raise UsageError(f"GATEWAY_TWILIO_AUTH_TOKEN_FILE: {error}") from None
        token = self.twilio_auth_token
        return token.get_secret_value().strip() if token is not None else None

    @field_validator("catch_up_rate")
    @classmethod
    def _catches_up(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("live audio would never be published; use at least 1, or 0")
        return value

    @property
    def providers(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.provider.split(",") if name.strip())
