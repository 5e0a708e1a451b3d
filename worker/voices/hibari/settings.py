"""Settings of the embedded voice."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described

SLOWEST = 0.5
FASTEST = 2.0


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class HibariSettings(BaseSettings):
    """Embedded voice (hibari)."""

    model_config = SettingsConfigDict(
        env_prefix="HIBARI_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    speed: float = described(1.0, "pace, as a multiple of the voice's own", ge=SLOWEST, le=FASTEST)
    threads: int = Field(
        default_factory=_cores,
        description="synthesis threads, shared by all streams; by default one per core",
        ge=1,
        le=256,
    )


class HibariOptions(BaseModel):
    """Options of a session, and what `configure` changes."""

    model_config = ConfigDict(extra="forbid")

    speed: float | None = Field(default=None, ge=SLOWEST, le=FASTEST)
