from __future__ import annotations

from edge_capture.sources.recording.preference import Preference

KEY, OTHER = ("PulseAudio", "headset"), ("PulseAudio", "camera")


def test_a_microphone_that_stays_is_switched_to() -> None:
    preference = Preference(return_s=10, look_s=2)
    seen = [preference.returned(KEY, float(now)) for now in range(0, 14, 2)]
    assert seen == [False] * 5 + [True] * 2


def test_a_microphone_that_comes_and_goes_is_not() -> None:
    preference = Preference(return_s=10, look_s=2)
    assert not any(preference.returned(KEY if now % 8 else None, now) for now in range(0, 60, 2))
    assert not any(preference.returned((KEY, OTHER)[now % 4 == 0], now) for now in range(60, 90, 2))
    # It may have been away while nobody looked.
    assert not any(preference.returned(KEY, now) for now in (100, 108, 116, 124))


def test_a_microphone_that_does_not_work_is_avoided_for_longer_each_time() -> None:
    preference = Preference(return_s=0, look_s=2)
    assert preference.returned(KEY, 0)
    for now, avoided_s in ((0, 30), (100, 60), (300, 120), (10_000, 240)):
        preference.failed(KEY, now)
        assert preference.avoided(now + avoided_s - 1) == {KEY}
        assert not preference.returned(KEY, now + avoided_s - 1)
        assert preference.returned(KEY, now + avoided_s + 1)
    for _ in range(20):
        preference.failed(KEY, 20_000)
    assert not preference.avoided(20_000 + 3601)
    preference.worked(KEY)
    preference.failed(KEY, 30_000)
    assert not preference.avoided(30_031)
