"""The file of the gateway's keys."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from natterjack.errors import UsageError
from natterjack.fleet.keys import (
    READ_KINDS,
    add_key,
    key_id,
    make_key,
    read_keys,
    remove_keys,
)
from natterjack.subjects import TRANSCRIPT_KINDS, VOICE_EVENT_KINDS


def add(path: Path, name: str = "") -> tuple[str, str]:
    record, secret = make_key(tenant="acme", doors=("deepgram",), name=name)
    add_key(path, record)
    return record.id, secret


def test_the_file_has_no_secret_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    identity, secret = add(path)
    assert secret not in path.read_text()
    assert secret.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = read_keys(path)[identity]
    assert record.matches(secret)
    assert not record.matches(secret[:-1])
    assert key_id(secret) == identity
    path.chmod(0o640)
    add(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "an operator's own mode stays"


def test_comments_and_a_missing_last_newline_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, _ = add(path)
    path.write_text("# ours\n\n" + path.read_text().rstrip("\n"))
    second, _ = add(path)
    assert set(read_keys(path)) == {first, second}
    remove_keys(path, [first])
    assert set(read_keys(path)) == {second}
    assert path.read_text().startswith("# ours\n\n")


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "keys", tmp_path / "link"
    add(path)
    link.symlink_to(path)
    add(link)
    assert link.is_symlink()
    assert len(read_keys(path)) == 2


def test_keys_added_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda n: add(tmp_path / "keys", str(n)), range(32)))
    assert set(read_keys(tmp_path / "keys")) == {identity for identity, _ in added}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tenant": "a.b"}, "tenant: String should match"),
        ({"doors": ["front"]}, "doors.0: Input should be"),
        ({"doors": []}, "doors: "),
        ({"sha256": "x"}, "sha256: "),
        ({"tennant": "a"}, "tennant: Extra inputs are not permitted"),
        ({"conversations": ["a.b"]}, "conversations.0: "),
        ({"max_connections": 0}, "max_connections: "),
        ({"expires_at": "2027-01-01T00:00:00"}, "expires_at: Input should have timezone info"),
        ({"kinds": ["words"]}, "kinds.0: "),
    ],
)
def test_a_mistake_names_its_line_and_the_cure(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    path = tmp_path / "keys"
    identity, _ = add(path)
    line = json.loads(path.read_text())
    bad = json.dumps({**line, "id": "00000000", **change})
    path.write_text(f"# comment\n{json.dumps(line)}\n{bad}\n")
    with pytest.raises(UsageError) as caught:
        read_keys(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3: {problem}")
    assert "natterjack keys add" in message
    before = path.read_text()
    for edit in (lambda: add(path), lambda: remove_keys(path, [identity])):
        with pytest.raises(UsageError, match="line 3"):
            edit()
    assert path.read_text() == before


def test_other_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(UsageError, match=r"does not exist.*natterjack keys add"):
        read_keys(path)
    identity, _ = add(path)
    with pytest.raises(UsageError, match=r"no key 00000000.*natterjack keys list"):
        remove_keys(path, [identity, "00000000"])
    path.write_text(path.read_text() * 2)
    with pytest.raises(UsageError, match=f"line 2: line 1 has a key with the id {identity}"):
        read_keys(path)
    path.write_text("not json\n")
    with pytest.raises(UsageError, match="line 1: Invalid JSON"):
        read_keys(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text in UTF-8"):
        read_keys(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path)


def test_a_key_can_be_confined_to_each_kind_of_event() -> None:
    assert set(READ_KINDS) == {*TRANSCRIPT_KINDS, *VOICE_EVENT_KINDS}
