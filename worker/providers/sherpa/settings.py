"""Settings of the embedded provider."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

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
"""Settings that a session's options may set for its own stream."""


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
        None, "directory of a model to use; absent: the bundled Moonshine tiny, English only"
    )
    model_type: ModelType = described("auto", "what lies in the directory; auto: from its files")
    language: str | None = described(
        None, "language of the model in the directory; Whisper without it finds out by itself"
    )
    threads: int = described(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads that decode, for all streams together; by default one a core",
        ge=1,
        le=256,
    )
    interim_seconds: float = described(
        0.4, "audio between interims while one speaks; 0: no interims", ge=0, le=10
    )
    silence_seconds: float = described(
        0.4, "a pause so long ends a turn and makes its text final", ge=0.1, le=5
    )
    max_segment_seconds: float = described(
        12, "speech without a pause is cut and made final at this length", ge=4, le=28
    )
    min_speech_seconds: float = described(
        0.25, "less speech than this is taken for a noise", ge=0.05, le=2
    )
    vad_threshold: float = described(
        0.5, "probability above which sound is taken for speech", ge=0.05, le=0.95
    )
    catch_up_rate: float = described(
        4, "times real time at which recorded audio is taken", ge=1, le=100
    )
