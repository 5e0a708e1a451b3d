"""Messages of Speechmatics clients: what is taken, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.doors.speechmatics import protocol
from gateway.doors.speechmatics.errors import Fatal

RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}


def start(audio: Any = RAW, **config: Any) -> protocol.Start:
    return protocol.start({
        "message": "StartRecognition",
        "audio_format": audio,
        "transcription_config": {"language": "en", **config},
    })  # fmt: skip


def test_the_smallest_start() -> None:
    config = start()
    assert (config.language, config.partials, config.speakers, config.utterance_trigger) == (
        "en", False, False, 0.0,
    )  # fmt: skip


def test_what_clients_of_the_vendor_send_is_taken() -> None:
    config = start(
        model="enhanced", enable_partials=True, diarization="speaker", max_delay=0.7,
        max_delay_mode="flexible", streaming_mode=True, language_hints=["en"],
        additional_vocab=["natterjack", {"content": "CEO", "sounds_like": ["see"]}, "natterjack"],
        conversation_config={"end_of_utterance_silence_trigger": 0.5},
    )  # fmt: skip
    assert config.vocabulary == ("natterjack", "CEO")
    assert config.utterance_trigger == 0.5
    agent = protocol.start({
        "audio_format": RAW, "transcription_config": {"language": "en", "model": "linden-1",
        "emit_sentences": True}, "turn_config": {"turn_detection_mode": "external"},
        "translation_config": {"target_languages": ["de"]},
    })  # fmt: skip
    assert agent.sentences
    assert agent.external_turns
    assert agent.translations == ("de",)
    assert start({"type": "file"}).audio.encoding is None


EN = {"language": "en"}


def given(audio: Any = RAW, config: Any = EN) -> dict[str, Any]:
    return {"audio_format": audio, "transcription_config": config}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({}, "invalid_audio_type"),
        ({"audio_format": RAW}, "invalid_config"),
        (given({"type": "flac"}), "invalid_audio_type"),
        (given({"type": "raw"}), "invalid_audio_type"),
        (given({**RAW, "sample_rate": 1}), "invalid_audio_type"),
        (given({**RAW, "encoding": "mp3"}), "invalid_audio_type"),
        (given(config={}), "invalid_language"),
        (given(config={"language": ""}), "invalid_language"),
        (given(config={**EN, "model": 5}), "invalid_model"),
        (given(config={**EN, "diarization": "channel"}), "invalid_config"),
        (given(config={**EN, "enable_partials": "?"}), "invalid_config"),
        (given(config="en"), "invalid_config"),
    ],
)
def test_a_wrong_start_is_refused_as_the_vendor_does(content: dict[str, Any], kind: str) -> None:
    with pytest.raises(Fatal) as refused:
        protocol.start(content)
    assert refused.value.kind == kind
    assert refused.value.reason
    assert refused.value.close_code


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "invalid_message"),
        ("[]", "invalid_message"),
        ("[" * 100_000, "invalid_message"),
        ('{"message": "Dance"}', "invalid_message"),
        ('{"message": ["EndOfStream"]}', "invalid_message"),
        ('{"message": "AddAudio"}', "invalid_message"),
        ('{"message": "AddChannelAudio", "channel": "a", "data": ""}', "not_allowed"),
    ],
)
def test_other_messages_are_refused(text: str, kind: str) -> None:
    with pytest.raises(Fatal) as refused:
        protocol.decode(text)
    assert refused.value.kind == kind


def test_the_configuration_changes_but_for_the_language() -> None:
    content = {"transcription_config": {
        "language": "en", "enable_partials": True, "max_delay": 2.0,
        "conversation_config": {"end_of_utterance_silence_trigger": 0.8},
    }}  # fmt: skip
    config = protocol.changed(start(), content)
    assert (config.partials, config.utterance_trigger) == (True, 0.8)
    for wrong in ({"transcription_config": {"language": "de"}}, {"transcription_config": 3}, {}):
        with pytest.raises(Fatal) as refused:
            protocol.changed(config, wrong)
        assert refused.value.kind == "invalid_config"


def test_the_time_of_a_forced_end() -> None:
    assert protocol.forced_at({"timestamp": 1.5}) == 1.5
    assert protocol.forced_at({}) is None
    for wrong in (-1, "soon", float("inf")):
        with pytest.raises(Fatal):
            protocol.forced_at({"timestamp": wrong})


def test_labels_of_speakers_are_the_vendors() -> None:
    labels = protocol.Labels()
    assert [labels.label(one) for one in ("1", "0", None, "1", "UU")] == [
        "S1",
        "S2",
        "UU",
        "S1",
        "UU",
    ]


def test_a_message_is_known_by_its_kind() -> None:
    message = {"message": "EndOfStream", "last_seq_no": 3}
    assert protocol.decode(json.dumps(message)) == ("EndOfStream", message)
