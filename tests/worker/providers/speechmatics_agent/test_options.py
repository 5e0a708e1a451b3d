"""Building StartRecognition from settings, a session's fields and its options; documentation of
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import worker.providers.speechmatics_agent as package
from natterjack.audio import AudioFormat
from natterjack.emulators.speechmatics.spec import AGENT as spec
from natterjack.errors import UsageError
from natterjack.plugin.errors import RequestRefused
from natterjack.settings import load
from worker.providers.speechmatics import control
from worker.providers.speechmatics_agent import SpeechmaticsAgentProvider
from worker.providers.speechmatics_agent.options import CONFIGURABLE, Options, recognition
from worker.providers.speechmatics_agent.settings import SpeechmaticsAgentSettings

from ..emulated.streams import request

README = (Path(package.__file__).parent / "README.md").read_text()


def started(settings: dict[str, Any] | None = None, **session: Any) -> dict[str, Any]:
    """StartRecognition as the server parses it; checked against the specification."""
    made = recognition(SpeechmaticsAgentSettings(**settings or {}), request(**session))
    message: dict[str, Any] = json.loads(control.encode_start(made))
    assert spec.problems(message) == []
    return message


def config(settings: dict[str, Any] | None = None, **session: Any) -> dict[str, Any]:
    found: dict[str, Any] = started(settings, **session)["transcription_config"]
    return found


def test_defaults() -> None:
    assert started() == {
        "message": "StartRecognition",
        "audio_format": {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000},
        "transcription_config": {
            "language": "en",
            "model": "linden-1",
            "enable_partials": True,
            "emit_sentences": True,
            "diarization": "none",
        },
        "turn_config": {"turn_detection_mode": "vad"},
    }


def test_only_linear16_is_accepted() -> None:
    made = recognition(SpeechmaticsAgentSettings(), request(AudioFormat("linear16", 8000, 1)))
    assert made.audio_format["sample_rate"] == 8000
    with pytest.raises(RequestRefused, match="mulaw"):
        recognition(SpeechmaticsAgentSettings(), request(AudioFormat("mulaw", 8000, 1)))


SPEAKER = {"label": "Agent", "speaker_identifiers": ["AAEC"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"language": "de"}, {"language": "de"}),
        ({"domain": "medical"}, {"domain": "medical"}),
        ({"output_locale": "en-AU"}, {"output_locale": "en-AU"}),
        ({"enable_partials": False}, {"enable_partials": False}),
        ({"emit_sentences": False}, {"emit_sentences": False}),
        (
            {"diarization": "speaker", "speaker_diarization_config": {"speakers": [SPEAKER]}},
            {"diarization": "speaker", "speaker_diarization_config": {"speakers": [SPEAKER]}},
        ),
        (
            {"transcript_filtering_config": {"replacements": [{"from": "a", "to": "b"}]}},
            {"transcript_filtering_config": {"replacements": [{"from": "a", "to": "b"}]}},
        ),
    ],
)
def test_options(options: dict[str, Any], expected: dict[str, Any]) -> None:
    found = config(options=options)
    assert {name: found[name] for name in expected} == expected


def test_the_session_and_its_options_override_the_settings() -> None:
    settings = {
        "agent_language": "fr",
        "agent_domain": "finance",
        "agent_diarization": "speaker",
        "agent_max_speakers": 3,
    }
    found = config(settings)
    assert (found["language"], found["domain"]) == ("fr", "finance")
    assert found["speaker_diarization_config"] == {"max_speakers": 3}
    found = config(settings, language="en-US", keyterms=("gnocchi",))
    assert (found["language"], found["output_locale"]) == ("en", "en-US")
    assert found["additional_vocab"] == ["gnocchi"]
    words = [{"content": "gnocchi", "sounds_like": ["nyokki"]}]
    options = {"language": "de", "additional_vocab": words}
    found = config(settings, language="en-US", keyterms=("gnocchi",), options=options)
    assert (found["language"], found["additional_vocab"]) == ("de", words)


@pytest.mark.parametrize(
    "options",
    [
        {"max_delay": 1.0},
        {"enable_entities": True},
        {"punctuation_overrides": {}},
        {"conversation_config": {}},
        {"operating_point": "enhanced"},
        {"diarization": "channel"},
        {"emit_sentences": "true"},
        {"speaker_diarization_config": {"max_speakers": 2}},
        {"turn_detection_mode": "external"},
    ],
)
def test_what_only_the_older_api_has_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=next(iter(options))):
        config(options=options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URL", "https://eu2.rt.speechmatics.com/v2/agent"),
        ("TURN_DETECTION_MODE", "smart"),
        ("MAX_SPEAKERS", "1"),
        ("CATCH_UP_RATE", "0.5"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SPEECHMATICS_AGENT_{name}", value)
    with pytest.raises(UsageError, match=f"SPEECHMATICS_AGENT_{name}"):
        load(SpeechmaticsAgentSettings)


def test_capabilities_follow_the_settings() -> None:
    settings = SpeechmaticsAgentSettings(
        api_key=SecretStr("key"),
        agent_enable_partials=False,
        agent_turn_detection_mode="external",
        agent_price_per_hour=1.5,
    )
    capabilities = SpeechmaticsAgentProvider(settings).capabilities
    assert (capabilities.interims, capabilities.finalize) == (False, True)
    assert capabilities.price_per_hour == 1.5
    assert not SpeechmaticsAgentProvider.capabilities.finalize


def test_the_readme_names_all_settings_and_options() -> None:
    for name in SpeechmaticsAgentSettings.model_fields:
        assert f"`SPEECHMATICS_{name.upper()}`" in README
    for name in {*Options.model_fields, *CONFIGURABLE}:
        assert f"`{name}`" in README


def test_the_readme_names_all_parts_of_the_specification() -> None:
    schemas = spec.document()["components"]["schemas"]
    fields = set(schemas["TranscriptionConfig"]["properties"])
    diarization = schemas["TranscriptionConfig"]["properties"]["speaker_diarization_config"]
    fields |= set(diarization["properties"])
    fields |= set(schemas["StartRecognition"]["properties"])
    fields |= {*spec.messages("publish"), *spec.messages("subscribe")}
    for name in fields:
        assert f"`{name}`" in README, f"{name} is listed neither as supported nor as unsupported"
