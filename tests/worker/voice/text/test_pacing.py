"""Keeping within a provider's limits."""

from __future__ import annotations

from natterjack.plugin.voice import VoiceCapabilities
from worker.voice.text.pacing import Pacer


def test_without_limits_nothing_waits() -> None:
    pacer = Pacer(VoiceCapabilities())
    for _ in range(100):
        pacer.sent(2000, 1.0)
    assert pacer.wait(2000, 1.0) == 0


def test_phrases_and_characters_of_the_last_minute_count() -> None:
    pacer = Pacer(VoiceCapabilities(characters_per_minute=100, flushes_per_minute=3))
    pacer.sent(60, 10.0)
    assert pacer.wait(40, 11.0) == 0
    assert pacer.wait(41, 11.0) == 59.0
    pacer.sent(10, 12.0)
    pacer.sent(10, 13.0)
    assert pacer.wait(1, 14.0) == 56.0, "three phrases"
    assert pacer.wait(80, 70.5) == 0


def test_a_phrase_above_the_limit_is_sent_alone() -> None:
    pacer = Pacer(VoiceCapabilities(characters_per_minute=100))
    assert pacer.wait(500, 1.0) == 0
    pacer.sent(500, 1.0)
    assert pacer.wait(1, 2.0) == 59.0
