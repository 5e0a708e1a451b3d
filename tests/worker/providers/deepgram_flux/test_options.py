"""Building the query from settings, a session's fields and its options; documentation of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import SecretStr

import worker.providers.deepgram_flux as package
from natterjack.audio import AudioFormat
from natterjack.emulators.deepgram.flux_query import Config, configured, parse
from natterjack.errors import UsageError
from natterjack.plugin.errors import RequestRefused
from natterjack.settings import load
from tests.emulators.test_deepgram_flux_sdk import schemas, specification
from worker.providers.deepgram_flux import DeepgramFluxProvider, protocol
from worker.providers.deepgram_flux.options import CONFIGURABLE, Options, listen, parse_changes
from worker.providers.deepgram_flux.settings import DeepgramFluxSettings

from ..emulated.streams import request
from ..emulated.table import FLUX

README = (Path(package.__file__).parent / "README.md").read_text()
MULTI = "flux-general-multi"


def fits_the_specification(query: dict[str, list[str]]) -> None:
    """Check that every parameter is in listen v2, with an allowed value."""
    channel, document = specification()
    properties = channel["bindings"]["ws"]["query"]["properties"]
    for name, values in query.items():
        schema = {**properties[name], "components": document["components"]}
        value: Any = values[0] if len(values) == 1 else values
        if name != "tag":  # of any type there
            jsonschema.Draft202012Validator(schema).validate(value)


def query(settings: dict[str, Any] | None = None, **session: Any) -> dict[str, list[str]]:
    """The query as the server parses it; checked by the emulator's parser and the specification."""
    flux = {f"flux_{name}": value for name, value in (settings or {}).items()}
    found: dict[str, list[str]] = {}
    for name, value in listen(DeepgramFluxSettings(**flux), request(**session)).query:
        found.setdefault(name, []).append(value)
    parse(found)
    fits_the_specification(found)
    return found


def test_defaults() -> None:
    assert query() == {
        "model": ["flux-general-en"],
        "encoding": ["linear16"],
        "sample_rate": ["16000"],
        "eot_threshold": ["0.7"],
        "eot_timeout_ms": ["5000"],
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model": MULTI}, {"model": [MULTI]}),
        ({"eot_threshold": 0.85}, {"eot_threshold": ["0.85"]}),
        ({"eot_threshold": 1}, {"eot_threshold": ["1"]}),
        ({"eager_eot_threshold": 0.4}, {"eager_eot_threshold": ["0.4"]}),
        ({"eager_eot_threshold": False}, {"eager_eot_threshold": None}),
        ({"eot_timeout_ms": 60000}, {"eot_timeout_ms": ["60000"]}),
        ({"keyterm": "toad"}, {"keyterm": ["toad"]}),
        ({"keyterm": ["a b", "c: the book"]}, {"keyterm": ["a b", "c: the book"]}),
        ({"keyterms": ["a", "b"]}, {"keyterm": ["a", "b"]}),
        ({"keyterms": []}, {"keyterm": None}),
        ({"language_hint": "de", "model": MULTI}, {"language_hint": ["de"]}),
        ({"language_hints": ["es", "en"], "model": MULTI}, {"language_hint": ["es", "en"]}),
        ({"language_hints": []}, {"language_hint": None}),
        ({"numerals": True}, {"numerals": ["true"]}),
        ({"profanity_filter": True}, {"profanity_filter": ["true"]}),
        ({"redact": "aggressive_numbers"}, {"redact": ["aggressive_numbers"]}),
        ({"redact": False}, {"redact": None}),
        ({"tag": "a"}, {"tag": ["a"]}),
        ({"tag": ["a", "b c"]}, {"tag": ["a", "b c"]}),
        ({"mip_opt_out": True}, {"mip_opt_out": ["true"]}),
    ],
)  # fmt: skip
def test_options(options: dict[str, Any], expected: dict[str, list[str] | None]) -> None:
    found = query(options=options)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"smart_format": True},
        {"language": "en"},
        {"channels": 1},
        {"model": "nova-3"},
        {"eot_threshold": 0.4},
        {"eot_threshold": 1.1},
        {"eot_threshold": "0.7"},
        {"eager_eot_threshold": 0.2},
        {"eager_eot_threshold": 0.95},
        {"eager_eot_threshold": True},
        {"eager_eot_threshold": 0.8},
        {"eot_timeout_ms": 400},
        {"eot_timeout_ms": 60_001},
        {"eot_timeout_ms": 5000.5},
        {"keyterm": "a,b"},
        {"keyterm": "a;b"},
        {"keyterm": "a\nb"},
        {"keyterm": "term:0.15"},
        {"keyterm": ""},
        {"keyterms": ["a"] * 101},
        {"keyterms": ["a b c d e f"] * 90},
        {"keyterms": "a"},
        {"language_hints": ["de"]},
        {"language_hints": ["xx"], "model": MULTI},
        {"language_hints": [""], "model": MULTI},
        {"numerals": "true"},
        {"profanity_filter": 1},
        {"redact": "pci"},
        {"redact": True},
        {"tag": "x" * 129},
        {"tag": ""},
        {"mip_opt_out": "yes"},
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=f"'{next(iter(options))}'") as refused:
        listen(DeepgramFluxSettings(), request(options=options))
    assert refused.value.cause == "request"


