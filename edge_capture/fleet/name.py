"""The name of an edge."""

from __future__ import annotations

import re
import socket

from natterjack.settings import BrokerSettings
from natterjack.subjects import TOKEN_PATTERN

from ..settings import FleetSettings


def agent_name(settings: FleetSettings, tenant: str, broker: BrokerSettings) -> str:
    """Return EDGE_AGENT or, if it is unset, the name of the broker's user, which may report under
    that name alone, or else the name of this machine as a token."""
    user = broker.inbox_prefix.removeprefix(f"_INBOX_edge_{tenant}_")
    named = user != broker.inbox_prefix and re.fullmatch(TOKEN_PATTERN, user)
    return settings.agent or (user if named else host_token(socket.gethostname()))


def host_token(host: str) -> str:
    """Return the name of a machine as one token of a subject: without its domain, and with other
    characters replaced by `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", host.partition(".")[0]).strip("-")[:64] or "edge"
