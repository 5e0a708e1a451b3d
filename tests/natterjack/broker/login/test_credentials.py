"""Credentials read from files: expiry, changes, and files that are missing or half written."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import nkeys
import pytest

from natterjack.broker.login.credentials import Credentials, certificate_expiries, jwt_expiry
from natterjack.errors import UsageError
from natterjack.settings import BrokerSettings
from tests.identities import Authority, Operator, make_jwt, make_key, replace

DAY = 86_400


# ---- expiry --------------------------------------------------------------------------------------


def test_the_expiry_of_a_jwt() -> None:
    account = make_key(nkeys.PREFIX_BYTE_ACCOUNT)
    assert jwt_expiry(make_jwt(account, "U", {}, until=1_900_000_000.7)) == 1_900_000_000
    assert jwt_expiry(make_jwt(account, "U", {})) is None
    for text in ("", "a.b", "a.b.c", "a.W10.c", jwt_of("[" * 100_000)):
        with pytest.raises(ValueError, match=r".*"):
            jwt_expiry(text)


def jwt_of(claims: str) -> str:
    """A JWT with these claims, whatever they are."""
    return f"a.{base64.urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.c"


@pytest.mark.parametrize("expiry", ["NaN", "Infinity", "-Infinity", "1e300", "1e15", "-1", "null"])
def test_an_expiry_that_is_no_date_is_none(expiry: str) -> None:
    assert jwt_expiry(jwt_of(f'{{"exp":{expiry}}}')) is None


@pytest.mark.parametrize("expiry", ["[1]", '{"a":1}', '"x"', "1" + 400 * "0"])
def test_an_expiry_that_is_no_number_is_an_error(expiry: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        jwt_expiry(jwt_of(f'{{"exp":{expiry}}}'))


@pytest.fixture
def authority(tmp_path: Path, processes: None) -> Authority:
    return Authority(tmp_path / "authority")


def test_the_expiry_of_certificates(authority: Authority) -> None:
    """Times from 2050 on are encoded in another way."""
    soon, late = int(time.time()) + 90, 3_000_000_000
    chain = b"".join(authority.issue("x", until=at)[0] for at in (soon, late))
    text = (authority.certificate + b"# comment\n" + chain).decode()
    first, *others = certificate_expiries(text)
    assert others == [soon, late]
    assert first == pytest.approx(time.time() + 2 * DAY, abs=60)


def test_a_certificate_that_is_cut_off_has_no_expiry(authority: Authority) -> None:
    lines = authority.certificate.decode().splitlines()
    broken = "\n".join([*lines[:2], lines[-1]])
    with pytest.raises(ValueError, match="incomplete"):
        certificate_expiries(broken)


# ---- files ---------------------------------------------------------------------------------------


def test_a_changed_nkey_is_read_with_its_public_part(tmp_path: Path) -> None:
    old, new = make_key(), make_key()
    path = tmp_path / "user.nk"
    path.write_bytes(old.seed + b"\n")
    credentials = Credentials(BrokerSettings(nkey=path))
    before = credentials.read()
    assert before.public_key == old.public
    assert credentials.read() is before
    replace(path, new.seed)
    after = credentials.read()
    assert after.public_key == new.public
    assert after.sign("nonce") != before.sign("nonce")
    assert new.seed.decode() not in repr(after)


def test_changed_creds_are_read_with_their_expiry(tmp_path: Path) -> None:
    operator, path = Operator(), tmp_path / "user.creds"
    path.write_bytes(operator.creds(until=1_900_000_000))
    credentials = Credentials(BrokerSettings(creds=path))
    before = credentials.read()
    assert before.expiries == (("creds", 1_900_000_000),)
    assert before.expires == 1_900_000_000
    assert not before.expired
    replace(path, operator.creds())
    after = credentials.read()
    assert after.expires is None
    assert after.jwt != before.jwt


def test_a_link_that_is_swapped_as_kubernetes_does(tmp_path: Path) -> None:
    """A mounted Secret is a link to a folder of which the name changes."""
    keys = [make_key(), make_key()]
    for number, key in enumerate(keys):
        (tmp_path / f"data{number}").mkdir()
        (tmp_path / f"data{number}" / "user.nk").write_bytes(key.seed)
    (tmp_path / "..data").symlink_to("data0")
    (tmp_path / "user.nk").symlink_to("..data/user.nk")
    credentials = Credentials(BrokerSettings(nkey=tmp_path / "user.nk"))
    assert credentials.read().public_key == keys[0].public
    (tmp_path / "..new").symlink_to("data1")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert credentials.read().public_key == keys[1].public


def test_changed_certificates_make_a_new_context(tmp_path: Path, authority: Authority) -> None:
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    at = int(time.time()) + 500
    cert, key = authority.issue("worker", until=at)
    for path, content in zip(paths.values(), (authority.certificate, cert, key), strict=True):
        path.write_bytes(content)
    credentials = Credentials(BrokerSettings.model_validate(paths))
    before = credentials.read()
    assert before.tls is not None
    assert credentials.read().tls is before.tls
    assert before.expires == at, "the CA expires later, and would not count"
    # The certificate is replaced before its key: together they are of no use.
    cert, key = authority.issue("worker", until=at + 60)
    replace(paths["cert"], cert)
    assert credentials.read() is before
    replace(paths["key"], key)
    after = credentials.read()
    assert after.tls is not before.tls
    assert after.expires == at + 60


def test_a_bundle_of_cas_expires_with_the_last(tmp_path: Path, authority: Authority) -> None:
    path = tmp_path / "bundle.pem"
    at = int(time.time()) + 50
    path.write_bytes(authority.issue("leaf", until=at)[0] + authority.certificate)
    found = Credentials(BrokerSettings(ca=path)).read()
    [(name, expiry)] = found.expiries
    assert name == "ca"
    assert expiry > at
    assert found.expires is None


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "folder", "other"])
def test_a_file_that_cannot_be_used_keeps_its_last_content(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    operator, key = Operator(), make_key()
    caplog.set_level("INFO")
    contents = {"creds": operator.creds(), "nkey": key.seed}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        credentials = Credentials(BrokerSettings.model_validate({name: path}))
        before = credentials.read()
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "missing":
            path.write_bytes(
                {"empty": b"", "cut": content[: len(content) // 2], "other": b"x\n"}[damage]
            )
        for _ in range(3):
            assert credentials.read() is before
        [complaint] = [r.getMessage() for r in caplog.records if name in r.getMessage()]
        assert complaint.startswith(f"NATS_{name.upper()}: ")
        assert complaint.endswith("; what was read before stays in use")
        with pytest.raises(UsageError, match=f"NATS_{name.upper()}"):
            Credentials(BrokerSettings.model_validate({name: path})).read()
        path.rmdir() if damage == "folder" else path.unlink(missing_ok=True)
        path.write_bytes(content)
        assert credentials.read() is before
        assert "can be used again" in caplog.text
        caplog.clear()
