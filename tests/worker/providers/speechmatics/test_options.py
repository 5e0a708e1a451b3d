"""Building StartRecognition from settings, a session's fields and its options; documentation of
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import worker.providers.speechmatics as package
from natterjack.audio import AudioFormat
from natterjack.emulators.speechmatics.spec import REALTIME as spec
from natterjack.errors import UsageError
from natterjack.plugin.errors import PluginError, RequestRefused
from natterjack.settings import load
from worker.providers.speechmatics import SpeechmaticsProvider, control
from worker.providers.speechmatics.options import CONFIGURABLE, Options, recognition
from worker.providers.speechmatics.settings import SpeechmaticsSettings

from ..emulated.streams import request
from ..emulated.table import SPEECHMATICS

SECRET = SPEECHMATICS.secret

README = (Path(package.__file__).parent / "README.md").read_text()


def started(
    settings: dict[str, Any] | None = None,
    audio_format: AudioFormat | None = None,
    **session: Any,
) -> dict[str, Any]:
    """StartRecognition as the server parses it; checked against the specification."""
    asked = request(audio_format, **session) if audio_format else request(**session)
    made = recognition(SpeechmaticsSettings(**settings or {}), asked)
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
            "model": "enhanced",
            "max_delay": 2.0,
            "max_delay_mode": "flexible",
            "enable_partials": True,
            "enable_entities": True,
            "diarization": "none",
            "conversation_config": {"end_of_utterance_silence_trigger": 0.6},
        },
    }


@pytest.mark.parametrize(
    "session", [{"model": "linden-1"}, {"options": {"model": "linden-1"}}], ids=str
)
def test_the_model_of_the_other_provider_is_refused_with_its_name(session: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="speechmatics-agent"):
        started(**session)


def test_audio_formats() -> None:
    made = started(audio_format=AudioFormat("mulaw", 8000, 1))
    assert made["audio_format"] == {"type": "raw", "encoding": "mulaw", "sample_rate": 8000}
    with pytest.raises(RequestRefused, match="alaw"):
        started(audio_format=AudioFormat("alaw", 8000, 1))


SPEAKER = {"label": "Agent", "speaker_identifiers": ["AAEC"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"language": "de"}, {"language": "de"}),
        ({"model": "standard"}, {"model": "standard"}),
        ({"operating_point": "standard"}, {"operating_point": "standard", "model": None}),
        ({"domain": "medical"}, {"domain": "medical"}),
        ({"output_locale": "en-GB"}, {"output_locale": "en-GB"}),
        (
            {"additional_vocab": ["toad", {"content": "CEO", "sounds_like": ["see oh"]}]},
            {"additional_vocab": ["toad", {"content": "CEO", "sounds_like": ["see oh"]}]},
        ),
        ({"additional_vocab": [{"content": "CEO"}]}, {"additional_vocab": [{"content": "CEO"}]}),
        ({"diarization": "speaker"}, {"diarization": "speaker"}),
        (
            {
                "diarization": "speaker",
                "speaker_diarization_config": {
                    "max_speakers": 2,
                    "speaker_sensitivity": 1,
                    "prefer_current_speaker": True,
                    "speakers": [SPEAKER],
                },
            },
            {
                "speaker_diarization_config": {
                    "max_speakers": 2,
                    "speaker_sensitivity": 1,
                    "prefer_current_speaker": True,
                    "speakers": [SPEAKER],
                }
            },
        ),
        ({"max_delay": 0.7}, {"max_delay": 0.7}),
        ({"max_delay_mode": "fixed"}, {"max_delay_mode": "fixed"}),
        ({"enable_partials": False}, {"enable_partials": False}),
        ({"enable_entities": False}, {"enable_entities": False}),
        (
            {"audio_filtering_config": {"volume_threshold": 3.4}},
            {"audio_filtering_config": {"volume_threshold": 3.4}},
        ),
        (
            {
                "transcript_filtering_config": {
                    "remove_disfluencies": True,
                    "replacements": [{"from": "hello", "to": "hi"}],
                }
            },
            {
                "transcript_filtering_config": {
                    "remove_disfluencies": True,
                    "replacements": [{"from": "hello", "to": "hi"}],
                }
            },
        ),
        (
            {"punctuation_overrides": {"permitted_marks": ["all"], "sensitivity": 0.2}},
            {"punctuation_overrides": {"permitted_marks": ["all"], "sensitivity": 0.2}},
        ),
        (
            {"punctuation_overrides": {"permitted_marks": []}},
            {"punctuation_overrides": {"permitted_marks": []}},
        ),
        (
            {"conversation_config": {"end_of_utterance_silence_trigger": 0}},
            {"conversation_config": {"end_of_utterance_silence_trigger": 0}},
        ),
    ],
)
def test_options(options: dict[str, Any], expected: dict[str, Any]) -> None:
    found = config(options=options)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"translation_config": {"target_languages": ["es"]}},
        {"audio_events_config": {"types": ["music"]}},
        {"channel_diarization_labels": ["a", "b"]},
        {"model": "nova-3"},
        {"model": 3},
        {"operating_point": "standard", "model": "standard"},
        {"language": ""},
        {"additional_vocab": "toad"},
        {"additional_vocab": [""]},
        {"additional_vocab": [{"content": "CEO", "sounds_like": []}]},
        {"additional_vocab": [{"sounds_like": ["see oh"]}]},
        {"diarization": "channel"},
        {"diarization": True},
        {"speaker_diarization_config": {"max_speakers": 1}, "diarization": "speaker"},
        {"speaker_diarization_config": {"max_speakers": 2}},
        {
            "speaker_diarization_config": {
                "speakers": [{"label": "S1", "speaker_identifiers": ["a"]}]
            }
        },
        {
            "speaker_diarization_config": {
                "speakers": [{"label": " Agent", "speaker_identifiers": ["a"]}]
            }
        },
        {
            "speaker_diarization_config": {
                "speakers": [{**SPEAKER, "speaker_identifiers": ["x"] * 51}]
            }
        },
        {"max_delay": 0.5},
        {"max_delay": 4.5},
        {"max_delay": "1"},
        {"max_delay_mode": "loose"},
        {"enable_partials": "true"},
        {"enable_entities": 1},
        {"audio_filtering_config": {"volume_threshold": 101}},
        {"audio_filtering_config": {}},
        {"transcript_filtering_config": {"replacements": [{"from": "a"}]}},
        {"punctuation_overrides": {"permitted_marks": ["..."]}},
        {"punctuation_overrides": {"sensitivity": 2}},
        {"punctuation_overrides": {"unknown": 2}},
        {"conversation_config": {"end_of_utterance_silence_trigger": 2.5}},
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=f"'{next(iter(options))}") as refused:
        recognition(SpeechmaticsSettings(), request(options=options))
    assert refused.value.cause == "request"


def test_options_override_the_session_which_overrides_the_settings() -> None:
    settings: dict[str, Any] = {"model": "standard", "language": "fr"}
    assert config(settings)["model"] == "standard"
    assert config(settings)["language"] == "fr"
    session: dict[str, Any] = {"model": "melia-1", "language": "es"}
    assert config(settings, **session)["model"] == "melia-1"
    assert config(settings, **session)["language"] == "es"
    session["options"] = {"model": "enhanced", "language": "pt"}
    assert config(settings, **session)["model"] == "enhanced"
    assert config(settings, **session)["language"] == "pt"
    with pytest.raises(RequestRefused, match="'model'"):
        config(model="nova-3")


def test_the_older_name_of_the_model() -> None:
    settings = {"operating_point": "standard"}
    assert config(settings)["operating_point"] == "standard"
    assert "model" not in config(settings)
    assert config(settings, model="enhanced")["operating_point"] == "enhanced"


@pytest.mark.parametrize(
    ("tag", "language", "locale"),
    [
        ("en", "en", None),
        ("en-US", "en", "en-US"),
        ("EN-gb", "en", "en-GB"),
        ("en-IN", "en", None),
        ("de-AT", "de", None),
        ("cmn_en", "cmn_en", None),
        ("multi", "multi", None),
    ],
)
def test_languages(tag: str, language: str, locale: str | None) -> None:
    found = config(language=tag)
    assert (found["language"], found.get("output_locale")) == (language, locale)
    assert config({"output_locale": "en-AU"}, language=tag)["output_locale"] == "en-AU"


def test_keyterms_are_vocabulary() -> None:
    options = {"additional_vocab": ["frog", {"content": "toad", "sounds_like": ["tode"]}]}
    found = config(keyterms=("natter jack", "toad", "natter jack", ""), options=options)
    assert found["additional_vocab"] == [
        "natter jack",
        {"content": "toad", "sounds_like": ["tode"]},
        "frog",
    ]


def test_settings_reach_the_wire() -> None:
    found = config(
        {
            "domain": "finance",
            "max_delay_seconds": 1.2,
            "max_delay_mode": "fixed",
            "enable_partials": False,
            "enable_entities": False,
            "diarization": "speaker",
            "max_speakers": 3,
            "end_of_utterance_silence_seconds": 0,
        },
        options={"speaker_diarization_config": {"speaker_sensitivity": 0.4}},
    )
    assert found == {
        "language": "en",
        "model": "enhanced",
        "domain": "finance",
        "max_delay": 1.2,
        "max_delay_mode": "fixed",
        "enable_partials": False,
        "enable_entities": False,
        "diarization": "speaker",
        "speaker_diarization_config": {"max_speakers": 3, "speaker_sensitivity": 0.4},
        "conversation_config": {"end_of_utterance_silence_trigger": 0},
    }


# ---- settings -------------------------------------------------------------------------------


def test_temporary_keys_need_an_api_key() -> None:
    with pytest.raises(PluginError, match="SPEECHMATICS_API_KEY"):
        SpeechmaticsProvider(
            SpeechmaticsSettings(temporary_key=SecretStr("jwt"), temporary_keys=True)
        )
    SpeechmaticsProvider(SpeechmaticsSettings(temporary_key=SecretStr("jwt")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URL", "https://eu2.rt.speechmatics.com/v2"),
        ("MANAGEMENT_URL", "mp.speechmatics.com"),
        ("MODEL", "nova-3"),
        ("MAX_DELAY_SECONDS", "5"),
        ("END_OF_UTTERANCE_SILENCE_SECONDS", "3"),
        ("DIARIZATION", "channel"),
        ("TEMPORARY_KEY_TTL_SECONDS", "59"),
        ("PING_SECONDS", "180"),
        ("CATCH_UP_RATE", "0.5"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SPEECHMATICS_{name}", value)
    with pytest.raises(UsageError, match=f"SPEECHMATICS_{name}"):
        load(SpeechmaticsSettings)


@pytest.mark.parametrize(
    ("setting", "addresses"),
    [
        ({"management_url": "http://localhost:1"}, ["http://localhost:1"]),
        ({}, []),
    ],
)
def test_an_unencrypted_management_address_logs_a_warning(
    setting: dict[str, Any], addresses: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    SpeechmaticsProvider(SpeechmaticsSettings(api_key=SecretStr(SECRET), **setting))
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == addresses
    assert SECRET not in caplog.text


def test_a_temporary_key_is_not_shown() -> None:
    settings = SpeechmaticsSettings(api_key=SecretStr(SECRET), temporary_key=SecretStr(SECRET))
    assert SECRET not in repr(settings) + settings.model_dump_json()


def test_capabilities_follow_the_settings() -> None:
    settings = SpeechmaticsSettings(
        api_key=SecretStr(SECRET),
        enable_partials=False,
        price_per_hour=1.5,
        catch_up_rate=2,
    )
    capabilities = SpeechmaticsProvider(settings).capabilities
    assert not capabilities.interims
    assert (capabilities.price_per_hour, capabilities.catch_up_rate) == (1.5, 2)
    assert SpeechmaticsProvider.capabilities.interims


# ---- the README -----------------------------------------------------------------------------


def test_the_readme_names_all_settings_and_options() -> None:
    for name in SpeechmaticsSettings.model_fields:
        assert f"`SPEECHMATICS_{name.upper()}`" in README
    for name in {*Options.model_fields, *CONFIGURABLE}:
        assert f"`{name}`" in README


def test_the_readme_lists_unsupported_parts() -> None:
    schemas = spec.document()["components"]["schemas"]
    fields = set(schemas["TranscriptionConfig"]["properties"])
    fields |= set(schemas["SpeakerDiarizationConfig"]["properties"])
    fields |= set(schemas["StartRecognition"]["properties"])
    fields |= {*spec.messages("publish"), *spec.messages("subscribe")}
    for name in fields:
        assert f"`{name}`" in README, f"{name} is listed neither as supported nor as unsupported"
