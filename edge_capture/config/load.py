"""Reading the configuration file, with messages that name the table, the key and the cure."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from natterjack.errors import UsageError, problem_text

from .models import (
    KINDS,
    MAX_SOURCES,
    AgentTable,
    Defaults,
    DeliveryTable,
    KeepTable,
    NatsTable,
    PipeTable,
    SourceTable,
    SpoolTable,
    Table,
)
from .naming import Template

TableT = TypeVar("TableT", bound=BaseModel)

MAX_BYTES = 1024 * 1024
DEFAULT_TENANT = "default"
_TABLES: dict[str, type[Table]] = {
    "nats": NatsTable,
    "spool": SpoolTable,
    "delivery": DeliveryTable,
    "keep": KeepTable,
    "defaults": Defaults,
}
_SHOWN = 5
_SWITCH, _NUMBER = "write true or false, without quotes", "write a number, without quotes"
_TEXTS = {
    "missing": "it is missing",
    "tuple_type": 'it should be a list, such as ["a", "b"]',
    "bool_type": _SWITCH,
    "int_type": "write a whole number, without quotes",
    "float_type": _NUMBER,
}
"""Texts that replace those pydantic messages that use Python's terms, by the type of the
problem."""
_LIKENESS = 0.6
_EXAMPLE_TIME = datetime(2026, 12, 31, 23, 59, 58)


class ConfigError(UsageError):
    """The configuration file is not usable. The message names what to change."""


@dataclass(frozen=True)
class Config:
    """The content of a configuration file."""

    agent: str
    tenant: str
    nats: NatsTable
    spool: SpoolTable
    delivery: DeliveryTable
    keep: KeepTable
    sources: tuple[SourceTable, ...]

    @property
    def names(self) -> list[str]:
        """The names of the sources."""
        return [source.name for source in self.sources]

    def template(self, source: SourceTable, host: str) -> Template:
        """The template of the conversations of a source."""
        return Template(source.conversation, agent=self.agent, host=host, source=source.name)

    def fixed_changes(self, new: Config) -> list[str]:
        """Return the names of the settings that differ in `new` and only take effect after a
        restart."""
        return [
            each
            for each in ("agent", "tenant", "nats", "spool", "delivery", "keep")
            if getattr(self, each) != getattr(new, each)
        ]


def read_config(
    path: Path, *, host: str, agent: str | None = None, tenant: str | None = None
) -> Config:
    """Read a file on the machine `host`. `agent` and `tenant` precede those of the file. Raises:
    ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path}: create it, or name another one with --config"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: it has more than {MAX_BYTES} bytes")
    return parse_config(data, str(path), host=host, agent=agent, tenant=tenant)


def parse_config(
    data: bytes, name: str, *, host: str, agent: str | None = None, tenant: str | None = None
) -> Config:
    """Parse the content of the file called `name`. Raises: ConfigError."""
    try:
        content = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: it is not valid TOML: {error}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{name}: a number is too long, or a value nested too deeply") from None
    problems: list[str] = []
    config = _config(content, problems, agent=agent, tenant=tenant, host=host)
    if config is None or problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(f"{name}: {'; '.join(problems[:_SHOWN])}{more}")
    return config


def _config(
    content: dict[str, Any],
    problems: list[str],
    *,
    host: str,
    agent: str | None,
    tenant: str | None,
) -> Config | None:
    tables = {key: content.pop(key, {}) for key in _TABLES}
    sources = content.pop("sources", [])
    top = _checked(AgentTable, content, "", problems, also=(*_TABLES, "sources"))
    found = {}
    for key, table in tables.items():
        if not isinstance(table, dict):
            problems.append(f"{key} is a table: write [{key}]")
        else:
            found[key] = _checked(_TABLES[key], table, f"[{key}]", problems)
    if not isinstance(sources, list) or not all(isinstance(each, dict) for each in sources):
        problems.append("sources are tables: write [[sources]] before each")
        return None
    if not sources:
        problems.append("it has no [[sources]]")
    elif len(sources) > MAX_SOURCES:
        problems.append(f"it has {len(sources)} [[sources]], at most {MAX_SOURCES} are possible")
        return None
    defaults = tables["defaults"] if isinstance(tables["defaults"], dict) else {}
    read = [_source(n, each, defaults, problems) for n, each in enumerate(sources, start=1)]
    if top is None or problems:
        return None
    config = Config(
        agent or top.agent or host,
        tenant or top.tenant or DEFAULT_TENANT,
        found["nats"] or NatsTable(),  # type: ignore[arg-type]
        found["spool"] or SpoolTable(),  # type: ignore[arg-type]
        found["delivery"] or DeliveryTable(),  # type: ignore[arg-type]
        found["keep"] or KeepTable(),  # type: ignore[arg-type]
        tuple(each for each in read if each is not None),
    )
    _check_together(config, host, problems)
    return config


