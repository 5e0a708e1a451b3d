"""Checks of files: certificates, credentials, and the spool's directory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edge_capture.check.certificates import credentials, exposed, judged_expiry
from edge_capture.check.disk import spool
from edge_capture.settings import SpoolSettings
from natterjack.settings import BrokerSettings
from tests.identities import Operator, make_key

DAY = 86_400.0


@pytest.mark.parametrize(
    ("days", "state", "text"),
    [
        (-0.1, "failed", "expired on 1970-"),
        (0.5, "warning", "valid for 12.0 more hours, until 1970-"),
        (13.9, "warning", "valid for 14 more days"),
        (14.1, "ok", "valid for 14 more days"),
        (1e12, "ok", "a date beyond the year 9999"),
    ],
)
def test_days_that_are_left(days: float, state: str, text: str) -> None:
    found = judged_expiry("server certificate", "server", (100 + days) * DAY, 100 * DAY)
    assert (found.state, bool(found.cure)) == (state, state != "ok")
    assert text in found.found


def test_credentials_that_are_missing_or_cannot_be_read(tmp_path: Path) -> None:
    (found,) = credentials(BrokerSettings(url="nats://localhost"))[1]
    assert (found.state, found.check) == ("warning", "credentials")
    identity, (found,) = credentials(BrokerSettings(creds=tmp_path / "absent.creds"))
    assert (identity, found.state) == (None, "failed")
    assert "NATS_CREDS: there is no file" in found.found
    (tmp_path / "bad.nk").write_text("SECRET")
    found = credentials(BrokerSettings(nkey=tmp_path / "bad.nk"))[1][0]
    assert (found.state, "SECRET" in str(found)) == ("failed", False)


def test_the_age_of_a_jwt_and_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "edge.creds"
    operator = Operator()
    for until, state in ((time.time() + 3 * DAY, "warning"), (time.time() - DAY, "failed")):
        path.write_bytes(operator.creds(until=until))
        path.chmod(0o640)
        identity, (found,) = credentials(BrokerSettings(creds=path))
        assert identity is not None
        assert (found.check, found.state) == ("credentials", state)
    path.chmod(0o644)
    found = credentials(BrokerSettings(creds=path))[1][-1]
    assert (found.check, found.state, found.cure) == ("secrets", "warning", f"chmod o= {path}")


def test_nkeys_are_named_but_not_shown(tmp_path: Path) -> None:
    path, key = tmp_path / "edge.nk", make_key()
    path.write_bytes(key.seed)
    path.chmod(0o600)
    (found,) = credentials(BrokerSettings(nkey=path))[1]
    assert (found.state, str(path) in found.found) == ("ok", True)
    assert key.seed.decode() not in str(found)
    assert exposed([path, None, tmp_path / "absent"]) == []


# ---- the spool -----------------------------------------------------------------------------------


def test_a_spool_that_can_be_used_is_not_made(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "spool"
    (found,) = spool(SpoolSettings(spool=directory, spool_bytes=65_536))
    assert found.state in ("ok", "warning")  # this machine may have little room
    assert str(directory) in found.found
    assert not directory.parent.exists()


def test_no_spool_is_a_warning() -> None:
    (found,) = spool(SpoolSettings())
    assert (found.state, "EDGE_SPOOL" in found.cure) == ("warning", True)


def test_a_spool_without_room_or_with_damage(tmp_path: Path) -> None:
    (found,) = spool(SpoolSettings(spool=tmp_path, spool_bytes=1 << 62))
    assert (found.state, "EDGE_SPOOL_BYTES" in found.cure) == ("warning", True)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "session.json").touch()
    (tmp_path / "one" / "000000000000.seg").write_bytes(bytes(2**20))
    settings = SpoolSettings(spool=tmp_path, spool_bytes=65_536)
    assert spool(settings)[-1].found == f"1 sessions in {tmp_path}, 1.0 MiB"
    (tmp_path / "damaged-two").mkdir()
    found = spool(settings)[-1]
    assert (found.state, found.found) == (
        "warning",
        f"1 damaged sessions are kept in {tmp_path}",
    )


def test_a_spool_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = spool(SpoolSettings(spool=tmp_path / "file"))
    assert found.state == "failed"
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        (found,) = spool(SpoolSettings(spool=tmp_path / "closed" / "spool"))
        assert found.state == "failed"
