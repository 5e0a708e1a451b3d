from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from edge_capture.config.rotation import Pause, Rotation, Schedule, Silence

BERLIN, ADELAIDE = ZoneInfo("Europe/Berlin"), ZoneInfo("Australia/Adelaide")
S = 1_000_000_000


def times(schedule: Schedule, start: datetime, count: int) -> list[str]:
    """The next times of a schedule, in its own time zone."""
    found = []
    for _ in range(count):
        start = schedule.next(start) or start
        found.append(start.astimezone(schedule.zone).strftime("%d %H:%M%z"))
    return found


def test_an_interval_counts_from_midnight_on_the_wall() -> None:
    half_hour = Schedule(every_minutes=30, zone=ADELAIDE)  # UTC+9:30
    assert times(half_hour, datetime(2026, 7, 1, 0, 5, tzinfo=ADELAIDE), 2) == [
        "01 00:30+0930",
        "01 01:00+0930",
    ]
    seven = Schedule(every_minutes=420, zone=UTC)
    assert times(seven, datetime(2026, 7, 1, 13, 59, tzinfo=UTC), 4) == [
        "01 14:00+0000",
        "01 21:00+0000",
        "02 00:00+0000",
        "02 07:00+0000",
    ]


def test_a_time_that_has_just_come_is_not_the_next_one() -> None:
    at = Schedule(at=(time(8), time(13, 30)), zone=BERLIN)
    assert times(at, datetime(2026, 7, 1, 8, tzinfo=BERLIN), 3) == [
        "01 13:30+0200",
        "02 08:00+0200",
        "02 13:30+0200",
    ]


def test_each_hour_counts_when_clocks_are_set() -> None:
    hourly = Schedule(every_minutes=60, zone=BERLIN)
    assert times(hourly, datetime(2026, 3, 29, 1, 30, tzinfo=BERLIN), 2) == [
        "29 03:00+0200",
        "29 04:00+0200",
    ]
    assert times(hourly, datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN), 3) == [
        "25 02:00+0200",
        "25 02:00+0100",
        "25 03:00+0100",
    ]


def test_a_time_of_day_comes_once_a_day_when_clocks_are_set() -> None:
    at = Schedule(at=(time(2, 30),), zone=BERLIN)
    assert times(at, datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2) == [
        "29 03:30+0200",  # 02:30 does not come
        "30 02:30+0200",
    ]
    assert times(at, datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2) == [
        "25 02:30+0200",  # and not again an hour later
        "26 02:30+0100",
    ]


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Berlin", datetime(2026, 3, 28, 20, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2026, 10, 24, 20, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 10, tzinfo=UTC)),  # by half an hour
        ("Australia/Lord_Howe", datetime(2026, 10, 3, 10, tzinfo=UTC)),
        ("America/Asuncion", datetime(2023, 9, 30, 22, tzinfo=UTC)),  # midnight does not come
        ("Pacific/Apia", datetime(2011, 12, 29, 22, tzinfo=UTC)),  # a day does not come
        ("Asia/Kathmandu", datetime(2026, 7, 1, tzinfo=UTC)),
    ],
)
def test_the_next_time_is_the_first_of_all_times(zone: str, start: datetime) -> None:
    info = ZoneInfo(zone)
    days = [(start + timedelta(days)).astimezone(info).date() for days in range(-2, 4)]
    for every in (45, 60, 1440):
        schedule = Schedule(every_minutes=every, zone=info)
        walls = [
            datetime.combine(day, time()) + timedelta(minutes=minutes)
            for day in days
            for minutes in range(0, 1440, every)
        ]
        everything = sorted({schedule._instant(wall, fold) for wall in walls for fold in (0, 1)})
        for minutes in range(0, 14 * 60, 29):
            after = start + timedelta(minutes=minutes)
            assert schedule.next(after) == next(each for each in everything if each > after)


def test_each_minute_is_found_without_a_look_at_the_whole_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[datetime] = []
    instant = Schedule._instant

    def counted(schedule: Schedule, local: datetime, fold: int) -> datetime:
        looked.append(local)
        return instant(schedule, local, fold)

    monkeypatch.setattr(Schedule, "_instant", counted)
    minutely = Schedule(every_minutes=1, zone=BERLIN)
    assert times(minutely, datetime(2026, 7, 1, 8, tzinfo=BERLIN), 2) == [
        "01 08:01+0200",
        "01 08:02+0200",
    ]
    assert not looked
    minutely.next(datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN))
    assert len(looked) < 500


def test_the_machine_has_a_time_zone_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import time as clock

    monkeypatch.setenv("TZ", "Europe/Berlin")
    clock.tzset()
    try:
        found = Schedule(at=(time(2, 30),)).next(datetime(2026, 7, 1, tzinfo=UTC))
        assert found == datetime(2026, 7, 1, 0, 30, tzinfo=UTC)
        hourly = Schedule(every_minutes=60)
        assert hourly.next(datetime(2026, 10, 25, 0, 1, tzinfo=UTC)) == datetime(
            2026, 10, 25, 1, tzinfo=UTC
        )
    finally:
        monkeypatch.undo()
        clock.tzset()


