"""Which recordings are deleted. Nothing is started."""

from __future__ import annotations

import pytest

from edge_capture.keep.policy import DAY_S, Kept, file_name, is_recording, surplus
from natterjack.subjects import SessionKey

KEY = SessionKey("acme", "room_1", "speaker-2")
NOW = 1_800_000_000.0
BEGIN_NS = 1_796_115_600_500_000_000


def test_names() -> None:
    assert file_name(KEY, BEGIN_NS) == "acme.room_1.speaker-2.20261201T090000Z.flac"
    assert file_name(KEY, BEGIN_NS, 3) == "acme.room_1.speaker-2.20261201T090000Z_3.flac"
    assert is_recording(file_name(KEY, BEGIN_NS))
    assert is_recording(file_name(KEY, BEGIN_NS, 12))


@pytest.mark.parametrize(
    "name",
    [
        "music.flac", "acme.room.speaker.flac", "acme.room.20261201T090000Z.flac",
        "acme.room.speaker.20261201T090000Z.wav", ".acme.room.speaker.20261201T090000Z.flac",
        "acme.room.speaker.20261201T090000Z.flac.part", "a.b.c.20261201T0900Z.flac",
    ],
)  # fmt: skip
def test_other_files_are_left_alone(name: str) -> None:
    assert not is_recording(name)


def kept(count: int, size: int, every_s: float) -> list[Kept]:
    """Files that were written to at distances of `every_s`, the newest one just now."""
    return [Kept(f"{n}", size, NOW - n * every_s) for n in range(count)]


def test_the_oldest_go_first_until_there_is_room() -> None:
    found = kept(10, 100, 3600)
    assert surplus(found, NOW, 1000, 30) == []
    assert surplus(found, NOW, 999, 30) == ["9"]
    assert surplus(found[::-1], NOW, 750, 30) == ["9", "8", "7"]


def test_old_ones_go_whatever_room_there_is() -> None:
    assert surplus(kept(5, 1, DAY_S), NOW, 10**9, 2.5) == ["4", "3"]


def test_a_file_that_is_being_written_stays() -> None:
    assert surplus(kept(3, 100, 10), NOW, 1, 30) == []
    assert surplus([*kept(1, 100, 1), Kept("old", 5, NOW - 3600)], NOW, 100, 30) == ["old"]
