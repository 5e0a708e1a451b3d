"""`natterjack users`: seeds, users.json and users.conf in a directory."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import nkeys
import pytest

from natterjack.broker.roles import User
from natterjack.cli.users_config import accounts, edge_account
from tests.identities import make_key

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


def test_a_rotated_user_has_two_keys_until_the_old_one_is_removed(tmp_path: Path) -> None:
    users(tmp_path, "add", "worker")
    users(tmp_path, "add", "operator")
    seed, configuration = tmp_path / "worker.nk", tmp_path / "users.conf"
    (before,) = (user for user in listed(tmp_path) if user["user"] == "worker")
    old_seed = seed.read_bytes()
    assert "reloaded" in users(tmp_path, "rotate", "worker").out
    (after,) = (user for user in listed(tmp_path) if user["user"] == "worker")
    assert seed.read_bytes() != old_seed
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    assert nkeys.from_seed(seed.read_bytes().strip()).public_key.decode() == after["public_key"]
    assert after["old_key"] == before["public_key"]
    section = json.loads(
        configuration.read_text().partition("accounts: ")[2].rpartition("system_account")[0]
    )
    new, old, _ = section["STT"]["users"]
    assert (new["nkey"], old["nkey"]) == (after["public_key"], before["public_key"])
    assert new["permissions"] == old["permissions"]
    assert "two keys" in users(tmp_path, "list").out
    assert "--finish" in users(tmp_path, "rotate", "worker", status=2).errors
    users(tmp_path, "rotate", "worker", "--finish")
    assert before["public_key"] not in configuration.read_text()
    assert after["public_key"] in configuration.read_text()
    assert "old_key" not in (tmp_path / "users.json").read_text()
    assert "only one key" in users(tmp_path, "rotate", "worker", "--finish", status=2).errors
    assert "no user nobody" in users(tmp_path, "rotate", "nobody", status=1).errors


def test_a_seed_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    users(tmp_path, "add", "worker")
    seed, before = tmp_path / "worker.nk", (tmp_path / "users.json").read_text()
    seed.unlink()
    seed.mkdir()
    assert "cannot be written" in users(tmp_path, "rotate", "worker", status=2).errors
    assert (tmp_path / "users.json").read_text() == before
    seed.rmdir()
    users(tmp_path, "rotate", "worker")
    assert listed(tmp_path)[0]["old_key"] in before


def test_a_key_made_elsewhere_takes_the_place_of_another(tmp_path: Path) -> None:
    old, new = make_key(), make_key()
    users(tmp_path, "add", "worker", "--public-key", old.public)
    users(tmp_path, "add", "operator")
    for key in (old.public, listed(tmp_path)[1]["public_key"]):
        done = users(tmp_path, "rotate", "worker", "--public-key", key, status=2)
        assert "already has this key" in done.errors
    users(tmp_path, "rotate", "worker", "--public-key", new.public)
    assert not (tmp_path / "worker.nk").exists()
    done = users(tmp_path, "add", "monitor", "--public-key", old.public, status=2)
    assert "worker already has this key" in done.errors
    users(tmp_path, "rotate", "worker", "--finish")
    assert listed(tmp_path)[0]["public_key"] == new.public


def test_a_durable_consumer_is_denied_to_the_users_who_were_there_before(tmp_path: Path) -> None:
    users(tmp_path, "add", "subscriber", "--name", "old")
    users(tmp_path, "add", "subscriber", "--name", "crm", "--durable", "crm", "--kinds", "final")
    old, crm = listed(tmp_path)
    asked = "$JS.API.CONSUMER.MSG.NEXT.STT_TRANSCRIPTS.crm"
    assert asked in old["publish"]["deny"]
    assert "deny" not in crm["publish"]
    assert crm["kinds"] == ["final"]
    section = json.loads(
        (tmp_path / "users.conf").read_text().partition("accounts: ")[2].rpartition("system")[0]
    )
    assert asked in section["STT"]["users"][0]["permissions"]["publish"]["deny"]
    saved = json.loads((tmp_path / "users.json").read_text())
    assert {"durable", "conversation", "kinds"}.isdisjoint(saved[0])  # for an earlier release


def test_users_who_share_a_durable_consumer_read_the_same_events(tmp_path: Path) -> None:
    adding = ("add", "subscriber", "--durable", "crm", "--kinds", "final,turn")
    users(tmp_path, *adding, "--tenant", "acme", "--name", "one")
    users(tmp_path, *adding, "--tenant", "acme", "--name", "two")
    done = users(tmp_path, *adding, "--tenant", "other", "--name", "three", status=2)
    assert "that of subscriber_acme_one" in done.errors
    assert "'words' is none of" in users(
        tmp_path, "add", "subscriber", "--name", "x", "--kinds", "words", status=2
    ).errors  # fmt: skip


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
