"""JWTs of accounts and users say what nats-server's configuration says, without a server."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from natterjack.broker.login.jwt import read_claims, same_claims
from natterjack.broker.login.permissions import CAPTION_KINDS
from natterjack.broker.roles import User
from natterjack.cli.enrollment.claims import edge_template, permission_claims
from natterjack.cli.enrollment.directory import SignedDirectory

from ..commands import run

EVERYBODY = (
    ("operator",),
    ("worker",),
    ("registrar",),
    ("edge", "--tenant", "acme", "--name", "pi"),
    ("subscriber", "--tenant", "acme", "--name", "crm", "--durable", "crm"),
    ("subscriber", "--tenant", "acme", "--name", "app"),
)


def users(directory: Path, *arguments: str, status: int = 0) -> str:
    done = run("users", *arguments, "--dir", str(directory))
    assert done.status == status, done
    return done.out + done.errors


def accounts(directory: Path) -> dict[str, dict[str, object]]:
    """The claims of each account in users.conf, by name."""
    text = (directory / "users.conf").read_text().partition("resolver_preload: ")[2]
    preload = json.JSONDecoder().raw_decode(text)[0]
    return {(claims := read_claims(jwt))["name"]: claims["nats"] for jwt in preload.values()}


def test_an_edge_that_enrolls_has_the_rights_of_one_that_is_configured() -> None:
    configured = permission_claims(User("edge", "pi", "acme").permissions().config())
    filled = json.loads(json.dumps(edge_template("acme")).replace("{{name()}}", "pi"))
    assert filled["pub"]["allow"].pop() == "stt.renew.{{subject()}}"
    assert filled == configured


def test_captions_are_for_edges_with_the_tag_and_tenants_with_the_imports(tmp_path: Path) -> None:
    users(tmp_path, "add", "worker", "--jwt")
    signed = SignedDirectory(tmp_path)
    for tenant in ("acme", "other"):
        signed.add_tenant(tenant)
    signed.allow_captions("acme")
    users(tmp_path, "config")
    found = accounts(tmp_path)
    shown = {f"stt.transcript.acme.*.*.{kind}" for kind in CAPTION_KINDS}
    assert shown == imported(found["EDGE_acme"]) - {
        subject.replace("other", "acme") for subject in imported(found["EDGE_other"])
    }
    plain, captions = edge_template("acme"), edge_template("acme", captions=True)
    assert set(captions["sub"]["allow"]) - set(plain["sub"]["allow"]) == {
        "stt.transcript.acme.*.*.{{tag(captions)}}"
    }


def imported(account: dict[str, object]) -> set[str]:
    return {each["subject"] for each in account["imports"]}  # type: ignore[attr-defined]


def test_users_of_a_directory_move_to_jwts_and_keep_their_keys(tmp_path: Path) -> None:
    for arguments in EVERYBODY:
        users(tmp_path, "add", *arguments)
    before = json.loads((tmp_path / "users.json").read_text())
    seed = (tmp_path / "worker.nk").read_text()
    users(tmp_path, "config", "--jwt")
    assert json.loads((tmp_path / "users.json").read_text()) == before
    found = accounts(tmp_path)
    assert set(found) == {"STT", "SYS", "ENROLL", "EDGE_acme"}
    roles = {each["role"]: each for each in found["STT"]["signing_keys"]}  # type: ignore[attr-defined]
    listed = json.loads(users(tmp_path, "list", "--json"))
    for user in listed:
        if user["role"] != "edge":
            config = {k: user[k] for k in ("publish", "subscribe", "allow_responses") if k in user}
            assert roles[user["user"]]["template"] == permission_claims(config)
    creds = (tmp_path / "worker.creds").read_text()
    assert seed.strip() in creds
    assert "NATS_CREDS=" in users(tmp_path, "list")
    secrets = [*tmp_path.glob("*.creds"), *(tmp_path / "jwt").rglob("*.nk")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    seeds = [path.read_text().strip() for path in (tmp_path / "jwt").rglob("*.nk")]
    assert not any(one in (tmp_path / "users.conf").read_text() for one in [*seeds, seed.strip()])

    users(tmp_path, "config")
    assert (tmp_path / "worker.creds").read_text() == creds, "nothing has changed"

    # A damaged file, or one with another seed, is replaced.
    for damaged in (creds.replace(seed.strip(), ""), creds.replace(seed.strip(), seed[:-9])):
        (tmp_path / "worker.creds").write_text(damaged)
        users(tmp_path, "config")
        assert seed.strip() in (tmp_path / "worker.creds").read_text()


def test_removed_users_and_old_keys_are_refused(tmp_path: Path) -> None:
    users(tmp_path, "add", "worker", "--jwt")
    users(tmp_path, "add", "gateway")
    old = json.loads((tmp_path / "users.json").read_text())[0]["public_key"]
    users(tmp_path, "rotate", "worker")
    assert "revocations" not in accounts(tmp_path)["STT"]
    assert "users push" in users(tmp_path, "rotate", "worker", "--finish")
    assert list(accounts(tmp_path)["STT"]["revocations"]) == [old]  # type: ignore[call-overload]
    users(tmp_path, "remove", "gateway")
    roles = [each["role"] for each in accounts(tmp_path)["STT"]["signing_keys"]]  # type: ignore[attr-defined]
    assert roles == ["worker"]
    assert not (tmp_path / "gateway.creds").exists()


def test_a_revoked_key_is_forgotten_when_its_credentials_have_expired(tmp_path: Path) -> None:
    users(tmp_path, "add", *EVERYBODY[3], "--jwt")
    signed = SignedDirectory(tmp_path)
    now, day = time.time(), 86_400
    file = tmp_path / "jwt" / "revoked.json"
    file.write_text('{"EDGE_acme": ["OLD"]}')  # as it was stored at first
    signed.revoke("EDGE_acme", ["LATER"], now + 90 * day)
    signed.revoke("EDGE_acme", ["JUST"], now - day / 2)
    signed.revoke("EDGE_acme", ["GONE"], now - 2 * day)
    signed.revoke("EDGE_acme", ["LATER"], now)  # not sooner than was known
    signed.revoke("STT", ["USER"])
    users(tmp_path, "config")
    found = accounts(tmp_path)
    assert set(found["EDGE_acme"]["revocations"]) == {"OLD", "LATER", "JUST"}  # type: ignore[call-overload]
    assert set(found["STT"]["revocations"]) == {"USER"}  # type: ignore[call-overload]
    assert "GONE" not in file.read_text()
    stored = json.loads(file.read_text())["EDGE_acme"]
    assert stored["LATER"] == pytest.approx(now + 90 * day)


def test_the_chart_of_nats_gets_a_resolver(tmp_path: Path) -> None:
    users(tmp_path, "add", "worker", "--jwt")
    values = json.loads(users(tmp_path, "config", "--format", "helm").partition("\n")[2])
    config = values["config"]
    assert config["resolver"]["enabled"] is True
    assert set(config["merge"]) == {"operator", "system_account", "resolver_preload"}


def test_a_new_tenant_changes_no_other_account(tmp_path: Path) -> None:
    users(tmp_path, "add", *EVERYBODY[3], "--jwt")
    signed = SignedDirectory(tmp_path)
    before = signed.accounts([], 1024)
    signed.add_tenant("other")
    after = signed.accounts([], 1024)
    assert len(after) == len(before) + 1
    assert all(same_claims(after[key], jwt) for key, jwt in before.items())


@pytest.mark.parametrize("action", ["push"])
def test_it_says_how_to_begin(tmp_path: Path, action: str) -> None:
    users(tmp_path, "add", "worker")
    assert "users config --jwt" in users(tmp_path, action, status=2)
