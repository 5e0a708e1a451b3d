from __future__ import annotations

from pathlib import Path

import pytest

from edge_capture.fleet.mutes import Mutes


def test_what_is_muted_is_known_to_the_next_start_of_the_same_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mutes = Mutes(tmp_path / "spool", "acme", "room-12")
    assert not mutes.restored("front")
    assert mutes.keep(["front", "back"], muted=True) == ""
    assert mutes.keep(["back"], muted=False) == ""
    assert mutes.keep(["back"], muted=False) == ""
    again = Mutes(tmp_path / "spool", "acme", "room-12")
    assert [again.restored(source) for source in ("front", "back")] == [True, False]
    assert str(tmp_path / "spool/muted/acme.room-12.front") in caplog.text
    assert not Mutes(tmp_path / "spool", "acme", "room-13").restored("front")
    assert not Mutes(tmp_path / "spool", "other", "room-12").restored("front")


def test_without_a_spool_it_is_kept_in_the_state_directory_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    mutes = Mutes(None, "acme", "room-12")
    assert mutes.keep(["mic"], muted=True) == "only until it ends, as it has no spool"
    assert mutes.keep(["mic"], muted=False) == ""
    assert not mutes.restored("mic")
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/other")
    assert Mutes(None, "acme", "room-12").keep(["mic"], muted=True) == ""
    assert Mutes(None, "acme", "room-12").restored("mic")


def test_a_disk_that_fails_is_said_to_whoever_mutes(tmp_path: Path) -> None:
    (tmp_path / "muted").write_text("not a directory")
    problem = Mutes(tmp_path, "acme", "room-12").keep(["mic"], muted=True)
    assert problem.startswith("after its next start mic is live again: ")
