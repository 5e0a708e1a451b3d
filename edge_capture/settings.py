"""Settings of the edge agent, and the commands that take them as flags.

The format of the source and the format that is published are separate models, because both have a
sample rate.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from natterjack.audio import MIN_SAMPLE_RATE, Encoding
from natterjack.errors import UsageError
from natterjack.process.variables import Unknown, unknown_variables
from natterjack.settings import MODELS as SHARED_MODELS
from natterjack.settings import BrokerSettings, FsPath, LogSettings, described, variable
from natterjack.subjects import TOKEN_PATTERN

from .enrollment.settings import IdentitySettings
from .keep.settings import KeepSettings, expanded
from .options.playing import PlaySettings

_MAX_CHANNELS = 32
"""Channels of a device."""

_CONFIG = SettingsConfigDict(env_prefix="EDGE_", frozen=True, extra="ignore", allow_inf_nan=False)


class DeliverySettings(BaseSettings):
    """How audio is delivered to the broker."""

    model_config = _CONFIG

    window_chunks: int = described(
        256, "maximum number of chunks published and not yet acknowledged", ge=1, le=10_000
    )
    burst_seconds: float = described(
        600, "seconds of audio that a session may publish at once, without a rate limit", ge=0
    )
    catch_up_rate: float = described(
        1.25,
        "seconds of audio per second that a session may publish beyond EDGE_BURST_SECONDS: "
        "at least 1, or 0 for no limit",
        ge=0,
    )
    finish_seconds: float = described(
        10, "seconds to wait for acknowledgements after Ctrl-C or SIGTERM", ge=0
    )

    @field_validator("catch_up_rate")
    @classmethod
    def _catches_up(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("live audio would never be published; use at least 1, or 0")
        return value


class ConversationSettings(BaseSettings):
    """The conversation."""

    model_config = _CONFIG

    tenant: str = described("default", "tenant: the first part of the session's key")
    conversation: str | None = described(
        None,
        "conversation: the second part of the key; required to play speech; if unset otherwise, a "
        "unique one is generated",
    )


class EdgeSettings(ConversationSettings, DeliverySettings):
    """The session to request, and how its audio is delivered."""

    model_config = _CONFIG

    speaker: str = described("speaker", "speaker: the third part of the key")
    split_channels: str | None = described(
        None,
        "comma-separated speakers, one for each channel in order: each channel becomes a session",
    )
    language: str | None = described(None, "language as a BCP-47 tag, such as en or de-CH")
    provider: str | None = described(
        None,
        "provider, or a comma-separated list in order of preference; if unset, the worker decides",
    )
    model: str | None = described(None, "model of the provider; if unset, the provider's default")
    max_seconds: float | None = described(
        None,
        "seconds of audio after which the worker ends a session; live audio continues in another; "
        "if unset, no limit",
        gt=0,
    )
    buffer_seconds: float = described(
        2700,
        "seconds of live audio kept in memory while the broker accepts none; when exceeded, the "
        "oldest is dropped",
        gt=0,
    )


class SpoolSettings(BaseSettings):
    """The spool: audio on disk until the broker has stored it."""

    model_config = SettingsConfigDict(**_CONFIG, env_ignore_empty=True)

    spool: FsPath | None = described(
        None, "spool directory; if unset, audio is buffered in memory only"
    )
    spool_seconds: float = described(
        2700,
        "maximum seconds of audio of one session in the spool; when exceeded, the oldest is "
        "dropped",
        ge=10,
    )
    spool_bytes: int = described(
        512 * 1024 * 1024,
        "maximum size of all sessions in the spool, in bytes; when exceeded, the oldest audio is "
        "dropped",
        ge=65_536,
    )

    @field_validator("spool")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return expanded(value)


class FleetSettings(BaseSettings):
    """The name of this edge in the fleet, and how often it reports to the center."""

    model_config = _CONFIG

    agent: str | None = described(
        None,
        "name of this edge, unique within its tenant, by which the center shows it; if unset, the "
        "name of its user on the broker, or else of the machine",
        pattern=f"^{TOKEN_PATTERN}$",
    )
    presence_seconds: float = described(
        5,
        "seconds between two reports of the state of this edge to the center; 0: none, and no "
        "requests from it",
        ge=0,
        le=300,
    )

    @field_validator("presence_seconds")
    @classmethod
    def _cheap(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("use at least 1, or 0 for none")
        return value


class ProgressSettings(BaseSettings):
    """How much the edge reports about itself while it runs."""

    model_config = _CONFIG

    quiet: bool = described(False, "log warnings and errors only, and show no progress")


class CaptionSettings(BaseSettings):
    """The text of this edge's sessions, for the people at it."""

    model_config = _CONFIG

    captions: bool = described(
        False,
        "show what is transcribed of these sessions on standard output while they speak; needs a "
        "broker user with this right",
    )


