"""Reads the agent's name, its tenant and its connection from a configuration file, before the whole
file is read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Preview:
    """The names and the connection in a file."""

    agent: str | None = None
    tenant: str | None = None
    nats: Mapping[str, Any] = field(default_factory=dict)


def preview(path: Path) -> Preview:
    """Read a file. What cannot be used is left out, since reading the whole file says so."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return Preview()
    agent, tenant, nats = (content.get(name) for name in ("agent", "tenant", "nats"))
    return Preview(
        agent if isinstance(agent, str) else None,
        tenant if isinstance(tenant, str) else None,
        nats if isinstance(nats, dict) else {},
    )