def test_options_override_the_session_which_overrides_the_settings() -> None:
    settings = {"model": MULTI, "language_hints": "fr, it", "tag": "one,two"}
    assert query(settings)["language_hint"] == ["fr", "it"]
    assert query(settings)["tag"] == ["one", "two"]
    session: dict[str, Any] = {"language": "de-AT", "model": MULTI, "keyterms": ("a b", "c")}
    assert query(settings, **session)["language_hint"] == ["de"]
    assert query(settings, **session)["keyterm"] == ["a b", "c"]
    session["options"] = {"language_hint": ["en", "ru"], "keyterm": ["c", "d"], "tag": ["x"]}
    assert query(settings, **session)["language_hint"] == ["en", "ru"]
    assert query(settings, **session)["keyterm"] == ["a b", "c", "d"]
    assert query(settings, **session)["tag"] == ["x"]
    # Changes by `configure` are given to the next stream under these names.
    session["options"] = {"language_hints": [], "keyterms": ["e"]}
    assert "language_hint" not in query(settings, **session)
    assert query(settings, **session)["keyterm"] == ["e"]


def test_settings_reach_the_query() -> None:
    found = query(
        {
            "eot_threshold": 0.9,
            "eager_eot_threshold": 0.5,
            "eot_timeout_ms": 700,
            "numerals": True,
            "profanity_filter": True,
            "redact": "numbers",
            "mip_opt_out": True,
        }
    )
    assert found["eot_threshold"] == ["0.9"]
    assert found["eager_eot_threshold"] == ["0.5"]
    assert found["eot_timeout_ms"] == ["700"]
    assert found["numerals"] == found["profanity_filter"] == found["mip_opt_out"] == ["true"]
    assert found["redact"] == ["numbers"]


@pytest.mark.parametrize(
    "session",
    [
        {"language": "de"},
        {"language": "sw", "model": MULTI},
        {"model": "nova-3"},
        {"keyterms": ("a,b",)},
        {"audio_format": AudioFormat("linear16", 16000, 2)},
        {"audio_format": AudioFormat("linear16", 22050, 1)},
    ],
)
def test_what_flux_cannot_serve_is_refused(session: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused):
        listen(DeepgramFluxSettings(), request(**session))


def test_languages_that_need_no_hint() -> None:
    assert "language_hint" not in query(language="en-GB")
    assert "language_hint" not in query(language="multi", model=MULTI)


@pytest.mark.parametrize(
    "settings", [{"flux_redact": "pci"}, {"flux_model": MULTI, "flux_language_hints": "xx"}]
)
def test_settings_that_no_session_can_use(settings: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="DEEPGRAM_FLUX_"):
        listen(DeepgramFluxSettings(**settings), request())


# ---- configure ------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "eager_eot_threshold": 0.4,
    "eot_threshold": 0.8,
    "eot_timeout_ms": 6000,
    "keyterms": ("apple", "banana"),
    "language_hints": ["en", "es"],
    "numerals": True,
}