def _source(
    number: int, table: dict[str, Any], defaults: dict[str, Any], problems: list[str]
) -> SourceTable | None:
    where = f"[[sources]] {json.dumps(table.get('name', number), default=str)}"
    kind = table.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        close = difflib.get_close_matches(str(kind), KINDS, 1, _LIKENESS)
        hint = f"; did you mean {close[0]}?" if close else ""
        known = ", ".join(KINDS)
        said = "kind is missing" if kind is None else f"kind {kind!r} is not known{hint}"
        problems.append(f"{where}: {said} ({known})")
        return None
    merged = {**defaults, **table}
    if isinstance(table.get("labels"), dict) and isinstance(defaults.get("labels"), dict):
        merged["labels"] = {**defaults["labels"], **table["labels"]}
    unknown = _unknown(model, table, where)
    if unknown:
        problems += unknown
        return None
    # A problem in [defaults] is reported once, not for each source.
    given = {key: merged[key] for key in merged if key in model.model_fields}
    return _checked(model, given, where, problems, besides=set(defaults) - set(table))


def _checked(
    model: type[TableT],
    table: Mapping[str, Any],
    where: str,
    problems: list[str],
    *,
    also: tuple[str, ...] = (),
    besides: set[str] | None = None,
) -> TableT | None:
    """Return a table, or add what is wrong with it to `problems`, but for the keys `besides`."""
    unknown = _unknown(model, table, where, also)
    if unknown:
        problems += unknown
        return None
    try:
        return model.model_validate(table)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            path = [str(part) for part in each["loc"]]
            if path and path[0] in (besides or ()):
                continue
            prefix = f"{where}: " if where else ""
            if each["type"] == "extra_forbidden":
                parent = _model_at(model, path[:-1])
                problems.append(f"{prefix}{_not_a_key('.'.join(path), path[-1], parent)}")
                continue
            text = _TEXTS.get(each["type"]) or problem_text(each)
            if "pattern" in each["type"]:
                text = "use 1 to 64 of the characters A-Z a-z 0-9 _ -"
            problems.append(f"{prefix}{'.'.join(path)}: {text}" if path else f"{prefix}{text}")
    return None


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    from .models import RotateTable

    return RotateTable if path == ["rotate"] else model


def _unknown(
    model: type[BaseModel], table: Mapping[str, Any], where: str, also: tuple[str, ...] = ()
) -> list[str]:
    prefix = f"{where}: " if where else ""
    return [
        f"{prefix}{_not_a_key(key, key, model, also)}"
        for key in table
        if key not in model.model_fields
    ]


def _not_a_key(shown: str, key: str, model: type[BaseModel], also: tuple[str, ...] = ()) -> str:
    close = difflib.get_close_matches(key, [*model.model_fields, *also], 1, _LIKENESS)
    if not close and issubclass(model, SourceTable):
        others = [kind for kind, other in KINDS.items() if key in other.model_fields]
        if others:
            return f"{shown} is a key of sources of kind {', '.join(others)}"
    return f"{shown} is not a key" + (f"; did you mean {close[0]}?" if close else "")


def _check_together(config: Config, host: str, problems: list[str]) -> None:
    """Check what concerns several keys or sources."""
    names: set[str] = set()
    keys: dict[tuple[str, str], str] = {}
    for source in config.sources:
        where = f'[[sources]] "{source.name}"'
        if source.name in names:
            problems.append(f"{where}: another source has the same name")
        names.add(source.name)
        try:
            conversation = config.template(source, host).render(_EXAMPLE_TIME)
        except ValueError as error:
            problems.append(f"{where}: conversation: {error}")
            continue
        for speaker in source.speakers:
            other = keys.setdefault((conversation, speaker), source.name)
            if other != source.name:
                problems.append(
                    f'{where}: its conversation and speaker are those of "{other}"; give it '
                    "another speaker, or put {source} in the conversation"
                )
    _check_pipes(config.sources, problems)


def _check_pipes(sources: Iterable[SourceTable], problems: list[str]) -> None:
    """Two readers of one pipe would each get random parts of its audio."""
    readers: dict[str, list[str]] = {}
    for source in sources:
        if isinstance(source, PipeTable):
            readers.setdefault(os.path.normpath(source.path), []).append(source.name)
    for path, names in readers.items():
        if len(names) > 1:
            shown = "be standard input" if path == "-" else f"read the pipe {path}"
            problems.append(f"{' and '.join(names)}: only one source can {shown}")
