"""Building the query from settings, a session's fields and its options; documentation of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import SecretStr

import worker.providers.deepgram as package
from natterjack.audio import AudioFormat
from natterjack.emulators.deepgram.query import parse
from natterjack.emulators.specification import load_specification
from natterjack.errors import UsageError
from natterjack.plugin.errors import RequestRefused
from natterjack.settings import load
from tests.emulators.test_deepgram_sdk import SPECIFICATION
from worker.providers.deepgram import DeepgramProvider
from worker.providers.deepgram.options import Options, listen
from worker.providers.deepgram.protocol import (
    encode_close_stream,
    encode_finalize,
    encode_keepalive,
)
from worker.providers.deepgram.settings import DeepgramSettings

from ..emulated.streams import request
from ..emulated.table import DEEPGRAM

README = (Path(package.__file__).parent / "README.md").read_text()
YOUNGER = {"filler_words", "language_hint"}
"""Parameters that are missing in the copy of the specification."""
STEREO = AudioFormat("linear16", 16000, 2)


def specification() -> tuple[dict[str, Any], dict[str, Any]]:
    """The channel of listen v1 and the whole document."""
    document = load_specification(SPECIFICATION)
    return document["channels"]["/v1/listen"], document


def query(
    settings: dict[str, Any] | None = None,
    audio_format: AudioFormat | None = None,
    **session: Any,
) -> dict[str, list[str]]:
    """The query as the server parses it; checked by the emulator's parser."""
    asked = request(audio_format, **session) if audio_format else request(**session)
    pairs = listen(DeepgramSettings(**settings or {}), asked).query
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    parse(found)
    fits_the_specification(found)
    return found


def fits_the_specification(query: dict[str, list[str]]) -> None:
    """Check that every parameter is in listen v1, with an allowed value."""
    channel, document = specification()
    properties = channel["bindings"]["ws"]["query"]["properties"]
    for name in set(query) - YOUNGER:
        schema = {**properties[name], "components": document["components"]}
        values = query[name]
        for value in [values, *values]:
            if jsonschema.Draft202012Validator(schema).is_valid(value):
                break
        else:
            # Numbers and booleans are strings in a URL.
            jsonschema.Draft202012Validator(schema).validate(json.loads(values[0]))


def test_client_messages_fit_the_specification() -> None:
    channel, document = specification()
    messages = (encode_keepalive(), encode_finalize(), encode_close_stream())
    sent = {message["type"]: message for message in map(json.loads, messages)}
    known = set()
    for ref in channel["subscribe"]["message"]["oneOf"]:
        name = ref["$ref"].removeprefix("#/components/messages/")
        payload = document["components"]["messages"][name]["payload"]
        schema = {**payload, "components": document["components"]}
        for kind, message in sent.items():
            if name.endswith(kind):
                jsonschema.Draft202012Validator(schema).validate(message)
                known.add(kind)
    assert known == set(sent)


def test_the_readme_covers_the_whole_specification() -> None:
    channel, _ = specification()
    offered = set(Options.model_fields) | {"encoding", "sample_rate"}
    unsupported = README.partition("## Unsupported")[2]
    for name in channel["bindings"]["ws"]["query"]["properties"]:
        assert name in offered or f"`{name}`" in unsupported, name


def test_defaults() -> None:
    assert query() == {
        "model": ["nova-3"],
        "encoding": ["linear16"],
        "sample_rate": ["16000"],
        "channels": ["1"],
        "interim_results": ["true"],
        "smart_format": ["true"],
        "vad_events": ["true"],
        "endpointing": ["300"],
        "utterance_end_ms": ["1000"],
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model": "nova-2"}, {"model": ["nova-2"]}),
        ({"language": "de"}, {"language": ["de"]}),
        ({"detect_language": True}, {"language": ["multi"]}),
        ({"language": "multi", "language_hint": "en"}, {"language_hint": ["en"]}),
        ({"detect_language": True, "language_hint": ["en", "de"]}, {"language_hint": ["en", "de"]}),
        ({"interim_results": False}, {"interim_results": None, "utterance_end_ms": None}),
        ({"smart_format": False, "punctuate": True}, {"smart_format": None, "punctuate": ["true"]}),
        ({"endpointing": False}, {"endpointing": ["false"]}),
        ({"endpointing": 0}, {"endpointing": ["0"]}),
        ({"endpointing": 25}, {"endpointing": ["25"]}),
        ({"utterance_end_ms": 2000}, {"utterance_end_ms": ["2000"]}),
        ({"utterance_end_ms": False}, {"utterance_end_ms": None}),
        ({"vad_events": False}, {"vad_events": None}),
        ({"keyterm": ["natter jack", "toad"]}, {"keyterm": ["natter jack", "toad"]}),
        ({"keyterm": "toad"}, {"keyterm": ["toad"]}),
        ({"keywords": ["toad:2"], "model": "nova-2"}, {"keywords": ["toad:2"]}),
        ({"diarize": True}, {"diarize": ["true"]}),
        ({"diarize_model": "v1"}, {"diarize_model": ["v1"]}),
        ({"filler_words": True}, {"filler_words": ["true"]}),
        ({"numerals": True}, {"numerals": ["true"]}),
        ({"profanity_filter": True}, {"profanity_filter": ["true"]}),
        ({"redact": True}, {"redact": ["true"]}),
        ({"redact": "pci"}, {"redact": ["pci"]}),
        ({"redact": ["pci", "ssn"]}, {"redact": ["pci", "ssn"]}),
        ({"tag": ["a", "b c"]}, {"tag": ["a", "b c"]}),
        ({"mip_opt_out": True}, {"mip_opt_out": ["true"]}),
        ({"channels": 1}, {"channels": ["1"]}),
        ({"multichannel": True}, {"multichannel": None}),
    ],
)
def test_options(options: dict[str, Any], expected: dict[str, list[str] | None]) -> None:
    found = query(options=options)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"callback": "https://example.com"},
        {"model": 3},
        {"interim_results": "true"},
        {"smart_format": 1},
        {"endpointing": True},
        {"endpointing": -1},
        {"endpointing": "300"},
        {"utterance_end_ms": 500},
        {"utterance_end_ms": 6000},
        {"utterance_end_ms": 2000, "interim_results": False},
        {"keyterm": [1]},
        {"keyterm": "toad", "model": "nova-2"},
        {"keywords": "toad"},
        {"diarize_model": "v2"},
        {"diarize_model": "v1", "diarize": True},
        {"detect_language": True, "language": "de"},
        {"language_hint": "en"},
        {"language_hint": "en", "language": "multi", "model": "nova-2"},
        {"language_hint": [""], "language": "multi"},
        {"redact": "names"},
        {"tag": "x" * 129},
        {"channels": 2},
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=f"'{next(iter(options))}'") as refused:
        listen(DeepgramSettings(), request(options=options))
    assert refused.value.cause == "request"


