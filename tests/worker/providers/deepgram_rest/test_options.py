"""Building the query for recordings from options and settings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.emulators.deepgram.rest import parse
from natterjack.errors import UsageError
from natterjack.plugin.errors import RequestRefused
from natterjack.settings import load
from tests.emulators.test_deepgram_rest import check_parameters
from worker.providers.deepgram_rest import DeepgramRestProvider
from worker.providers.deepgram_rest.options import Options, plan
from worker.providers.deepgram_rest.settings import DeepgramRestSettings

from ..emulated.streams import request

STEREO = AudioFormat("linear16", 16000, 2)


def query(settings: DeepgramRestSettings | None = None, **changes: Any) -> dict[str, list[str]]:
    """The query by name; checked against the specification and the emulator."""
    found: dict[str, list[str]] = {}
    for name, value in plan(settings or DeepgramRestSettings(), request(**changes)).query:
        found.setdefault(name, []).append(value)
    check_parameters(found)
    parse(found)
    return found


def test_defaults() -> None:
    assert query() == {"model": ["nova-3"], "smart_format": ["true"]}


def test_settings() -> None:
    settings = DeepgramRestSettings(
        model="nova-2",
        language="de",
        smart_format=False,
        punctuate=True,
        diarize=True,
        filler_words=True,
        numerals=True,
        redact="pci, numbers",
        tag="a,b",
        mip_opt_out=True,
    )
    on = ["true"]
    assert query(settings) == {
        "model": ["nova-2"],
        "language": ["de"],
        **dict.fromkeys(["punctuate", "filler_words", "numerals", "mip_opt_out", "diarize"], on),
        "redact": ["pci", "numbers"],
        "tag": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"model": "nova-2"}, {"model": ["nova-2"]}),
        ({"version": "latest"}, {"version": ["latest"]}),
        ({"language": "fr"}, {"language": ["fr"]}),
        ({"detect_language": True}, {"detect_language": ["true"]}),
        ({"detect_language": ["en", "de"]}, {"detect_language": ["en", "de"]}),
        ({"smart_format": False}, {"smart_format": None}),
        ({"punctuate": True}, {"punctuate": ["true"]}),
        ({"keyterm": ["natter jack", "toad"]}, {"keyterm": ["natter jack", "toad"]}),
        ({"model": "nova-2", "keywords": "toad:2"}, {"keywords": ["toad:2"]}),
        ({"replace": "toad:natterjack"}, {"replace": ["toad:natterjack"]}),
        ({"diarize_model": "v2"}, {"diarize_model": ["v2"]}),
        ({"measurements": True, "dictation": True}, {"measurements": ["true"]}),
        ({"profanity_filter": True}, {"profanity_filter": ["true"]}),
        ({"redact": True}, {"redact": ["true"]}),
        ({"redact": ["pii", "pci"]}, {"redact": ["pii", "pci"]}),
        ({"tag": ["x"], "extra": "job:7"}, {"tag": ["x"], "extra": ["job:7"]}),
        ({"endpointing": 500, "interim_results": False}, {"endpointing": None}),
        ({"channels": 1, "multichannel": True}, {"multichannel": None}),
    ],
)
def test_options(options: dict[str, Any], sent: dict[str, list[str] | None]) -> None:
    found = query(options=options)
    assert {name: found.get(name) for name in sent} == sent


def test_options_override_the_session_which_overrides_the_settings() -> None:
    settings = DeepgramRestSettings(model="nova", language="de", tag="t")
    assert query(settings, model="nova-2", language="fr")["model"] == ["nova-2"]
    options = {"model": "nova-3", "language": "nl", "tag": "u"}
    found = query(settings, model="nova-2", language="fr", options=options)
    assert (found["model"], found["language"], found["tag"]) == (["nova-3"], ["nl"], ["u"])


def test_detection_is_for_sessions_without_a_language() -> None:
    settings = DeepgramRestSettings(detect_language=True)
    assert query(settings)["detect_language"] == ["true"]
    assert query(settings, language="de") == {
        "model": ["nova-3"],
        "smart_format": ["true"],
        "language": ["de"],
    }
    assert query(settings, options={"detect_language": False}).keys() == {"model", "smart_format"}


def test_keyterms_are_sent_as_the_model_takes_them() -> None:
    assert query(keyterms=("a", "b"))["keyterm"] == ["a", "b"]
    assert query(keyterms=("a",), model="nova-2")["keywords"] == ["a"]


def test_several_channels() -> None:
    settings = DeepgramRestSettings(multichannel=True)
    assert query(settings, audio_format=STEREO)["multichannel"] == ["true"]
    assert plan(settings, request(STEREO)).channels == 2
    assert plan(DeepgramRestSettings(), request(STEREO)).channels == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"summarize": True}, "summarize"),
        ({"callback": "https://example.org"}, "callback"),
        ({"smart_format": "true"}, "smart_format"),
        ({"redact": ["ssn"]}, "redact"),
        ({"diarize_model": "v3"}, "diarize_model"),
        ({"diarize_model": "v1", "diarize": True}, "diarize_model"),
        ({"keywords": ["a"]}, "keywords"),
        ({"keyterm": ["a"], "model": "nova-2"}, "keyterm"),
        ({"detect_language": True, "language": "de"}, "detect_language"),
        ({"tag": "x" * 129}, "tag"),
        ({"extra": "no colon"}, "extra"),
        ({"channels": 2}, "channels"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestRefused, match=named) as caught:
        query(options=options)
    assert (caught.value.provider, caught.value.cause) == ("deepgram-rest", "request")


def test_every_option_is_a_parameter_of_the_specification() -> None:
    for name in set(Options.model_fields) - {"channels"}:  # of the audio, for a check of ours
        check_parameters({name: ["true"]}, only_names=True)


# ---- settings -------------------------------------------------------------------------------


def test_key_and_address_are_shared_with_the_streaming_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPGRAM_API_KEY", "shared")
    monkeypatch.setenv("DEEPGRAM_URL", "wss://api.eu.deepgram.com/")
    monkeypatch.setenv("DEEPGRAM_MODEL", "not-shared")
    settings = load(DeepgramRestSettings)
    assert settings.api_key == SecretStr("shared")
    assert settings.url == "https://api.eu.deepgram.com"
    assert settings.model == "nova-3"
    monkeypatch.setenv("DEEPGRAM_REST_API_KEY", "own")
    monkeypatch.setenv("DEEPGRAM_REST_URL", "http://127.0.0.1:80")
    settings = load(DeepgramRestSettings)
    assert settings.api_key == SecretStr("own")
    assert settings.url == "http://127.0.0.1:80"


@pytest.mark.parametrize("url", ["api.deepgram.com", "ftp://x", "https://"])
def test_a_bad_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPGRAM_REST_URL", url)
    with pytest.raises(UsageError, match="https://"):
        load(DeepgramRestSettings)


def test_capabilities_follow_the_settings() -> None:
    plain = DeepgramRestProvider(DeepgramRestSettings(api_key=SecretStr("k")))
    assert plain.capabilities == DeepgramRestProvider.capabilities
    settings = DeepgramRestSettings(api_key=SecretStr("k"), multichannel=True, catch_up_rate=2)
    special = DeepgramRestProvider(settings).capabilities
    assert (special.max_channels, special.catch_up_rate) == (20, 2)
