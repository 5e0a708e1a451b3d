"""Settings of the recordings that an edge keeps."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import FsPath, described


def expanded(value: Path | None) -> Path | None:
    """A path with `~` replaced, which a shell does not do in a variable. Raises: ValueError."""
    try:
        return value and value.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


class KeepSettings(BaseSettings):
    """Recordings that stay on this machine, whatever NATS does."""

    model_config = SettingsConfigDict(
        env_prefix="EDGE_", frozen=True, extra="ignore", allow_inf_nan=False, env_ignore_empty=True
    )

    keep: FsPath | None = described(
        None,
        "directory in which the published audio is also kept as FLAC files, of an hour at most; if "
        "unset, it is not",
    )
    keep_bytes: int = described(
        10 * 1024**3,
        "maximum size of all recordings in it, in bytes; when exceeded, the oldest are deleted",
        ge=10 * 1024**2,
    )
    keep_days: float = described(30, "days after which a recording is deleted", gt=0, le=36_500)

    @field_validator("keep")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return expanded(value)
