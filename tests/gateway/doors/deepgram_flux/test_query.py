"""Settings of Flux clients, in queries and Configure messages: what is taken, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.doors.deepgram_flux.query import (
    BadQuery,
    Config,
    Invalid,
    Query,
    Unparsable,
    configured,
    parse,
)

EN, MULTI = "flux-general-en", "flux-general-multi"


def query(**parameters: list[str]) -> Query:
    return parse({"model": [EN], **parameters})


def test_a_query_without_settings_has_the_vendors_defaults() -> None:
    found = query()
    assert (found.eot_threshold, found.eager_eot_threshold, found.eot_timeout_ms) == (
        0.7,
        None,
        5000,
    )
    assert (found.encoding, found.sample_rate, found.language) == (None, None, "en")


def test_all_settings_of_a_query() -> None:
    found = parse({
        "model": [MULTI], "encoding": ["linear16"], "sample_rate": ["16000"],
        "eot_threshold": ["0.8"], "eager_eot_threshold": ["0.4"], "eot_timeout_ms": ["700"],
        "keyterm": ["a b", "c"], "language_hint": ["de"], "numerals": ["true"], "tag": ["x"],
        "redact": ["numbers"], "mip_opt_out": ["true"], "profanity_filter": ["false"],
        "X-Fern-Language": ["Python"],
    })  # fmt: skip
    assert found.keyterms == ("a b", "c")
    assert found.numerals
    assert found.language == "de"
    assert found.as_message()["thresholds"] == {
        "eager_eot_threshold": 0.4, "eot_threshold": 0.8, "eot_timeout_ms": 700,
    }  # fmt: skip
    assert parse({"model": [MULTI], "language_hint": ["de", "en"]}).language is None


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"model": ["nova-3"]}, "model"),
        ({"model": []}, "model"),
        ({"encoding": ["flac"]}, "encoding"),
        ({"encoding": ["linear16"]}, "sample_rate"),
        ({"encoding": ["linear16"], "sample_rate": ["1"]}, "sample_rate"),
        ({"sample_rate": ["many"]}, "sample_rate"),
        ({"eot_threshold": ["0.4"]}, "eot_threshold"),
        ({"eot_threshold": ["nan"]}, "eot_threshold"),
        ({"eager_eot_threshold": ["0.8"]}, "eager_eot_threshold"),
        ({"eot_timeout_ms": ["100"]}, "eot_timeout_ms"),
        ({"keyterm": ["a,b"]}, "keyterm"),
        ({"keyterm": ["x"] * 101}, "keyterm"),
        ({"language_hint": ["de"]}, "language_hint"),
        ({"redact": ["pci"]}, "redact"),
        ({"numerals": ["perhaps"]}, "numerals"),
    ],
)
def test_a_wrong_query_is_refused_by_name(parameters: dict[str, list[str]], named: str) -> None:
    with pytest.raises(BadQuery, match=named):
        query(**parameters)


def test_empty_and_unknown_hints_are_refused() -> None:
    for hint in ("", "xx"):
        with pytest.raises(BadQuery, match="language_hint"):
            parse({"model": [MULTI], "language_hint": [hint]})


def test_configure_changes_what_it_names() -> None:
    config = configured(Config(keyterms=("a",)), {
        "type": "Configure", "thresholds": {"eot_timeout_ms": "800", "eot_threshold": None},
        "numerals": True,
    }, EN)  # fmt: skip
    assert (config.eot_timeout_ms, config.eot_threshold, config.keyterms, config.numerals) == (
        800, 0.7, ("a",), True,
    )  # fmt: skip
    assert configured(config, {"type": "Configure", "keyterms": []}, EN).keyterms == ()
    assert configured(config, {"type": "Configure", "keyterms": "b"}, EN).keyterms == ("b",)
    hints = {"type": "Configure", "language_hints": ["de"]}
    assert configured(config, hints, MULTI).language_hints == ("de",)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"thresholds": {"eager_eot_threshold": 0.9}}, "INVALID_THRESHOLD"),
        ({"thresholds": {"eot_threshold": 2}}, "INVALID_THRESHOLD"),
        ({"thresholds": {"eot_timeout_ms": 1}}, "INVALID_TIMEOUT"),
        ({"keyterms": ["a;b"]}, "INVALID_KEYTERMS"),
        ({"keyterms": [1]}, "INVALID_KEYTERMS"),
        ({"language_hints": ["xx"]}, "INVALID_LANGUAGE_HINTS"),
        ({"language_hints": ["de"]}, "INVALID_LANGUAGE_HINTS"),
    ],
)
def test_configure_with_wrong_values_fails(message: dict[str, Any], code: str) -> None:
    with pytest.raises(Invalid) as failed:
        configured(Config(), message, EN)
    assert failed.value.code == code
    assert failed.value.description


@pytest.mark.parametrize(
    "message",
    [
        {"threshold": {}},
        {"thresholds": [0.5]},
        {"thresholds": {"eot": 0.5}},
        {"keyterms": 5},
        {"language_hints": "de"},
        {"numerals": "yes"},
    ],
)
def test_configure_of_an_unknown_form_is_unparsable(message: dict[str, Any]) -> None:
    with pytest.raises(Unparsable):
        configured(Config(), message, EN)
