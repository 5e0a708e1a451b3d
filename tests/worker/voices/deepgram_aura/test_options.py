"""The query of a stream, from settings, the session and its options."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.emulators.deepgram.speak_query import VOICES, parse
from natterjack.plugin import PluginError, RequestRefused, VoiceStreamRequest
from worker.voices.deepgram_aura import DeepgramAura
from worker.voices.deepgram_aura.options import query
from worker.voices.deepgram_aura.settings import DeepgramSpeakSettings


def asked(settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, str]:
    """The query, which the emulator must accept."""
    values = {"session_id": "s", "encoding": "linear16", "sample_rate": 24_000, **changes}
    found = query(DeepgramSpeakSettings(**settings or {}), VoiceStreamRequest(**values))
    parse({name: [value] for name, value in found})
    return dict(found)


def test_defaults() -> None:
    assert asked() == {
        "model": "aura-2-thalia-en", "encoding": "linear16", "sample_rate": "24000",
    }  # fmt: skip


def test_an_option_wins_over_the_session_which_wins_over_the_settings() -> None:
    settings = {"speak_model": "aura-luna-en", "speak_mip_opt_out": True, "speak_speed": 1.2}
    assert asked(settings)["model"] == "aura-luna-en"
    assert asked(settings, model="aura-2-zeus-en")["model"] == "aura-2-zeus-en"
    options = {"model": "aura-2-hector-fr", "mip_opt_out": False}
    found = asked(settings, model="aura-2-zeus-en", options=options)
    assert found["model"] == "aura-2-hector-fr"
    assert "mip_opt_out" not in found
    assert asked(settings)["mip_opt_out"] == "true"


def test_every_voice_is_known() -> None:
    for voice in VOICES:
        assert asked(model=voice, language=voice[-2:])["model"] == voice


@pytest.mark.parametrize(
    ("model", "speed", "sent"),
    [
        ("aura-2-thalia-en", 0.7, "0.7"),
        ("aura-2-javier-es", 0.9, "0.9"),
        ("aura-2-javier-es", 0.8, None),
        ("aura-2-hector-fr", 1.1, None),
        ("aura-luna-en", 1.1, None),
    ],
)
def test_speed(model: str, speed: float, sent: str | None) -> None:
    """As a setting it holds for the voices that have it; as an option it must fit the voice."""
    assert asked({"speak_speed": speed}, model=model).get("speed") == sent
    if sent is not None:
        assert asked(model=model, options={"speed": speed})["speed"] == sent
        return
    with pytest.raises(RequestRefused, match="speed"):
        asked(model=model, options={"speed": speed})


def test_the_language_is_that_of_the_voice() -> None:
    assert asked(language="en-US")
    assert asked(language="en", model="aura-2-selena-es"), "a voice of two languages"
    for language, model in (("es", "aura-2-thalia-en"), ("en", "aura-2-sirio-es")):
        with pytest.raises(RequestRefused, match=model):
            asked(language=language, model=model)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "flux-haley-en"},
        {"model": "thalia"},
        {"encoding": "mulaw", "sample_rate": 8000},
        {"sample_rate": 44_100},
        {"options": {"tag": "x"}},
        {"options": {"speed": 2}},
        {"options": {"speed": "1"}},
        {"options": {"container": "none"}},
    ],
    ids=str,
)
def test_what_is_refused_here(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as caught:
        asked(**changes)
    assert caught.value.cause == "request"


def test_a_missing_key_is_named() -> None:
    with pytest.raises(PluginError, match="DEEPGRAM_API_KEY"):
        DeepgramAura(DeepgramSpeakSettings())


def test_the_limits_are_those_of_the_settings() -> None:
    settings = DeepgramSpeakSettings(
        api_key=SecretStr("k"), speak_characters_per_minute=9000, speak_flushes_per_minute=60,
        speak_max_seconds=600, speak_price_per_1000_characters=0.027,
    )  # fmt: skip
    caps = DeepgramAura(settings).capabilities
    assert (caps.characters_per_minute, caps.flushes_per_minute) == (9000, 60)
    assert (caps.max_seconds, caps.price_per_1000_characters) == (600, 0.027)
    assert DeepgramAura.capabilities.characters_per_minute == 2400
