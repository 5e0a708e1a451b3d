"""Settings of who may use the gateway."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from natterjack.errors import UsageError
from natterjack.settings import FsPath, described
from natterjack.subjects import TOKEN_PATTERN

from .tokens import parse_secrets, read_secrets

Exposure = Literal["loopback", "tls", "plain", "open"]


class AccessSettings(BaseSettings):
    """Access to the gateway: keys, tokens, and the programs that can reach it."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", frozen=True, extra="ignore", allow_inf_nan=False
    )

    keys_file: FsPath | None = described(
        None,
        "file of the keys, made by `natterjack keys`; a changed one applies within a second. "
        "Without it, any program on this machine may use the gateway",
    )
    expose: Exposure = described(
        "loopback",
        "who may reach the gateway: `loopback`, programs on this machine; `tls`, others through a "
        "proxy that adds TLS; `plain`, others without TLS, so that keys and audio can be read on "
        "the way; `open`, others without TLS and without keys",
    )
    tenant: str = described(
        "default", "tenant of all sessions, where there are no keys", pattern=f"^{TOKEN_PATTERN}$"
    )
    token_secret_file: FsPath | None = described(
        None,
        "file with the secret that signs tokens, the same for all gateways, as `openssl rand "
        "-base64 32` prints it; several, one a line, are all accepted, and the first signs",
    )
    token_secret: SecretStr | None = described(None, "the secret itself, if there is no file")
    token_max_seconds: float = described(
        3600, "the longest life of a token, in seconds", ge=1, le=30 * 24 * 3600
    )
    origins: Annotated[tuple[str, ...], NoDecode] = described(
        (),
        "comma-separated origins, such as https://example.org, whose web pages may use the "
        "gateway besides its own pages; `*` for all",
    )
    max_connections: int = described(
        1000, "connections at once, of all keys together", ge=1, le=1_000_000
    )
    trusted_proxies: int = described(
        0,
        "number of proxies in front that add the client's address to X-Forwarded-For; 0 takes the "
        "address of the connection",
        ge=0,
        le=16,
    )

    @field_validator("origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            value = [origin.strip() for origin in value.split(",") if origin.strip()]
        return tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else value

    @field_validator("origins")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if origin != "*" and not (parts.scheme and parts.netloc and parts.path in ("", "/")):
                raise ValueError(f"{origin!r} is not an origin such as https://example.org")
        return value

    def check_exposure(self, host: str) -> None:
        """Raise UsageError if the address `host` can be reached by more than `expose` allows."""
        if self.expose == "loopback" and not _is_loopback(host):
            raise UsageError(
                f"GATEWAY_HTTP_HOST: {host} can be reached from other machines: set GATEWAY_EXPOSE "
                "to `tls` if a proxy in front adds TLS, to `plain` if the network is trusted, or "
                "listen on 127.0.0.1"
            )
        if self.expose in ("tls", "plain") and self.keys_file is None:
            raise UsageError(
                f"GATEWAY_EXPOSE is {self.expose}, but there are no keys: set GATEWAY_KEYS_FILE to "
                "a file made by `natterjack keys add`, or GATEWAY_EXPOSE to `open`"
            )

    def secrets(self) -> tuple[bytes, ...]:
        """The secrets that sign tokens, or none. Raises UsageError."""
        if self.token_secret_file is not None:
            return read_secrets(self.token_secret_file)
        if self.token_secret is not None:
            return parse_secrets(self.token_secret.get_secret_value(), "GATEWAY_TOKEN_SECRET")
        return ()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