def test_every_change_fits_the_specification() -> None:
    assert set(CHANGES) == CONFIGURABLE
    validator = schemas("subscribe")["Configure"]
    for name, value in CHANGES.items():
        message = json.loads(protocol.encode_configure(parse_changes({name: value}, MULTI)))
        validator.validate(message)
        assert len(message) == 2
        shown = configured(Config(), message, MULTI).as_message()
        expected = list(value) if isinstance(value, tuple) else value
        assert {**shown, **shown["thresholds"]}[name] == expected
    message = json.loads(protocol.encode_configure(parse_changes(CHANGES, MULTI)))
    validator.validate(message)
    assert set(message) == {"type", "thresholds", "keyterms", "language_hints", "numerals"}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": MULTI},
        {"eot_threshold": None},
        {"eot_threshold": "0.8"},
        {"eager_eot_threshold": 0.1},
        {"keyterms": "a"},
        {"keyterms": ["a,b"]},
        {"language_hints": ["de"]},
        {"numerals": "true"},
    ],
)
def test_bad_changes_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=f"configure '{next(iter(changes))}'"):
        parse_changes(changes, "flux-general-en")


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "https://api.deepgram.com"),
        ("flux_eot_threshold", "1.5"),
        ("flux_eager_eot_threshold", "0.8"),
        ("flux_eot_timeout_ms", "100"),
        ("flux_keepalive_seconds", "61"),
        ("flux_catch_up_rate", "0.5"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DEEPGRAM_{name.upper()}", value)
    with pytest.raises(UsageError, match=f"DEEPGRAM_{name.upper()}"):
        load(DeepgramFluxSettings)


def test_key_and_address_are_shared_with_deepgram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPGRAM_API_KEY", FLUX.secret)
    monkeypatch.setenv("DEEPGRAM_URL", "wss://api.eu.deepgram.com/")
    monkeypatch.setenv("DEEPGRAM_MODEL", "nova-3")
    monkeypatch.setenv("DEEPGRAM_FLUX_MODEL", MULTI)
    settings = load(DeepgramFluxSettings)
    assert settings.url == "wss://api.eu.deepgram.com"
    assert settings.flux_model == MULTI
    made = protocol.connect_request(
        settings.url, settings.checked_key(), listen(settings, request(keyterms=("natter jack",)))
    )
    assert made.url.startswith("wss://api.eu.deepgram.com/v2/listen?model=flux-general-multi&")
    assert made.url.endswith("keyterm=natter+jack")
    assert made.headers == {"Authorization": f"Token {FLUX.secret}"}
    assert FLUX.secret not in repr(made) + made.url + repr(settings)


def test_capabilities_follow_the_settings() -> None:
    settings = DeepgramFluxSettings(
        api_key=SecretStr(FLUX.secret), flux_catch_up_rate=2, flux_price_per_hour=1
    )
    caps = DeepgramFluxProvider(settings).capabilities
    assert (caps.catch_up_rate, caps.price_per_hour) == (2, 1)
    assert (caps.frame_ms, caps.max_channels, caps.turns) == (80, 1, True)


def test_every_setting_and_option_is_in_the_readme() -> None:
    for name in DeepgramFluxSettings.model_fields:
        assert f"`DEEPGRAM_{name.upper()}`" in README
    for name in [*Options.model_fields, *CONFIGURABLE]:
        assert f"`{name}`" in README


def test_the_readme_covers_the_whole_specification() -> None:
    channel, _ = specification()
    names = [*channel["bindings"]["ws"]["query"]["properties"], *schemas("publish")]
    names += schemas("subscribe")
    names += ["ForceEndTurn", "Warning"]  # newer than the copy of the specification
    for name in names:
        assert f"`{name}`" in README, name


@pytest.mark.parametrize(
    ("settings", "options", "rewritten"),
    [
        ({}, {}, False),
        ({"numerals": True}, {}, True),
        ({"numerals": True}, {"numerals": False}, False),
        ({}, {"numerals": True}, True),
        ({"redact": "numbers"}, {}, True),
        ({"redact": "numbers"}, {"redact": False}, False),
        ({}, {"redact": "aggressive_numbers"}, True),
    ],
)
def test_whether_numbers_may_be_rewritten(
    settings: dict[str, Any], options: dict[str, Any], rewritten: bool
) -> None:
    flux = {f"flux_{name}": value for name, value in settings.items()}
    found = listen(DeepgramFluxSettings(**flux), request(options=options))
    assert found.rewrites_numbers is rewritten
