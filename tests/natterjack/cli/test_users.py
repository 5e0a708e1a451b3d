"""`natterjack users`: seeds, users.json and users.conf in a directory."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import nkeys
import pytest

from natterjack.broker.roles import User
from natterjack.cli.users import accounts, edge_account

from .commands import Result, run


def users(directory: Path, *arguments: str, status: int = 0) -> Result:
    done = run("users", *arguments, "--dir", str(directory))
    assert done.status == status, done.errors
    return done


def listed(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(users(directory, "list", "--json").out)
    return found


def test_a_user_gets_a_secret_seed_that_fits_its_public_key(tmp_path: Path) -> None:
    done = users(tmp_path, "add", "worker")
    seed = tmp_path / "worker.nk"
    assert f"NATS_NKEY={seed}" in done.out
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    (user,) = listed(tmp_path)
    assert nkeys.from_seed(seed.read_bytes().strip()).public_key.decode() == user["public_key"]
    assert user["public_key"] in (tmp_path / "users.conf").read_text()
    assert f"NATS_INBOX_PREFIX={user['inbox_prefix']}" in done.out


def test_a_removed_user_is_gone_with_its_seed(tmp_path: Path) -> None:
    users(tmp_path, "add", "worker")
    users(tmp_path, "add", "operator")
    users(tmp_path, "remove", "worker")
    assert [user["user"] for user in listed(tmp_path)] == ["operator"]
    assert not (tmp_path / "worker.nk").exists()
    assert "no user worker" in users(tmp_path, "remove", "worker", status=1).errors


def test_a_user_cannot_be_added_twice(tmp_path: Path) -> None:
    users(tmp_path, "add", "worker")
    before = (tmp_path / "users.json").read_text()
    assert "already a user worker" in users(tmp_path, "add", "worker", status=2).errors
    assert (tmp_path / "users.json").read_text() == before


@pytest.mark.parametrize("key", ["U", "U" + "A" * 55, "A" * 56, "u" * 56])
def test_invalid_public_keys(tmp_path: Path, key: str) -> None:
    done = users(tmp_path, "add", "worker", "--public-key", key, status=2)
    assert "--public-key" in done.errors


def test_the_limit_of_edge_connections_is_kept(tmp_path: Path) -> None:
    users(tmp_path, "add", "edge", "--tenant", "acme", "--name", "desk")
    for arguments in (("config", "--edge-connections", "7"), ("config",)):
        text = users(tmp_path, *arguments).out
        section = json.loads(text.partition("accounts: ")[2].rpartition("system_account")[0])
        assert section[edge_account("acme")]["limits"]["max_connections"] == 7
    assert "1 or more" in users(tmp_path, "config", "--edge-connections", "0", status=2).errors


def test_values_for_the_chart_hold_the_same_accounts(tmp_path: Path) -> None:
    users(tmp_path, "add", "edge", "--tenant", "acme", "--name", "desk")
    text = users(tmp_path, "config", "--format", "helm").out
    merge = json.loads("\n".join(x for x in text.splitlines() if not x.startswith("#")))
    assert set(merge["config"]["merge"]["accounts"]) == {"STT", "SYS", "EDGE_acme"}


def test_edges_of_each_tenant_have_an_account_with_imports_of_their_own_subjects() -> None:
    made = accounts(
        [
            User(role="worker", public_key="UW"),
            User(role="edge", tenant="acme", name="desk", public_key="UA"),
            User(role="edge", tenant="other", name="desk", public_key="UO"),
        ]
    )
    assert [user["nkey"] for user in made["STT"]["users"]] == ["UW"]
    acme = made["EDGE_acme"]
    assert [user["nkey"] for user in acme["users"]] == ["UA"]
    subjects = [item["subject"] for each in acme["imports"] for item in each.values()]
    assert subjects
    assert all("acme" in subject and "other" not in subject for subject in subjects)
    assert "jetstream" not in acme
