"""Settings of the embedded provider."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described

ModelType = Literal["auto", "moonshine", "streaming", "nemo", "transducer", "whisper"]

PER_STREAM = frozenset(
    {
        "interim_seconds",
        "silence_seconds",
        "max_segment_seconds",
        "min_speech_seconds",
        "vad_threshold",
    }
)
"""Settings that a session's options may override."""


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SherpaSettings(BaseSettings):
    """Embedded engine (sherpa)"""

    model_config = SettingsConfigDict(
        env_prefix="SHERPA_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        protected_namespaces=(),  # fields may start with `model_`
    )

    model_dir: Path | None = described(
        None, "directory of a model; if unset, the bundled Moonshine tiny (English only)"
    )
    model_type: ModelType = described("auto", "type of the model in the directory; auto detects it")
    language: str | None = described(
        None, "language of the model in the directory; if unset, Whisper detects it"
    )
    threads: int = Field(
        default_factory=_cores,
        description="decoding threads, shared by all streams; by default one per core",
        ge=1,
        le=256,
    )
    interim_seconds: float = described(
        0.4, "audio between interims during speech, in seconds; 0 turns interims off", ge=0, le=10
    )
    silence_seconds: float = described(
        0.4, "pause that ends a turn and makes its text final, in seconds", ge=0.1, le=5
    )
    max_segment_seconds: float = described(
        12, "maximum length of speech without a final, in seconds", ge=4, le=28
    )
    min_speech_seconds: float = described(
        0.25, "minimum length of speech, in seconds; less is noise", ge=0.05, le=2
    )
    vad_threshold: float = described(
        0.5, "probability above which audio is speech", ge=0.05, le=0.95
    )
    catch_up_rate: float = described(
        4, "rate at which recorded audio is processed, as a multiple of real time", ge=1, le=100
    )
