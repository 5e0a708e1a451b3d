"""The name of an edge."""

from __future__ import annotations

import re
import socket

from ..settings import FleetSettings


def agent_name(settings: FleetSettings) -> str:
    """Return EDGE_AGENT or, if it is unset, the name of this machine as a token."""
    return settings.agent or host_token(socket.gethostname())


def host_token(host: str) -> str:
    """Return the name of a machine as one token of a subject: without its domain, and with other
    characters replaced by `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", host.partition(".")[0]).strip("-")[:64] or "edge"