class PublishSettings(BaseSettings):
    """The format in which audio is published."""

    model_config = _CONFIG

    sample_rate: int = described(
        16_000,
        "sample rate in hertz; 0 keeps the rate of the source; mulaw and alaw are never resampled",
        ge=0,
    )
    chunk_ms: int = described(80, "length of a chunk in milliseconds", ge=10, le=1000)
    encoding: Literal["linear16", "flac"] = described(
        "linear16",
        "encoding: linear16, or flac, which is lossless and takes half of the bandwidth; needs "
        "workers of this release; mulaw and alaw are published as they are",
    )


class RequestSettings(BaseSettings):
    """Terms, options and labels of the session request."""

    model_config = _CONFIG

    keyterms: Annotated[list[str], NoDecode] = described(
        [], "comma-separated terms that the provider should recognize"
    )
    options: Annotated[dict[str, Any], NoDecode] = described(
        {}, "options for the provider, as a JSON object"
    )
    labels: Annotated[dict[str, str], NoDecode] = described(
        {}, "labels stored with the session, as a JSON object of strings"
    )

    @field_validator("keyterms", mode="before")
    @classmethod
    def _split_terms(cls, value: object) -> object:
        if isinstance(value, str):
            return [term.strip() for term in value.split(",") if term.strip()]
        return value

    @field_validator("options", "labels", mode="before")
    @classmethod
    def _parse_object(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError("not a JSON object") from None
        return dict(value) if isinstance(value, list) else value


class StdinSettings(BaseSettings):
    """The audio on standard input: raw, or a WAV file, whose header names the format."""

    model_config = SettingsConfigDict(env_prefix="EDGE_STDIN_", frozen=True, extra="ignore")

    encoding: Encoding = described("linear16", "encoding: linear16 (little-endian), mulaw or alaw")
    sample_rate: int = described(16_000, "sample rate in hertz", ge=MIN_SAMPLE_RATE)
    channels: int = described(1, "number of interleaved channels", ge=1, le=32)
    raw: bool = described(
        False, "treat the input as raw audio even if it begins like a WAV or another file"
    )
    live: bool = described(
        False,
        "never make the writer wait: when too much audio waits for NATS, the oldest is dropped",
    )


def _split_names(text: str) -> tuple[str, ...]:
    """Return the parts between commas that are outside parentheses, since ALSA's names have commas
    inside: `HDA Intel PCH: ALC257 (hw:0,0), headset` is two."""
    parts, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character == "(") - (character == ")"))
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part.strip() for part in parts if part.strip())


