"""Settings of the edge agent, and the flags made of them.

`BrokerSettings` and `LogSettings` are the shared ones. What describes the sound on standard input
or the microphone is apart from what is published, since both have a sample rate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from natterjack.audio import Encoding
from natterjack.settings import add_flags, described

_CONFIG = SettingsConfigDict(env_prefix="EDGE_", frozen=True, extra="ignore", allow_inf_nan=False)


class DeliverySettings(BaseSettings):
    """How sound goes to the broker."""

    model_config = _CONFIG

    window_chunks: int = described(
        256, "chunks published and not yet acknowledged at most", ge=1, le=10_000
    )
    burst_seconds: float = described(
        600, "sound of a session published at most ahead of what EDGE_CATCH_UP_RATE allows", ge=0
    )
    catch_up_rate: float = described(
        1.25, "seconds of sound published in a second beyond that, at least 1; 0: no limit", ge=0
    )
    finish_seconds: float = described(
        10, "how long acknowledgements are awaited after Ctrl-C or SIGTERM", ge=0
    )

    @field_validator("catch_up_rate")
    @classmethod
    def _rate(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("live sound would never be published; at least 1, or 0")
        return value


class EdgeSettings(DeliverySettings):
    """Whose sound it is, what is asked for it, and how it is kept safe."""

    model_config = _CONFIG

    tenant: str = described("default", "first part of the session's key")
    conversation: str | None = described(
        None, "second part of the key; a readable unique one is made when absent"
    )
    speaker: str = described("speaker", "third part of the key")
    split_channels: str | None = described(
        None, "speakers with commas between: one session for each channel, in this order"
    )
    language: str | None = described(None, "BCP-47 tag, such as en or de-CH")
    provider: str | None = described(
        None, "provider, or several to try in order with commas between; absent: the worker's"
    )
    model: str | None = described(None, "the provider's model")
    max_seconds: float | None = described(None, "end the session after so much audio", gt=0)
    buffer_seconds: float = described(
        2700,
        "live sound kept in memory while the broker takes none; beyond it the oldest goes",
        gt=0,
    )


class SpoolSettings(BaseSettings):
    """Where sound that the broker does not have yet is kept on disk, and how much of it."""

    model_config = SettingsConfigDict(**_CONFIG, env_ignore_empty=True)

    spool: Path | None = described(None, "directory for it; absent: it is kept in memory alone")
    spool_seconds: float = described(
        2700, "sound of a session kept there; beyond it the oldest goes", ge=10
    )
    spool_bytes: int = described(
        512 * 1024 * 1024, "bytes of all that is kept there; beyond it the oldest goes", ge=65_536
    )

    @field_validator("spool")
    @classmethod
    def _expanded(cls, value: Path | None) -> Path | None:
        try:
            return value and value.expanduser()  # no shell has, of a variable
        except RuntimeError as error:
            raise ValueError(str(error)) from None


class PublishSettings(BaseSettings):
    """The form in which sound is published."""

    model_config = _CONFIG

    sample_rate: int = described(
        16_000, "hertz; 0 keeps the source's; mulaw and alaw are never resampled", ge=0
    )
    chunk_ms: int = described(80, "milliseconds of sound in a chunk", ge=10, le=1000)


class RequestSettings(BaseSettings):
    """Parts of the session request that may be given several times."""

    model_config = _CONFIG

    keyterms: Annotated[list[str], NoDecode] = described([], "terms to recognise, with commas")
    options: Annotated[dict[str, Any], NoDecode] = described(
        {}, "passed to the provider, a JSON object"
    )
    labels: Annotated[dict[str, str], NoDecode] = described(
        {}, "kept with the session, a JSON object of strings"
    )

    @field_validator("keyterms", mode="before")
    @classmethod
    def _terms(cls, value: object) -> object:
        if isinstance(value, str):
            return [term.strip() for term in value.split(",") if term.strip()]
        return value

    @field_validator("options", "labels", mode="before")
    @classmethod
    def _members(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError("not a JSON object") from None
        return dict(value) if isinstance(value, list) else value


class StdinSettings(BaseSettings):
    """The raw sound that comes on standard input."""

    model_config = SettingsConfigDict(env_prefix="EDGE_STDIN_", frozen=True, extra="ignore")

    encoding: Encoding = described("linear16", "linear16 (little-endian), mulaw or alaw")
    sample_rate: int = described(16_000, "hertz", ge=1)
    channels: int = described(1, "interleaved channels", ge=1, le=32)
    live: bool = described(
        False, "never make the writer wait: if too much sound waits for NATS, the oldest goes"
    )


class MicrophoneSettings(BaseSettings):
    """Which microphone, and how it records."""

    model_config = _CONFIG

    device: str | None = described(None, "part of its name, or its index; absent: the default")
    device_rate: int | None = described(None, "hertz; absent: the device's own", ge=1)
    device_wait_seconds: float = described(
        300, "how long a microphone that vanished is awaited; 0: the session ends at once", ge=0
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    return name, value


def _option(text: str) -> tuple[str, object]:
    name, value = _pair(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def add_session_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of EdgeSettings, PublishSettings and RequestSettings, for `natterjack.settings.load`.

    The published form's are `--publish-...`, because `--sample-rate` says what the source has.
    """
    add_flags(parser, EdgeSettings)
    add_flags(parser, PublishSettings, "publish-")
    group = parser.add_argument_group("More of the session request, each as often as needed")
    for flag, field, metavar, parse, text in (
        ("--keyterm", "keyterms", "TERM", str, "a term to recognise"),
        ("--option", "options", "NAME=VALUE", _option, "for the provider; JSON, else a string"),
        ("--label", "labels", "NAME=VALUE", _pair, "kept with the session"),
    ):
        env = f"EDGE_{field.upper()}: {RequestSettings.model_fields[field].description}"
        group.add_argument(
            flag,
            dest=f"{RequestSettings.__name__}.{field}",
            action="append",
            default=argparse.SUPPRESS,
            type=parse,
            metavar=metavar,
            help=f"{text} [{env}]",
        )
