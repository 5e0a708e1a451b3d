from __future__ import annotations

import re
import socket

import pytest

from edge_capture.fleet.name import agent_name, host_token
from edge_capture.settings import FleetSettings
from natterjack.errors import UsageError
from natterjack.settings import BrokerSettings, load
from natterjack.subjects import TOKEN_PATTERN


@pytest.mark.parametrize(
    ("host", "token"),
    [
        ("room-12", "room-12"),
        ("room_12.example.org", "room_12"),
        ("räum 12", "r-um-12"),
        ("", "edge"),
        ("...", "edge"),
        ("日本", "edge"),
        ("x" * 200, "x" * 64),
    ],
)
def test_the_name_of_any_machine_is_a_token(host: str, token: str) -> None:
    assert host_token(host) == token
    assert re.fullmatch(TOKEN_PATTERN, token)


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("_INBOX_edge_acme_desk_2", "desk_2"),
        ("_INBOX_edge_other_desk", None),
        ("_INBOX_edge_acme_", None),
        ("_INBOX_edge_acme_" + "x" * 65, None),
        ("_INBOX", None),
    ],
)
def test_a_user_of_the_broker_names_the_edge(prefix: str, name: str | None) -> None:
    broker = BrokerSettings(inbox_prefix=prefix)
    host = host_token(socket.gethostname())
    assert agent_name(FleetSettings(), "acme", broker) == (name or host)


def test_a_setting_names_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT", "lecture-hall")
    broker = BrokerSettings(inbox_prefix="_INBOX_edge_acme_desk")
    assert agent_name(load(FleetSettings), "acme", broker) == "lecture-hall"
    for name, wrong in (("EDGE_AGENT", "a.b"), ("EDGE_PRESENCE_SECONDS", "0.5")):
        with monkeypatch.context() as patched:
            patched.setenv(name, wrong)
            with pytest.raises(UsageError, match=name):
                load(FleetSettings)