def test_options_override_the_session_which_overrides_the_settings() -> None:
    settings: dict[str, Any] = {"model": "nova-2", "language": "fr"}
    assert query(settings)["model"] == ["nova-2"]
    assert query(settings)["language"] == ["fr"]
    session: dict[str, Any] = {"model": "nova-3-medical", "language": "en-GB"}
    assert query(settings, **session)["model"] == ["nova-3-medical"]
    assert query(settings, **session)["language"] == ["en-GB"]
    session["options"] = {"model": "nova-3", "language": "en"}
    assert query(settings, **session)["model"] == ["nova-3"]
    assert query(settings, **session)["language"] == ["en"]


def test_keyterms_are_sent_as_the_model_takes_them() -> None:
    assert query(keyterms=("a b", "c"))["keyterm"] == ["a b", "c"]
    assert query(keyterms=("a", "c"), model="nova-2")["keywords"] == ["a", "c"]
    assert query(keyterms=("a",), options={"keyterm": ["a", "b"]})["keyterm"] == ["a", "b"]


def test_settings_reach_the_query() -> None:
    found = query(
        {
            "punctuate": True,
            "smart_format": False,
            "endpointing_ms": 0,
            "utterance_end_ms": 0,
            "vad_events": False,
            "diarize": True,
            "filler_words": True,
            "numerals": True,
            "redact": "pci, ssn",
            "tag": "one,two",
            "mip_opt_out": True,
        }
    )
    assert found["punctuate"] == found["diarize"] == found["filler_words"] == ["true"]
    assert found["numerals"] == found["mip_opt_out"] == ["true"]
    assert found["endpointing"] == ["false"]
    assert found["redact"] == ["pci", "ssn"]
    assert found["tag"] == ["one", "two"]
    assert not {"smart_format", "utterance_end_ms", "vad_events"} & set(found)


def test_channels() -> None:
    assert query({"multichannel": True}, STEREO)["multichannel"] == ["true"]
    assert "multichannel" not in query({"multichannel": True})
    assert "multichannel" not in query(
        {"multichannel": True}, STEREO, options={"multichannel": False}
    )
    assert listen(DeepgramSettings(multichannel=True), request(STEREO)).channels == 2
    assert listen(DeepgramSettings(), request(STEREO)).channels == 1


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "https://api.deepgram.com"),
        ("utterance_end_ms", "500"),
        ("keepalive_seconds", "11"),
        ("catch_up_rate", "0.5"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DEEPGRAM_{name.upper()}", value)
    with pytest.raises(UsageError, match=f"DEEPGRAM_{name.upper()}"):
        load(DeepgramSettings)


def test_capabilities_follow_the_settings() -> None:
    key = SecretStr(DEEPGRAM.secret)
    assert DeepgramProvider.capabilities.max_channels == 1
    provider = DeepgramProvider(
        DeepgramSettings(
            api_key=key,
            multichannel=True,
            interim_results=False,
            catch_up_rate=2,
            price_per_hour=1,
        )
    )
    caps = provider.capabilities
    assert (caps.max_channels, caps.interims) == (20, False)
    assert (caps.catch_up_rate, caps.price_per_hour) == (2, 1)


def test_every_setting_and_option_is_in_the_readme() -> None:
    for name in DeepgramSettings.model_fields:
        assert f"`DEEPGRAM_{name.upper()}`" in README
    for name in Options.model_fields:
        assert f"`{name}`" in README
