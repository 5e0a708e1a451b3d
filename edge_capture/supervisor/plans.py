"""The settings of each part of the program, derived from the configuration file. Pure functions."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from natterjack.audio import MIN_SAMPLE_RATE, AudioFormat
from natterjack.errors import UsageError, problem_text
from natterjack.settings import BrokerSettings, variable
from natterjack.subjects import SessionKey

from ..config.load import Config, ConfigError
from ..config.models import (
    CommandTable,
    FileTable,
    PipeTable,
    RotateTable,
    SourceTable,
    StreamTable,
)
from ..config.naming import Template
from ..config.rotation import Pause, Rotation, Schedule, Silence
from ..keep.settings import KeepSettings
from ..session import make_sessions
from ..settings import (
    DeliverySettings,
    EdgeSettings,
    PublishSettings,
    RequestSettings,
    SpoolSettings,
)
from ..spool import Origin

SettingsT = TypeVar("SettingsT", bound=BaseSettings)

_COMMANDS = {"microphone": "mic", "file": "file"}
"""Commands that are stored in an origin, by kind of source. A source of any other kind is live, and
its audio cannot be found again."""
_MAX_PASSWORD_BYTES = 4096


def broker_settings(config: Config) -> BrokerSettings:
    """The connection. Raises: ConfigError."""
    given = config.nats.model_dump(exclude_none=True)
    path = given.pop("password_file", None)
    if path is not None:
        given["password"] = _password(path)
    return _settings(BrokerSettings, "[nats]", given, os.environ)


def spool_settings(config: Config) -> SpoolSettings:
    """The spool. Raises: ConfigError."""
    given = config.spool.model_dump(exclude_none=True)
    names = {"directory": "spool", "seconds": "spool_seconds", "bytes": "spool_bytes"}
    given = {names[key]: each for key, each in given.items()}
    return _settings(SpoolSettings, "[spool]", given, os.environ)


def keep_settings(config: Config) -> KeepSettings:
    """Recordings on this machine. Raises: ConfigError."""
    given = config.keep.model_dump(exclude_none=True)
    names = {"directory": "keep", "bytes": "keep_bytes", "days": "keep_days"}
    given = {names[key]: each for key, each in given.items()}
    return _settings(KeepSettings, "[keep]", given, os.environ)


def delivery_settings(config: Config) -> DeliverySettings:
    """How audio is delivered. Raises: ConfigError."""
    given = config.delivery.model_dump(exclude_none=True)
    return _settings(DeliverySettings, "[delivery]", given, os.environ)


def _settings(
    model: type[SettingsT],
    where: str,
    given: dict[str, Any],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> SettingsT:
    """`environment` has variables that precede what is given."""
    set_there = {name.upper() for name in environment}
    given = {key: each for key, each in given.items() if variable(model, key) not in set_there}
    try:
        return model(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {name}: {problem_text(first)}") from None


def _password(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_PASSWORD_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"[nats]: password_file: {path}: {reason}") from None


def _known_format(table: SourceTable) -> AudioFormat:
    """The format of a source as far as its table tells; the rest of it can be published."""
    channels = table.split or 1
    if isinstance(table, StreamTable):
        return AudioFormat("linear16", table.sample_rate, table.channels)
    if not isinstance(table, PipeTable | CommandTable):  # a device or file is read as linear16
        return AudioFormat("linear16", MIN_SAMPLE_RATE, channels)
    # A header of a WAV file may tell what the table of a pipe does not.
    if isinstance(table, CommandTable) or table.raw or "channels" in table.model_fields_set:
        channels = table.channels
    return AudioFormat(table.encoding, table.sample_rate, channels)


class Plan:
    """The settings of one source, derived from its table. It is immutable; a changed table makes a
    new plan."""

    def __init__(self, config: Config, table: SourceTable, host: str) -> None:
        """Raises: ConfigError if a setting is not possible."""
        self.table = table
        self.tenant = config.tenant
        self.zone = ZoneInfo(table.time_zone) if table.time_zone else None
        self.template: Template = config.template(table, host)
        where = f'[[sources]] "{table.name}"'
        self.edge = _settings(
            EdgeSettings,
            where,
            {
                "tenant": config.tenant,
                "conversation": None,
                "speaker": table.speaker,
                "split_channels": table.split_channels and ",".join(table.split_channels),
                "language": table.language,
                "provider": table.provider and ",".join(table.provider),
                "model": table.model,
                "max_seconds": table.max_seconds,
                "buffer_seconds": table.buffer_seconds,
                **delivery_settings(config).model_dump(),
            },
        )
        self.publish = _settings(
            PublishSettings,
            where,
            {
                "sample_rate": table.publish_sample_rate,
                "encoding": table.publish_encoding,
                "chunk_ms": table.chunk_ms,
            },
        )
        self.request = _settings(
            RequestSettings,
            where,
            {
                "keyterms": list(table.keyterms),
                "options": dict(table.options),
                "labels": dict(table.labels),
            },
        )
        try:
            # As at the beginning of each session, so that a mistake is told before there is audio.
            make_sessions(
                self.keys(time.time_ns()), _known_format(table), table.can_wait, self.edge,
                self.publish, self.request,
            )  # fmt: skip
        except UsageError as error:
            raise ConfigError(f"{where}: {error}") from None

    def keys(self, at_ns: int) -> list[SessionKey]:
        """The keys of sessions that begin at this time."""
        at = datetime.fromtimestamp(at_ns / 1e9, self.zone)
        conversation = self.template.render(at)
        return [
            SessionKey.checked(self.tenant, conversation, speaker)
            for speaker in self.table.speakers
        ]

    def rotation(self, began_ns: int | None = None) -> Rotation:
        """When sessions are rotated, the first of which began at this time, or begins now."""
        rotate = self.table.rotate or RotateTable()
        silence = None
        if rotate.silence_minutes is not None:
            silence = Silence(rotate.silence_minutes * 60, rotate.silence_dbfs)
        schedule = Schedule(rotate.every_minutes, rotate.at, self.zone)
        pause = Pause(rotate.wait_seconds, rotate.silence_dbfs)
        return Rotation(schedule, silence, pause, began_ns=began_ns or time.time_ns())

    def origin(self, source: AudioFormat) -> Origin:
        """Return the description of the source that the spool stores.

        Raises: UsageError if the file of the source is gone.
        """
        table, path, size = self.table, None, None
        if isinstance(table, FileTable):
            path = str(table.path.resolve()).encode(errors="backslashreplace").decode()
            try:
                size = table.path.stat().st_size
            except OSError as error:
                raise UsageError(f"{table.path}: {error.strerror}") from None
        return Origin(
            command=_COMMANDS.get(table.kind, "stdin"),
            path=path,
            size_bytes=size,
            track=table.track if isinstance(table, FileTable) else None,
            format=source,
            speakers=table.speakers,
            chunk_ms=table.chunk_ms,
            source=table.name,
        )
