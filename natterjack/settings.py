"""Settings that every program shares, and the glue that makes flags of any settings model.

Each program reads the environment once, in its `__main__`, and passes the frozen models down.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .errors import UsageError

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def described(default: Any, help: str, **constraints: Any) -> Any:
    """A settings field: its default, its one-line help (with the unit), and its bounds."""
    return Field(default=default, description=help, **constraints)


class BrokerSettings(BaseSettings):
    """How to reach NATS; the names are those of the `nats` tool."""

    model_config = SettingsConfigDict(env_prefix="NATS_", frozen=True, extra="ignore")

    url: str = described("nats://127.0.0.1:4222", "server URL, or several with commas between")
    creds: Path | None = described(None, "credentials file (JWT and seed)")
    nkey: Path | None = described(None, "file with an NKey seed")
    user: str | None = described(None, "user name")
    password: SecretStr | None = described(None, "password")
    ca: Path | None = described(None, "CA bundle for the server's certificate")
    cert: Path | None = described(None, "client certificate")
    key: Path | None = described(None, "key of the client certificate")
    inbox_prefix: str = described(
        "_INBOX",
        "what subjects of answers begin with: with users of least privilege, one that no other "
        "user may read",
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
    )


Storage = Literal["file", "memory"]


def _bound(value: int) -> int:
    if value == -1 or value > 0:
        return value
    raise ValueError("must be -1 (none), or more than 0")


Bound = Annotated[int, AfterValidator(_bound)]
"""As JetStream has it, which takes 0 and less than -1 for -1."""


class StreamSettings(BaseSettings):
    """How the streams, the consumer and the bucket are made."""

    model_config = SettingsConfigDict(env_prefix="NATTERJACK_", frozen=True, extra="ignore")

    create_streams: bool = described(
        True, "make missing streams at start; off for least-privilege users: then they are checked"
    )
    stream_replicas: int = described(1, "replicas of each stream", ge=1, le=5)
    audio_storage: Storage = described("file", "where STT_AUDIO keeps chunks")
    audio_max_age_seconds: float = described(900, "how long audio is kept", gt=0)
    audio_max_bytes: Bound = described(-1, "bound of STT_AUDIO in bytes; -1: none")
    sessions_max_bytes: Bound = described(
        67_108_864,
        "bound of STT_SESSIONS in bytes, beyond which requests are refused until workers have "
        "taken some; -1: none",
    )
    transcripts_max_age_seconds: float = described(604_800, "how long events are kept", gt=0)
    lease_seconds: float = described(
        3,
        "a worker silent for so long loses its sessions (ack_wait); heartbeats come 3 times",
        ge=1,
    )


LogFormat = Literal["auto", "text", "json"]


class LogSettings(BaseSettings):
    """What the programs write to standard error."""

    model_config = SettingsConfigDict(env_prefix="NATTERJACK_", frozen=True, extra="ignore")

    log_level: Literal["debug", "info", "warning", "error"] = described("info", "least level shown")
    log_format: LogFormat = described("auto", "auto: text on a terminal, JSON lines elsewhere")


def add_flags(
    parser: argparse.ArgumentParser,
    model: type[BaseSettings],
    prefix: str = "",
    *,
    without: Collection[str] = (),
) -> None:
    """A flag for each field of `model` but those in `without`; a flag wins over its environment
    variable.

    Secrets get none: a command line can be read by every user of a machine.
    """
    group = parser.add_argument_group(f"{(model.__doc__ or '').splitlines()[0].rstrip('.')}")
    env_prefix = model.model_config.get("env_prefix", "")
    for name, field in model.model_fields.items():
        env = f"{env_prefix}{name}".upper()
        if name in without or "SecretStr" in str(field.annotation):
            continue
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None or default == [] else f", default {default}"
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
    """`model` from flags that `add_flags` made, from the environment, and from files in
    `secrets_dir` that are named like the variables: of several the first wins.

    Raises: UsageError with one line that names each bad setting and says what is wrong with it.
    """
    given = {
        name.partition(".")[2]: value
        for name, value in vars(flags or argparse.Namespace()).items()
        if name.startswith(f"{model.__name__}.")
    }
    try:
        return model(**given, _secrets_dir=secrets_dir)
    except SettingsError as error:  # a file that cannot be read, a list that is no JSON
        where = f" (a file in {secrets_dir}?)" if secrets_dir else ""
        raise UsageError(f"{error}: {error.__cause__}{where}") from None
    except ValidationError as error:
        env_prefix = model.model_config.get("env_prefix", "")
        wrong = []
        for problem in error.errors(include_url=False, include_input=False):
            field = ".".join(str(part) for part in problem["loc"]).upper()
            wrong.append(f"{env_prefix.upper()}{field}: {problem['msg']}")
        raise UsageError("; ".join(wrong)) from None
