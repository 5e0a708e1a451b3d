"""Settings that all programs share, and command-line flags made from settings models.

Each program reads the environment once, in its `__main__`, and passes the frozen models on.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from .errors import UsageError, problem_text

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def described(default: Any, help: str, **constraints: Any) -> Any:
    """A settings field with a default, a one-line help text with the unit, and bounds."""
    return Field(default=default, description=help, **constraints)


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("the path is empty")
    if "\0" in str(value):  # files of settings can have it, variables cannot
        raise ValueError("no path has a null character")
    return value


NOT_EMPTY = BeforeValidator(_not_empty)
"""Refuses an empty path, which would mean the current folder, and one that no file can have."""
FsPath = Annotated[Path, NOT_EMPTY]
_WEBSOCKET = {"ws", "wss"}


def _scheme(url: str) -> str:
    """Return the scheme of a server's URL. Raises: ValueError if no server can have it."""
    shown = re.sub(r"(^|//)[^/]*@", r"\1", url)  # without a password
    try:
        parts = urlsplit(url.strip() if "://" in url else f"nats://{url.strip()}")
        if parts.hostname and parts.port != 0 and parts.scheme in {"nats", "tls"} | _WEBSOCKET:
            return parts.scheme
    except ValueError:  # an invalid port or IPv6 address
        pass
    raise ValueError(
        f"{shown!r} is not the URL of a NATS server, such as nats://nats.example.org:4222 or "
        "wss://nats.example.org"
    )


class BrokerSettings(BaseSettings):
    """Connection to NATS.

    The variables have the names that the `nats` command uses.
    """

    model_config = SettingsConfigDict(env_prefix="NATS_", frozen=True, extra="ignore")

    url: str = described(
        "nats://127.0.0.1:4222",
        "server URL, or several separated by commas: nats:// or tls://, or for WebSocket ws:// or "
        "wss://, with an optional path",
    )
    creds: FsPath | None = described(None, "credentials file (JWT and seed)")
    nkey: FsPath | None = described(None, "file with an NKey seed")
    user: str | None = described(None, "user name")
    password: SecretStr | None = described(None, "password")
    ca: FsPath | None = described(None, "CA bundle for the server's certificate")
    cert: FsPath | None = described(None, "client certificate")
    key: FsPath | None = described(None, "private key of the client certificate")
    inbox_prefix: str = described(
        "_INBOX",
        "prefix of the subjects on which replies arrive; with least-privilege users, each user has "
        "one of its own, which `natterjack users list` shows",
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
    )

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str) -> str:
        schemes = {_scheme(server) for server in value.split(",")}
        if schemes & _WEBSOCKET and schemes - _WEBSOCKET:
            raise ValueError("ws:// and wss:// cannot be mixed with nats:// and tls://")
        return value


Storage = Literal["file", "memory"]


def _bound(value: int) -> int:
    if value == -1 or value > 0:
        return value
    raise ValueError("must be -1 (none), or more than 0")


Bound = Annotated[int, AfterValidator(_bound)]
"""A limit in bytes, or -1 for none. JetStream would silently take 0 and other negatives for -1."""


