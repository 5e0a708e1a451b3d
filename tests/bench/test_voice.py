"""The benchmark of voice sessions measures what it says, with real processes."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from bench.loudspeaker import RATE
from bench.voice import cost, latency, picture
from bench.voice.__main__ import measure_latency
from bench.voice.peer import PERIOD_S
from natterjack.emulators import tones
from natterjack.emulators.spoken import tone_words


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


def test_a_picture_marks_what_was_heard() -> None:
    text = picture.TEXT.split()
    audio = tones.encode(tone_words(picture.TEXT)[:4], RATE, lead_seconds=1, tail_seconds=3)
    decoder = tones.Decoder(RATE)
    heard = [*decoder.feed(audio), *decoder.flush()]
    first, last = heard[0].start, heard[-1].end
    recording = picture.Recording(
        np.frombuffer(audio, "<i2"), first, last - 0.01, last - 0.005, last, heard,
        " ".join(text[:4]), " ".join(text[4:]), False,
    )  # fmt: skip
    drawn = ElementTree.fromstring(picture.svg(recording))
    words = [one for one in drawn.iter() if (one.get("class") or "").startswith("word ")]
    assert [one.text for one in words] == text[: len(words)]
    kinds = [(one.get("class") or "").split()[1] for one in words]
    assert kinds == ["heard"] * 4 + ["lost"] * (len(words) - 4)
    assert len(words) > 4
    assert any("last audible sample, 10 ms" in (one.text or "") for one in drawn.iter())
