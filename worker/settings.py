"""Settings of the worker; each provider has its own beside its plugin."""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated

from pydantic import DirectoryPath, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import NOT_EMPTY, described
from natterjack.subjects import TOKEN_PATTERN


class WorkerSettings(BaseSettings):
    """Settings of the worker."""

    model_config = SettingsConfigDict(env_prefix="WORKER_", frozen=True, extra="ignore")

    provider: str = described(
        "sherpa", "provider of sessions that request none; a comma-separated list is tried in order"
    )
    voice: str = described(
        "", "voice of sessions that request none; a comma-separated list is tried in order"
    )
    max_sessions: int = described(
        100, "maximum number of sessions that the worker holds at once", ge=1
    )
    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="name in events and logs",
    )
    http_host: str = described("127.0.0.1", "address of the HTTP port")
    http_port: int = described(
        9464,
        "port of /startupz /livez /readyz /healthz /metrics /sessions; 0 picks a free one",
        ge=0,
        le=65535,
    )
    secrets_dir: Annotated[DirectoryPath, NOT_EMPTY] | None = described(
        None,
        "directory with one file per provider setting, named like its environment variable "
        "(DEEPGRAM_API_KEY); the variable comes first; a changed file applies to new streams",
    )
    drain_seconds: float = described(
        5,
        "seconds that a session may wait for its next final after SIGTERM, before its handover",
        ge=0,
    )
    handover_seconds: float = described(
        10,
        "seconds that handing over the remaining sessions may take after that; a worker that "
        "still runs 15 s later ends at once",
        ge=0,
    )
    idle_seconds: float = described(
        3600,
        "seconds without audio, or without text and speech, after which a session is closed; edges "
        "may be offline this long",
        gt=0,
    )
    park_seconds: float = described(
        30,
        "seconds without audio after which a provider connection is closed until audio comes",
        gt=0,
    )
    superseded_seconds: float = described(
        2,
        "seconds without audio, or without text, after which a session ends if a newer session "
        "uses its key",
        gt=0,
    )
    recovery_seconds: float = described(
        600, "seconds without a working provider after which a session fails", gt=0
    )
    failover_after: int = described(
        3, "failures in a row after which a session changes to the next provider of its list", ge=1
    )
    repeated_failures: int = described(
        3,
        "failures of the same kind at the same position, because of a message that cannot be read "
        "or an error of the plugin, after which a session changes to the next provider, and "
        "without one leaves the audio out as a gap (`unreadable`)",
        ge=1,
    )
    breaker_failures: int = described(
        5,
        "failures in a row, over all sessions, after which a provider is not dialed for a while",
        ge=1,
    )
    breaker_seconds: float = described(
        5, "seconds until one session dials the provider again; doubles with each failure", gt=0
    )
    breaker_max_seconds: float = described(
        60, "maximum number of seconds that the provider is not dialed", gt=0
    )
    backoff_seconds: float = described(
        0.25, "first delay before connecting again, in seconds", gt=0
    )
    max_backoff_seconds: float = described(
        10, "longest delay before connecting again, in seconds", gt=0
    )
    send_blocked_seconds: float = described(
        5, "seconds after which a blocked send counts as a fault", gt=0
    )
    mute_seconds: float = described(
        6,
        "seconds without a message after which a provider that receives audio counts as mute",
        gt=0,
    )
    finish_seconds: float = described(
        10, "seconds without a message allowed to a provider after the end of the audio", gt=0
    )
    hole_seconds: float = described(
        10, "seconds to wait for missing audio before silence replaces it", ge=0
    )
    max_gap_seconds: float = described(
        10, "maximum number of seconds of silence sent for one gap; the rest is skipped", ge=0
    )

    voice_ahead_seconds: float = described(
        10,
        "seconds of speech that may be published ahead of its playback; text beyond waits",
        gt=0,
        le=60,
    )
    voice_unplayed_seconds: float = described(
        30,
        "seconds after which published speech that no player plays is dropped, so that it is not "
        "heard late",
        gt=0,
        le=90,
    )

    usage_seconds: float = described(
        60, "seconds between usage events of a streaming session", gt=0
    )
    prices: str = described(
        "", "hourly prices that override the built-in list: provider=0.29,provider/model=0.35"
    )
    metrics_tenants: int = described(
        50, "tenants with their own metric label; all further ones share the label `other`", ge=0
    )
    metrics_edges: int = described(
        500,
        "edges with metrics of their own, by name; further ones are only counted",
        ge=0,
    )
    edges_seconds: float = described(
        15,
        "seconds between two looks at what edges report, for metrics; 0: this worker has no "
        "metrics of edges",
        ge=0,
    )
    final_goal_seconds: float = described(
        5,
        "seconds after its capture within which speech should be final; "
        "natterjack_speech_late_seconds_total counts the speech that is later",
        gt=0,
    )
    log_transcripts: bool = described(False, "write finals to the log, for debugging")

    accounts: str = described(
        "",
        "providers that share the limits of one provider account (`natterjack limits`): "
        "deepgram=main,deepgram-flux=main; every other provider has its own account",
    )
    budget_warnings: str = described(
        "0.8,0.95",
        "fractions of a budget (max_seconds, a tenant's day) at which a warning is published",
    )

    @field_validator("budget_warnings")
    @classmethod
    def _fractions(cls, text: str) -> str:
        try:
            valid = all(0 < float(part) < 1 for part in text.split(",") if part.strip())
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("must be comma-separated numbers between 0 and 1")
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
        """The provider account of each provider that has one of its own."""
        parts = (part.partition("=") for part in self.accounts.split(",") if part.strip())
        return {provider.strip(): account.strip() for provider, _, account in parts}

    @property
    def voices(self) -> list[str]:
        return [name.strip() for name in self.voice.split(",") if name.strip()]

    @property
    def providers(self) -> list[str]:
        return [name.strip() for name in self.provider.split(",") if name.strip()]
