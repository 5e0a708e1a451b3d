"""Settings of the worker; each provider has its own beside its plugin."""

from __future__ import annotations

import os
import re
import socket

from pydantic import DirectoryPath, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described
from natterjack.subjects import TOKEN_PATTERN


class WorkerSettings(BaseSettings):
    """The worker."""

    model_config = SettingsConfigDict(env_prefix="WORKER_", frozen=True, extra="ignore")

    provider: str = described(
        "sherpa", "provider of sessions that name none; several with commas are tried in order"
    )
    max_sessions: int = described(100, "sessions held at once", ge=1)
    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="name in events and logs",
    )
    http_host: str = described("127.0.0.1", "address of the HTTP port")
    http_port: int = described(
        9464,
        "port of /startupz /livez /readyz /healthz /metrics /sessions; 0: a free one",
        ge=0,
        le=65535,
    )
    secrets_dir: DirectoryPath | None = described(
        None,
        "directory of files named like providers' variables, such as DEEPGRAM_API_KEY; a variable "
        "wins over its file, and a changed file holds for streams opened from then on",
    )
    drain_seconds: float = described(
        5, "at SIGTERM, how long a session may wait for its next final before it moves", ge=0
    )
    handover_seconds: float = described(
        10,
        "after that, how long giving back what is left may take; a worker that hangs is ended "
        "15 s later",
        ge=0,
    )
    idle_seconds: float = described(
        3600, "a session without audio for so long is closed; an edge may be offline as long", gt=0
    )
    park_seconds: float = described(
        30, "a provider connection without audio for so long is closed until audio comes", gt=0
    )
    superseded_seconds: float = described(
        2, "without audio for so long, a session ends if a newer one uses its key", gt=0
    )
    recovery_seconds: float = described(
        600, "a session that no provider has served for so long fails", gt=0
    )
    failover_after: int = described(
        3, "failures in a row after which the next provider of a list takes over", ge=1
    )
    breaker_failures: int = described(
        5, "failures in a row, over all sessions, after which a provider is left alone", ge=1
    )
    breaker_seconds: float = described(
        5, "how long it is left alone at first; then one session tries", gt=0
    )
    breaker_max_seconds: float = described(60, "how long it is left alone at most", gt=0)
    backoff_seconds: float = described(0.25, "first wait before connecting again", gt=0)
    max_backoff_seconds: float = described(10, "longest wait before connecting again", gt=0)
    send_blocked_seconds: float = described(5, "a send that takes so long is a fault", gt=0)
    mute_seconds: float = described(
        6, "a provider that is sent audio and says nothing for so long is a fault", gt=0
    )
    finish_seconds: float = described(
        10, "after the end of audio, how long the provider may say nothing", gt=0
    )
    hole_seconds: float = described(
        10, "how long missing audio is looked for before silence stands in for it", ge=0
    )
    max_gap_seconds: float = described(
        10, "silence sent for a gap, at most; the clock jumps over the rest", ge=0
    )

    usage_seconds: float = described(
        60, "how often a session that streams publishes what it has used", gt=0
    )
    prices: str = described(
        "", "prices an hour that win over the list: provider=0.29,provider/model=0.35"
    )
    metrics_tenants: int = described(
        50, "tenants that have metrics of their own; those after them share `other`", ge=0
    )
    log_transcripts: bool = described(False, "write finals to the log, for debugging")

    accounts: str = described(
        "",
        "providers that share the limits of one account (`natterjack limits`): "
        "deepgram=main,deepgram-flux=main; others are accounts of their own",
    )
    budget_warnings: str = described(
        "0.8,0.95",
        "parts of a budget (max_seconds, a tenant's day) at which a warning is published",
    )

    @field_validator("budget_warnings")
    @classmethod
    def _fractions(cls, text: str) -> str:
        try:
            good = all(0 < float(part) < 1 for part in text.split(",") if part.strip())
        except ValueError:
            good = False
        if not good:
            raise ValueError("must be numbers between 0 and 1 with commas between")
        return text

    @property
    def warning_fractions(self) -> tuple[float, ...]:
        return tuple(
            sorted(float(part) for part in self.budget_warnings.split(",") if part.strip())
        )

    @field_validator("accounts")
    @classmethod
    def _pairs(cls, text: str) -> str:
        for part in filter(None, (part.strip() for part in text.split(","))):
            provider, _, account = part.partition("=")
            if not provider.strip() or not re.fullmatch(TOKEN_PATTERN, account.strip()):
                raise ValueError(f"{part!r} is not provider=account")
        return text

    @property
    def account_of(self) -> dict[str, str]:
        """Account by provider, of those that are named."""
        parts = (part.partition("=") for part in self.accounts.split(",") if part.strip())
        return {provider.strip(): account.strip() for provider, _, account in parts}

    @property
    def providers(self) -> list[str]:
        return [name.strip() for name in self.provider.split(",") if name.strip()]
