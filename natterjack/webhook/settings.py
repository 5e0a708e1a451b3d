"""Settings of `natterjack webhook`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from natterjack.errors import UsageError
from natterjack.settings import FsPath, described
from natterjack.subjects import TOKEN_PATTERN

from .addresses import is_literal, refusal
from .signature import parse_secrets, read_secrets

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:.]+")
"""A host that all programs read alike. Some take `127%2e0%2e0%2e1`, or one whose full stops are
ideographic, for 127.0.0.1."""
WebhookKind = Literal["final", "closing", "turn", "status", "usage", "notice"]
WEBHOOK_KINDS: tuple[WebhookKind, ...] = get_args(WebhookKind)


class WebhookSettings(BaseSettings):
    """Settings of the webhook."""

    model_config = SettingsConfigDict(env_prefix="WEBHOOK_", frozen=True, extra="ignore")

    url: str | None = described(
        None, "where events are sent: an https:// URL; http:// is for private addresses only"
    )
    secret_file: FsPath | None = described(
        None,
        "file with the secret that signs webhooks, base64 as `openssl rand -base64 32` prints it, "
        "with or without `whsec_`; several, one a line, all sign, while receivers change from one "
        "to the next. A changed file applies to the next webhook",
    )
    secret: SecretStr | None = described(
        None, "the secret itself, or several separated by spaces, if there is no file"
    )
    name: str = described(
        "webhook",
        "name of the durable consumer, which remembers what was delivered; processes with one "
        "name share the work, and each receiver has a name of its own",
        pattern=f"^{TOKEN_PATTERN}$",
    )
    kinds: Annotated[tuple[WebhookKind, ...], NoDecode] = described(
        ("final", "closing"),
        "comma-separated kinds of event to send: `final`, `closing` (the last status of a "
        "session), `turn`, `status`, `usage`, `notice`",
        min_length=1,
    )
    tenant: str | None = described(None, "send only events of this tenant")
    conversation: str | None = described(None, "send only events of this conversation")
    speaker: str | None = described(None, "send only events of this speaker")
    from_start: bool = described(
        False, "begin with the events that are stored when the name is first used"
    )
    parallel: int = described(
        16, "maximum number of requests at once, each for another session", ge=1, le=1000
    )
    timeout_seconds: float = described(
        20, "seconds for one request, from resolving the host to the answer", gt=0, le=3600
    )
    allow_private: bool = described(
        False,
        "also send to private addresses, such as 10.0.0.0/8 and loopback; link-local addresses, "
        "where clouds have their metadata services, stay refused",
    )
    ca: FsPath | None = described(
        None, "CA bundle for the receiver's certificate, besides those of the system"
    )
    http_host: str = described("127.0.0.1", "address of the HTTP port")
    http_port: int = described(
        9465, "port of /livez /readyz /metrics; 0 picks a free one", ge=0, le=65535
    )

    @field_validator("kinds", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            value = [kind.strip() for kind in value.split(",") if kind.strip()]
        return tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else value

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            host = _HOST.fullmatch(parts.hostname or "")
            usable = parts.scheme in ("https", "http") and parts.port != 0 and host is not None
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(
                "it is not an https:// URL with a host in ASCII, such as "
                "https://example.org/transcripts"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError("it contains a user or a password; receivers check the signature")
        return value

    @property
    def target(self) -> str:
        """The URL. Raises UsageError if there is none, or its host may not receive webhooks."""
        if self.url is None:
            raise UsageError("WEBHOOK_URL is not set: say where events are sent with --url")
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if is_literal(host):
            try:
                why = refusal(host, allow_private=self.allow_private, tls=parts.scheme == "https")
            except ValueError:
                why = f"{host} is not an address"
            if why:
                raise UsageError(f"WEBHOOK_URL: {why}")
        return self.url

    def secrets(self) -> tuple[bytes, ...]:
        """The secrets that sign, read again each time. Raises UsageError."""
        if self.secret_file is not None:
            return read_secrets(self.secret_file)
        if self.secret is not None:
            return parse_secrets(self.secret.get_secret_value(), "WEBHOOK_SECRET")
        raise UsageError(
            "there is no secret to sign with: write one into a file with `openssl rand -base64 32` "
            "and set --secret-file"
        )


def public_url(url: str) -> str:
    """The URL for logs: without its query, which may contain a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