Kind = Literal["transcribe", "speak"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of session: speech to text, and text to speech."""


class StreamSettings(BaseSettings):
    """Streams, consumers and buckets on the broker."""

    model_config = SettingsConfigDict(
        env_prefix="NATTERJACK_", frozen=True, extra="ignore", populate_by_name=True
    )

    kinds: Annotated[tuple[Kind, ...], NoDecode] = described(
        KINDS,
        "comma-separated kinds of session: `transcribe`, and `speak` for voice sessions; workers "
        "claim these, and only their streams are created and checked. If it is not set and the "
        "store has no room for voice sessions, workers go on without them",
        min_length=1,
        validation_alias="WORKER_KINDS",
    )
    create_streams: bool = described(
        True,
        "create missing streams at start; if off, as for least-privilege users, only check them",
    )
    stream_replicas: int = described(1, "replicas of each stream", ge=1, le=5)
    audio_storage: Storage = described("file", "storage of STT_AUDIO: file or memory")
    audio_max_age_seconds: float = described(900, "how long audio is stored, in seconds", gt=0)
    audio_max_bytes: Bound = described(
        8_589_934_592,
        "maximum size of STT_AUDIO in bytes, which leaves the rest of the store to transcripts; "
        "when full, the oldest audio is dropped; -1: no limit. The default, 8 GiB, has room for "
        "250 sessions; a worker that creates the stream halves it until it fits",
    )
    sessions_max_bytes: Bound = described(
        67_108_864,
        "maximum size of STT_SESSIONS in bytes; when full, requests are refused; -1: no limit",
    )
    transcripts_max_age_seconds: float = described(
        604_800, "how long events are stored, in seconds", gt=0
    )
    tts_sessions_max_bytes: Bound = described(
        67_108_864,
        "maximum size of TTS_SESSIONS in bytes; when full, requests are refused; -1: no limit",
    )
    tts_text_max_age_seconds: float = described(
        900, "how long text to speak is stored, in seconds", gt=0
    )
    tts_text_max_bytes: Bound = described(
        67_108_864,
        "maximum size of TTS_TEXT in bytes; when full, text is refused; -1: no limit. The default "
        "has room for 75 sessions that speak all the time and whose text comes in tokens",
    )
    tts_audio_storage: Storage = described(
        "file",
        "storage of TTS_AUDIO: file, or memory, which is faster; a single server that restarts "
        "loses a stream in memory, and `natterjack streams apply` or a worker that may create "
        "streams makes it again",
    )
    tts_audio_max_age_seconds: float = described(120, "how long speech is stored, in seconds", gt=0)
    tts_audio_max_bytes: Bound = described(
        536_870_912,
        "maximum size of TTS_AUDIO in bytes; when full, the oldest speech is dropped; -1: no "
        "limit. The default, 512 MiB, has room for 85 sessions that speak all the time; a worker "
        "that creates the stream halves it until it fits",
    )
    tts_events_max_age_seconds: float = described(
        604_800, "how long events of voice sessions are stored, in seconds", gt=0
    )
    lease_seconds: float = described(
        3,
        "seconds without a heartbeat after which a worker loses a session (ack_wait); workers send "
        "three heartbeats in that time",
        ge=1,
    )

    @field_validator("kinds", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            value = [kind.strip() for kind in value.split(",") if kind.strip()]
        return tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else value


LogFormat = Literal["auto", "text", "json"]


class LogSettings(BaseSettings):
    """Logging to standard error."""

    model_config = SettingsConfigDict(env_prefix="NATTERJACK_", frozen=True, extra="ignore")

    log_level: Literal["debug", "info", "warning", "error"] = described(
        "info", "lowest level shown"
    )
    log_format: LogFormat = described("auto", "auto: text on a terminal, JSON lines elsewhere")


MODELS = (BrokerSettings, StreamSettings, LogSettings)
"""The settings of no program in particular."""


def variable(model: type[BaseSettings], field: str) -> str:
    """Return the environment variable of a field."""
    found = model.model_fields.get(field)
    if found is not None and isinstance(found.validation_alias, str):
        return found.validation_alias
    return f"{model.model_config.get('env_prefix', '')}{field}".upper()


def variables(model: type[BaseSettings]) -> set[str]:
    """Return the environment variables that `model` reads."""
    return {variable(model, field) for field in model.model_fields}


def add_flags(
    parser: argparse.ArgumentParser,
    model: type[BaseSettings],
    prefix: str = "",
    *,
    without: Collection[str] = (),
) -> None:
    """Add a flag for each field of `model` except those in `without`.

    A flag takes precedence over its environment variable. Secrets get no flag, because every user
    of a machine can read its command lines.
    """
    group = parser.add_argument_group(f"{(model.__doc__ or '').splitlines()[0].rstrip('.')}")
    for name, field in model.model_fields.items():
        env = variable(model, name)
        if name in without or "SecretStr" in str(field.annotation):
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, tuple):
            default = ",".join(default)
        shown = "" if default is None or default in ("", []) else f", default {default}"
        options: dict[str, Any] = {"metavar": name.rpartition("_")[2].upper()}
        if field.annotation is bool:
            options = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            f"--{prefix}{name.replace('_', '-')}",
            dest=f"{model.__name__}.{name}",
            default=argparse.SUPPRESS,
            help=f"{field.description} [{env}{shown}]".replace("%", "%%"),
            **options,
        )


def load(
    model: type[SettingsT],
    flags: argparse.Namespace | None = None,
    secrets_dir: Path | None = None,
) -> SettingsT:
    """Load `model` from flags, the environment and the files in `secrets_dir`, in this order.

    The flags are those that `add_flags` made. The files have the names of the variables.

    Raises: UsageError with one line that names each invalid setting and its problem.
    """
    given = {
        name.partition(".")[2]: value
        for name, value in vars(flags or argparse.Namespace()).items()
        if name.startswith(f"{model.__name__}.")
    }
    try:
        return model(**given, _secrets_dir=secrets_dir)
    except SettingsError as error:  # an unreadable file, or a list that is not valid JSON
        where = f" (a file in {secrets_dir}?)" if secrets_dir else ""
        raise UsageError(f"{error}: {error.__cause__}{where}") from None
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False, include_input=False):
            parts = list(map(str, problem["loc"])) or [model.model_config.get("env_prefix", "")]
            if parts[0] in model.model_fields:
                parts[0] = variable(model, parts[0])
            problems.append(f"{'.'.join(parts).upper()}: {problem_text(problem)}")
        raise UsageError("; ".join(problems)) from None
