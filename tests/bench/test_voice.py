"""The benchmark of voice sessions measures what it says, with real processes."""

from __future__ import annotations

import pytest

from bench.voice import cost, latency
from bench.voice.__main__ import measure_latency
from bench.voice.peer import PERIOD_S


@pytest.mark.parametrize("voice", latency.VOICES)
async def test_latency(
    voice: str, sound_packages: None, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = await measure_latency(1, [voice])
    by_turn, by_application = figures[voice]
    assert (by_turn["how"], by_application["how"]) == ("turn", "application")
    for found in by_application, by_turn:
        assert found["own"] > 100, "the emulator's first audio comes after 150 ms"
        assert found["sent"] > 0
        assert 0 < found["arrives"] < found["audible"]
        assert found["cut"] > 0
        assert found["told"] > 0
        assert 0 < found["unsent_characters"] < len(latency.TEXT) - found["late_characters"]
        assert found["stray_audio"] == 0
    assert "interrupt() to the last audible sample" in capsys.readouterr().out


@pytest.mark.process
@pytest.mark.parametrize("who", ["client", "relay", "natterjack"])
async def test_cost(who: str) -> None:
    found = await cost.measure(who, 3, PERIOD_S, settle_s=PERIOD_S)
    assert not found.skipped
    assert found.cpu_s_per_hour > 0
    assert found.first_ms["count"] >= 2
    assert found.delivered > 0.8
    assert found.errors == 0
    assert (found.broker_cpu_s_per_hour > 0) == (who != "client")
