"""Settings of the player."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import FsPath, described

FILE_RATE = 24_000
"""Default rate of what is played into a file, in hertz."""


class PlaySettings(BaseSettings):
    """Playing the speech of a voice session."""

    model_config = SettingsConfigDict(
        env_prefix="EDGE_PLAY_", frozen=True, extra="ignore", allow_inf_nan=False
    )

    speaker: str = described(
        "assistant", "speaker whose speech is played: the last part of the key"
    )
    device: str | None = described(
        None, "loudspeaker: part of its name, or its index; if unset, the system's default"
    )
    file: FsPath | None = described(
        None,
        "WAV file to write instead, with what would be heard and no silence between; -: raw 16-bit "
        "audio of one channel on standard output, with silence while nothing is said",
    )
    sample_rate: int | None = described(
        None,
        "rate at which it is played, in hertz; if unset, the default rate of the device, and "
        f"{FILE_RATE} for a file",
        ge=8000,
        le=192_000,
    )
    volume: float = described(1, "factor for the volume; 1 leaves the speech as it is", ge=0, le=8)
    buffer_ms: int = described(
        100,
        "milliseconds of speech that are waited for before playback begins, and again after it has "
        "run out",
        ge=0,
        le=5000,
    )
    latency_ms: int = described(
        60,
        "milliseconds of audio that the loudspeaker is given ahead; more make up for a busy "
        "machine, and delay the beginning of speech",
        ge=10,
        le=1000,
    )
    max_age_seconds: float = described(
        30,
        "seconds by which speech may be late, because the player starts after it or its device was "
        "away; older speech is not played",
        ge=1,
        le=120,
    )
