"""Options, settings and the query of a stream."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from natterjack.emulators.deepgram.flux_speak_query import parse
from natterjack.plugin.errors import PluginError, RequestRefused
from natterjack.plugin.voice import VoiceStreamRequest
from worker.voices.deepgram_flux_voice import DeepgramFluxVoice, options
from worker.voices.deepgram_flux_voice.settings import DeepgramFluxVoiceSettings


def query(
    given: dict[str, Any] | None = None, /, request: dict[str, Any] | None = None, **settings: Any
) -> list[tuple[str, str]]:
    values: dict[str, Any] = {"encoding": "linear16", "sample_rate": 24_000, **(request or {})}
    return options.query(
        DeepgramFluxVoiceSettings(**settings),
        VoiceStreamRequest(session_id="s", options=given or {}, **values),
    )


def test_the_defaults_send_no_more_than_is_needed() -> None:
    assert query() == [
        ("model", "flux-haley-en"), ("encoding", "linear16"), ("sample_rate", "24000"),
    ]  # fmt: skip


def test_options_win_over_the_session_and_the_settings() -> None:
    settings: dict[str, Any] = {
        "flux_voice_model": "flux-kit-en",
        "flux_voice_speed": 0.9,
        "flux_voice_expressivity": 1,
        "flux_voice_tag": "a, b",
        "flux_voice_mip_opt_out": True,
    }
    assert query(**settings)[0] == ("model", "flux-kit-en")
    assert query(**settings)[3:] == [
        ("speed", "0.9"), ("expressivity", "1"), ("mip_opt_out", "true"), ("tag", "a"),
        ("tag", "b"),
    ]  # fmt: skip
    session = {"model": "flux-alexis-en", "language": "en-GB"}
    assert query(request=session, **settings)[0] == ("model", "flux-alexis-en")
    given = {
        "model": "flux-haley-en", "speed": 1.15, "expressivity": 0, "tag": "c",
        "mip_opt_out": False,
    }  # fmt: skip
    found = query(given, session, **settings)
    assert found[0] == ("model", "flux-haley-en")
    assert found[3:] == [("speed", "1.15"), ("tag", "c")]
    assert query({"speed": 1.0}, **settings)[3] == ("expressivity", "1"), "1 is not sent"


@pytest.mark.parametrize("rate", options.SAMPLE_RATES)
def test_the_emulator_accepts_every_query(rate: int) -> None:
    found = query({"speed": 1.5, "expressivity": -2, "tag": ["a"]}, {"sample_rate": rate})
    given: dict[str, list[str]] = {}
    for name, value in found:
        given.setdefault(name, []).append(value)
    assert parse(given).sample_rate == rate


def test_every_step_of_speed_is_one() -> None:
    for step in range(50, 151, 5):
        found = query({"speed": step / 100})
        assert found[3:] == ([] if step == 100 else [("speed", f"{step / 100:g}")])


@pytest.mark.parametrize(
    "given",
    [
        {"model": "aura-2-thalia-en"},
        {"model": "flux-general"},
        {"model": "flux-haley-en&x=1"},
        {"speed": 0.45},
        {"speed": 1.55},
        {"speed": 1.01},
        {"speed": "1"},
        {"expressivity": 3},
        {"expressivity": 0.5},
        {"tag": ""},
        {"container": "none"},
        {"encoding": "mulaw"},
    ],
)
def test_bad_options_are_refused_by_name(given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(RequestRefused, match=value if name == "model" else name) as caught:
        query(given)
    assert caught.value.cause == "request"


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        ({"language": "de"}, "'de'"),
        ({"sample_rate": 22_050}, "22050"),
        ({"encoding": "mulaw", "sample_rate": 8000}, "mulaw"),
    ],
)
def test_bad_requests_are_refused(request_: dict[str, Any], what: str) -> None:
    with pytest.raises(RequestRefused, match=what):
        query({}, request_)


@pytest.mark.parametrize(
    "changes", [{"speed": 3}, {"speed": 1.01}, {"expressivity": 1}, {"speed": "1"}, {"speed": None}]
)
def test_bad_changes_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=next(iter(changes))):
        options.parse_changes(changes)


def test_good_changes() -> None:
    assert options.parse_changes({"speed": 0.1 + 0.8}) == {"speed": 0.9}
    assert options.parse_changes({"speed": 1}) == {"speed": 1.0}
    assert options.parse_changes({}) == {}


def test_settings() -> None:
    with pytest.raises(ValidationError, match=r"steps of 0\.05"):
        DeepgramFluxVoiceSettings(flux_voice_speed=1.01)
    with pytest.raises(PluginError, match="DEEPGRAM_API_KEY"):
        DeepgramFluxVoice(DeepgramFluxVoiceSettings(api_key=None))
    voice = DeepgramFluxVoice(
        DeepgramFluxVoiceSettings(
            api_key="k",
            flux_voice_phrase_characters=500,
            flux_voice_max_seconds=600,
            flux_voice_price_per_1000_characters=0.05,
        )
    )
    capabilities = voice.capabilities
    assert capabilities.max_phrase_characters == 500
    assert capabilities.max_seconds == 600
    assert capabilities.price_per_1000_characters == 0.05
    assert DeepgramFluxVoice.capabilities.max_seconds == 3600
