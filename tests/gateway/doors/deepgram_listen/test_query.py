"""Queries of listen v1 clients."""

from __future__ import annotations

import pytest
from yarl import URL

from gateway.doors.deepgram_listen.query import BadQuery, Query, parse


def parsed(text: str) -> Query:
    query = URL(f"/v1/listen?{text}", encoded=True).query
    return parse({name: query.getall(name) for name in query})


def refused(text: str) -> BadQuery:
    with pytest.raises(BadQuery) as refusal:
        parsed(text)
    return refusal.value


RAW = "encoding=linear16&sample_rate=16000"


def test_defaults() -> None:
    query = parsed(RAW)
    assert (query.encoding, query.sample_rate, query.channels) == ("linear16", 16000, 1)
    assert not any((query.interim_results, query.punctuated, query.vad_events, query.diarize))
    assert query.endpointing
    assert query.utterance_end_seconds is None
    assert query.streams == 1


def test_plus_and_percent_20_are_spaces_and_names_repeat() -> None:
    assert parsed(f"{RAW}&keyterm=a+b&keyterm=c%20d").keyterms == ("a b", "c d")


def test_unknown_parameters_are_ignored() -> None:
    parsed(f"{RAW}&X-Fern-Language=Python&no_delay=true&whatever=1&mip_opt_out=false")


def test_without_encoding_it_is_a_container() -> None:
    query = parsed("model=nova-3&sample_rate=8000&channels=2")
    assert (query.encoding, query.channels) == (None, 1), "they are read from the header"


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("interim_results=True", 400, "interim_results"),
        ("encoding=mp3&sample_rate=8000", 400, "encoding"),
        ("encoding=linear16", 400, "sample_rate"),
        ("encoding=speex&sample_rate=8000", 400, "speex"),
        (f"{RAW}&channels=x", 400, "channels"),
        (f"{RAW}&channels=40", 400, "channels"),
        (f"{RAW}&channels=21&multichannel=true", 400, "20 channels"),
        ("encoding=linear16&sample_rate=12", 400, "sample_rate"),
        (f"{RAW}&endpointing=soon", 400, "endpointing"),
        (f"{RAW}&utterance_end_ms=1000", 400, "interim_results"),
        (f"{RAW}&model=flux-general-en", 400, "/v2/listen"),
        (f"{RAW}&summarize=v2", 400, "Summarization"),
        (f"{RAW}&topics=true", 403, "Features"),
        (f"{RAW}&callback=http://x", 400, "callback"),
        (f"{RAW}&diarize_model=v2", 400, "v2"),
        (f"{RAW}&diarize_model=v1&diarize=true", 400, "together"),
        (f"{RAW}&keyterm={'a+' * 600}", 400, "Keyterm limit exceeded"),
    ],
)
def test_what_the_service_refuses_is_refused(text: str, status: int, words: str) -> None:
    refusal = refused(text)
    assert refusal.status == status
    assert words in str(refusal)


def test_options_for_deepgram_are_only_those_that_were_asked_for() -> None:
    assert parsed(RAW).options == {}
    query = parsed(
        f"{RAW}&model=nova-3&language=multi&language_hint=en&language_hint=es&smart_format=true"
        "&endpointing=300&interim_results=true&utterance_end_ms=1500&vad_events=true&redact=pci"
        "&diarize_model=latest&tag=x&filler_words=false"
    )
    assert query.options == {
        "model": "nova-3", "language": "multi", "language_hint": ["en", "es"],
        "smart_format": True, "endpointing": 300, "utterance_end_ms": 1500, "vad_events": True,
        "redact": ["pci"], "diarize_model": "latest", "tag": ["x"], "filler_words": False,
    }  # fmt: skip
    assert query.utterance_end_seconds == 1.5
    assert query.unfulfilled == ("redact",)


def test_endpointing_can_be_off() -> None:
    query = parsed(f"{RAW}&endpointing=false")
    assert not query.endpointing
    assert query.options == {"endpointing": False}


def test_extra_and_names_of_ours() -> None:
    query = parsed(f"{RAW}&extra=a:b:c&extra=d&conversation=call-7&speaker=agent")
    assert query.extra == {"a": "b:c"}
    assert (query.conversation, query.speaker) == ("call-7", "agent")


def test_channels_are_transcribed_apart_only_if_asked() -> None:
    assert parsed(f"{RAW}&channels=2").streams == 1
    assert parsed(f"{RAW}&channels=2&multichannel=true").streams == 2