class MicrophoneSettings(BaseSettings):
    """The microphone."""

    model_config = _CONFIG

    device: Annotated[tuple[str, ...], NoDecode] = described(
        (),
        "microphones in order of preference, comma-separated: each a name of `natterjack-edge "
        "devices`, a part of one, a pattern with * or ?, or an index; the first that is there is "
        "recorded; if unset, the system's default",
    )
    device_channels: Annotated[tuple[int, ...], NoDecode] = described(
        (),
        "channels of the microphone to record, comma-separated, from 1; if unset, one, or the "
        "first ones with EDGE_SPLIT_CHANNELS",
    )
    device_rate: int | None = described(
        None,
        "recording rate in hertz; if unset, the default rate of the device, or another one if it "
        "refuses that",
        ge=MIN_SAMPLE_RATE,
    )
    device_wait_seconds: float = described(
        300,
        "seconds to wait for a microphone at the start, and for one that has disappeared: longer "
        "while NATS has not stored its audio; 0 ends the session as soon as it is stored",
        ge=0,
    )
    device_return_seconds: float = described(
        10,
        "seconds for which a microphone that is preferred to the present one must be there before "
        "it is recorded again",
        ge=0,
    )

    @field_validator("device", mode="before")
    @classmethod
    def _split_devices(cls, value: object) -> object:
        return _split_names(value) if isinstance(value, str) else value

    @field_validator("device_channels", mode="before")
    @classmethod
    def _split_channels(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not all(part.isdecimal() and 1 <= int(part) <= _MAX_CHANNELS for part in parts):
            raise ValueError(f"{value!r} is not a list of numbers from 1 to {_MAX_CHANNELS}")
        if len(set(parts)) < len(parts):
            raise ValueError(f"{value!r} has a channel twice")
        return tuple(map(int, parts))


CAPTURE_COMMANDS = ("file", "stdin", "mic")
_AS_MICROPHONE = (*CAPTURE_COMMANDS, "check")
"""The commands that take what `mic` takes about sessions."""


class Flags(NamedTuple):
    """The commands that take a model's settings as flags."""

    model: type[BaseSettings]
    commands: tuple[str, ...]
    prefix: str = ""


FLAGS = (
    Flags(StdinSettings, ("stdin",)),
    Flags(MicrophoneSettings, ("mic", "check")),
    Flags(ConversationSettings, ("play",)),
    Flags(PlaySettings, ("play",)),
    Flags(PlaySettings, ("mic",), "play-"),
    Flags(EdgeSettings, _AS_MICROPHONE),
    Flags(DeliverySettings, ("send",)),
    # --sample-rate is the rate of the source.
    Flags(PublishSettings, CAPTURE_COMMANDS, "publish-"),
    Flags(RequestSettings, CAPTURE_COMMANDS),
    Flags(SpoolSettings, (*_AS_MICROPHONE, "send")),
    Flags(KeepSettings, CAPTURE_COMMANDS),
    Flags(CaptionSettings, CAPTURE_COMMANDS),
    Flags(BrokerSettings, (*_AS_MICROPHONE, "send", "play"), "nats-"),
    Flags(IdentitySettings, (*_AS_MICROPHONE, "run", "send", "play", "enroll")),
    Flags(FleetSettings, (*_AS_MICROPHONE, "run")),
    Flags(ProgressSettings, (*CAPTURE_COMMANDS, "run", "send", "play")),
    Flags(LogSettings, (*CAPTURE_COMMANDS, "run", "send", "play", "probe", "devices", "enroll")),
)
"""The settings models of this program, in the order of its help text."""

MODELS = tuple(
    dict.fromkeys(
        flags.model
        for flags in FLAGS
        if not any(flags.model in other.model.__bases__ for other in FLAGS)
    )
)
"""The models that together have each setting of this program once."""


_KEY = {"EDGE_TENANT", "EDGE_CONVERSATION", "EDGE_SPEAKER", "EDGE_SPLIT_CHANNELS"}
_MISSPELLED = 0.8
"""Similarity, from 0 to 1, from which a variable counts as one of these, misspelled: TENNANT has
0.92, TENANT_ID 0.8. Later releases should not add settings whose names are that similar."""


def check_variables(
    flags: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> list[Unknown]:
    """Return the variables that look like settings of this program but are not.

    Raises: UsageError if one looks like a part of the session's key that nothing else gives:
    without it, audio would be published under another key, which other people may read.
    """
    found = unknown_variables(environment, {*MODELS, *SHARED_MODELS})
    if flags.command in CAPTURE_COMMANDS:
        given = {name.upper() for name in environment}
        given |= {variable(EdgeSettings, name.partition(".")[2]) for name in vars(flags)}
        if "EDGE_SPLIT_CHANNELS" in given:
            given.add("EDGE_SPEAKER")
        for each in found:
            if each.meant in _KEY - given and each.likeness >= _MISSPELLED:
                raise UsageError(
                    f"{each.name} is not a setting; did you mean {each.meant}? It is part of the "
                    "key under which audio is published: correct the name, or remove the variable"
                )
    return found
