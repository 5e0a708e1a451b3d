"""`natterjack keys`: adding, listing and removing keys of the gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from natterjack.fleet.keys import read_keys

from .commands import Result, run


def keys(file: Path, action: str, *arguments: str, status: int = 0) -> Result:
    done = run("keys", action, "--file", str(file), *arguments)
    assert done.status == status, done.errors
    return done


def listed(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(keys(file, "list", "--json").out)
    return found


def test_the_secret_is_printed_once_and_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys"
    done = keys(file, "add", "--tenant", "acme", "--name", "laptop")
    secret = done.out.strip()
    assert re.fullmatch(r"nj_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", secret)
    assert "cannot be shown again" in done.errors
    (record,) = read_keys(file).values()
    assert record.matches(secret)
    assert "api" not in record.doors
    shown = keys(file, "list").out + keys(file, "list", "--json").out
    assert secret not in shown
    assert record.sha256 not in shown
    assert "acme" in shown
    assert "laptop" in shown


def test_a_key_has_what_the_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys(
        file, "add", "--tenant", "acme", "--doors", "all", "--kinds", "final,interim",
        "--conversations", "call-*", "--provider", "deepgram,sherpa", "--model", "nova-3",
        "--language", "de", "--keyterms", "Quux, Frob", "--options", '{"punctuate": true}',
        "--labels", '{"team": "a"}', "--max-connections", "5", "--max-session-seconds", "60",
        "--expires", "90d",
    )  # fmt: skip
    (key,) = listed(file)
    assert key["doors"][-1] == "api"
    assert key["kinds"] == ["final", "interim"]
    assert key["conversations"] == ["call-*"]
    assert key["provider"] == ["deepgram", "sherpa"]
    assert (key["model"], key["language"], key["keyterms"]) == ("nova-3", "de", ["Quux", "Frob"])
    assert (key["options"], key["labels"]) == ({"punctuate": True}, {"team": "a"})
    assert (key["max_connections"], key["max_session_seconds"]) == (5, 60)
    assert key["expires_at"] > key["created_at"]


def test_a_removed_key_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for _ in range(3):
        keys(file, "add", "--tenant", "acme")
    first, second, third = (key["id"] for key in listed(file))
    assert f"{second}: removed" in keys(file, "remove", second, first).out
    assert [key["id"] for key in listed(file)] == [third]
    assert "no key" in keys(file, "remove", first, status=2).errors
    keys(file, "remove", third)
    assert keys(file, "list").out == "no keys\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--tenant", "a.b"), "tenant"),
        (("--tenant", "a", "--doors", "front"), "no door 'front': choose from deepgram, "),
        (("--tenant", "a", "--kinds", "words"), "kinds"),
        (("--tenant", "a", "--options", "[]"), "is not a JSON object"),
        (("--tenant", "a", "--labels", '{"a": 1}'), "labels"),
        (("--tenant", "a", "--expires", "soon"), "neither a duration such as 90d nor a date"),
        (("--tenant", "a", "--expires", "2020-01-01"), "is in the past"),
        (("--tenant", "a", "--max-connections", "0"), "max_connections"),
        ((), "--tenant"),
    ],
)
def test_a_mistake_adds_nothing(tmp_path: Path, arguments: tuple[str, ...], problem: str) -> None:
    file = tmp_path / "keys"
    done = keys(file, "add", *arguments, status=2)
    assert problem in done.errors
    assert "Traceback" not in done.errors
    assert not file.exists()


def test_the_file_comes_from_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEYS_FILE", str(tmp_path / "keys"))
    assert run("keys", "add", "--tenant", "acme").status == 0
    assert "acme" in run("keys", "list").out
    monkeypatch.delenv("GATEWAY_KEYS_FILE")
    assert "GATEWAY_KEYS_FILE" in run("keys", "list").errors