def test_without_a_schedule_there_is_no_next_time() -> None:
    assert Schedule(zone=UTC).next(datetime(2026, 7, 1, tzinfo=UTC)) is None


def ns(*fields: int) -> int:
    return int(datetime(*fields, tzinfo=UTC).timestamp()) * S  # type: ignore[arg-type,misc]


def test_the_first_block_of_the_hour_begins_a_session() -> None:
    rotation = Rotation(Schedule(every_minutes=60, zone=UTC), began_ns=ns(2026, 7, 1, 9, 30))
    assert not rotation.feed(ns(2026, 7, 1, 10) - 1)
    assert rotation.feed(ns(2026, 7, 1, 10))
    assert not rotation.feed(ns(2026, 7, 1, 10) + 1)
    assert rotation.feed(ns(2026, 7, 1, 14, 20)), "late, after a pause"
    assert not rotation.feed(ns(2026, 7, 1, 14, 59))
    assert rotation.feed(ns(2026, 7, 1, 15))


def test_a_clock_that_was_set_back_does_not_end_rotation() -> None:
    rotation = Rotation(Schedule(every_minutes=60, zone=UTC), began_ns=ns(2036, 7, 1, 9, 30))
    assert not rotation.feed(ns(2026, 7, 1, 9, 30))
    assert rotation.feed(ns(2026, 7, 1, 10))


def test_a_request_rotates_once() -> None:
    rotation = Rotation(Schedule(), began_ns=0)
    assert not rotation.feed(1)
    rotation.ask()
    assert rotation.feed(2)
    assert not rotation.feed(3)


def waiting(wait_s: float = 5) -> Rotation:
    """A rotation that is due."""
    rotation = Rotation(Schedule(), None, Pause(wait_s, -50), began_ns=0)
    rotation.ask()
    assert rotation.needs_level(0)
    return rotation


@pytest.mark.parametrize(
    ("levels", "after"),
    [
        ([-90, -90], 1),
        ([-20, -20, -60, -20, -60, -60], 5),  # a consonant is no pause
        ([-20, -30, -38, -41, -41], 4),  # the noise of the room
        ([-30, -38, -20, -41, -41], 4),
        ([-40, -49, -45, -60, -60], 4),
        ([-20] * 80, 40),
    ],
)
def test_a_rotation_waits_for_a_pause(levels: list[float], after: int) -> None:
    """Blocks have 0.125 s."""
    rotation = waiting()
    found = [rotation.feed(n, 0.125, level) for n, level in enumerate(levels)]
    assert found.index(True) == after
    assert not rotation.needs_level(after + 1), "once"


def test_a_rotation_need_not_wait() -> None:
    assert waiting(0).feed(0, 0.125, -20)


def test_the_next_rotation_waits_anew() -> None:
    rotation = waiting()
    assert [rotation.feed(n, 0.125, -20) for n in range(41)].index(True) == 40
    rotation.ask()
    assert not rotation.feed(60, 0.125, -20)
    assert [rotation.feed(n, 0.125, -41) for n in range(2)] == [False, True]


def test_silence_rotates_once_until_something_is_audible() -> None:
    rotation = Rotation(Schedule(), Silence(seconds=2, dbfs=-50), began_ns=0)
    assert not any(rotation.feed(n, 0.5, -90) for n in range(20)), "nothing was audible yet"
    assert not rotation.feed(20, 0.5, -20)
    assert [rotation.feed(n, 0.5, -50) for n in range(8)] == [False] * 3 + [True] + [False] * 4
    assert not rotation.feed(30, 0.5, -49)
    assert not rotation.feed(31, 1.5, -90)
    assert not rotation.feed(31, 0.1, -20), "a sound restarts the count"
    assert not rotation.feed(32, 1.9, -90)
    assert rotation.feed(33, 0.1, -90)


def test_a_day_of_hours_has_as_many_rotations() -> None:
    """Over the two days on which clocks are set, each hour has its session."""
    schedule = Schedule(every_minutes=60, zone=BERLIN)
    for day, hours in ((datetime(2026, 3, 29), 23), (datetime(2026, 10, 25), 25)):
        start = day.replace(tzinfo=BERLIN)
        end = (day + timedelta(1)).replace(tzinfo=BERLIN).astimezone(UTC)
        rotation = Rotation(schedule, began_ns=int(start.timestamp()) * S)
        begin = start.astimezone(UTC)
        minutes = int((end - begin).total_seconds()) // 60
        at = [begin + timedelta(minutes=n) for n in range(1, minutes + 1)]
        assert sum(rotation.feed(int(each.timestamp()) * S) for each in at) == hours
