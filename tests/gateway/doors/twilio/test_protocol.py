"""The wire of Twilio Media Streams, from messages as Twilio documents them."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gateway.doors.twilio.mulaw import to_mulaw
from gateway.doors.twilio.protocol import (
    BadMessage,
    Connected,
    Dtmf,
    Mark,
    Media,
    Start,
    Stop,
    Timeline,
    Unknown,
    decode,
    encode_clear,
    encode_mark,
    encode_media,
    is_signed,
    signature,
    signed_urls,
)
from natterjack.emulators.pcm import to_samples

SID = "MZ" + "0" * 32
START: dict[str, Any] = {
    "event": "start", "sequenceNumber": "1", "streamSid": SID,
    "start": {
        "accountSid": "AC" + "1" * 32, "streamSid": SID, "callSid": "CA" + "2" * 32,
        "tracks": ["inbound", "outbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"session": "abc123"},
    },
}  # fmt: skip


def test_messages_of_twilio() -> None:
    text = '{"event": "connected", "protocol": "Call", "version": "1.0.0"}'
    assert decode(text) == (Connected("Call", "1.0.0"), None)
    start = Start(
        SID, "CA" + "2" * 32, "AC" + "1" * 32, ("inbound", "outbound"), "audio/x-mulaw", 8000, 1,
        {"session": "abc123"},
    )  # fmt: skip
    assert decode(json.dumps(START)) == (start, 1)
    media = (
        '{"event": "media", "sequenceNumber": "4", "media": {"track": "inbound", "chunk": "2", '
        '"timestamp": "25", "payload": "//////////8="}, "streamSid": "' + SID + '"}'
    )
    assert decode(media) == (Media("inbound", 25, b"\xff" * 8), 4)
    dtmf = '{"event":"dtmf","sequenceNumber":"5","dtmf":{"track":"inbound_track","digit":"1"}}'
    assert decode(dtmf) == (Dtmf("1"), 5)
    assert decode('{"event":"mark","sequenceNumber":"6","mark":{"name":"utt-7"}}') == (
        Mark("utt-7"), 6,
    )  # fmt: skip
    assert decode('{"event": "stop", "sequenceNumber": "7", "stop": {}}') == (Stop(), 7)
    assert decode('{"event": "weather"}') == (Unknown("weather"), None)


def start_with(**members: Any) -> str:
    return json.dumps({**START, "start": {**START["start"], **members}})


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "5", "{}", '{"event": 5}', "[" * 100_000,
        '{"event": "start"}', '{"event": "start", "start": []}',
        start_with(tracks=None), start_with(mediaFormat=None), start_with(callSid=""),
        start_with(customParameters=[1]),
        '{"event": "media"}', '{"event": "media", "media": {"payload": "?"}}',
        '{"event": "media", "media": {"payload": 5}}',
        '{"event": "media", "media": {"payload": "\\ud800"}}',
        '{"event": "mark", "mark": "x"}',
    ],
)  # fmt: skip
def test_what_twilio_does_not_send_is_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        decode(text)


def test_odd_numbers_are_no_numbers() -> None:
    values: tuple[Any, ...] = ("-1", "1e5", "", None, [], 1.5, True, "9" * 40, "٣")
    for value in values:
        text = {"event": "media", "media": {"timestamp": value, "payload": ""}}
        assert decode(json.dumps(text)).message == Media("inbound", None, b"")


def test_messages_to_twilio() -> None:
    assert json.loads(encode_media(SID, b"\xff\x00")) == {
        "event": "media", "streamSid": SID,
        "media": {"payload": base64.b64encode(b"\xff\x00").decode()},
    }  # fmt: skip
    assert json.loads(encode_mark(SID, "utt-7")) == {
        "event": "mark", "streamSid": SID, "mark": {"name": "utt-7"},
    }  # fmt: skip
    assert json.loads(encode_clear(SID)) == {"event": "clear", "streamSid": SID}


def test_signatures() -> None:
    # Computed with openssl: printf %s URL | openssl dgst -sha1 -hmac 12345 -binary | base64
    url = "wss://asr.example.org/twilio"
    signed = signature("12345", url)
    assert len(base64.b64decode(signed)) == 20
    urls = signed_urls("asr.example.org", "/twilio", None)
    assert is_signed("12345", signed, urls)
    assert is_signed("12345", signature("12345", url + "/"), urls)
    assert is_signed("12345", signature("12345", "wss://asr.example.org:443/twilio"), urls)
    for wrong in ("", "x", "é", signature("12346", url), signature("12345", url + "x")):
        assert not is_signed("12345", wrong, urls)
    public = signed_urls("10.0.0.5:8080", "/twilio", "wss://asr.example.org/twilio/")
    assert is_signed("12345", signed, public)
    assert not is_signed("12345", signature("12345", "wss://10.0.0.5:8080/twilio"), public)


def frame(at: int | None, milliseconds: int = 20) -> Media:
    return Media("inbound", at, b"\xff" * (milliseconds * 8))


def test_a_hole_is_a_jump_with_numbers_missing() -> None:
    timeline = Timeline()
    assert timeline.place(frame(5000)) == 0, "a track may begin late"
    assert timeline.place(frame(5025)) == 0, "jitter"
    assert timeline.place(frame(5500)) == 0, "nothing is missing"
    timeline = Timeline()
    timeline.place(frame(0))
    timeline.lose()
    assert timeline.place(frame(80)) == 0, "60 ms may be jitter"
    assert timeline.place(frame(120)) == 80 * 8, "the loss is remembered"
    assert timeline.place(frame(140)) == 0
    timeline.lose()
    assert timeline.place(frame(None)) == 0
    assert timeline.place(frame(100)) == 0, "back in time"
    assert timeline.place(frame(10**9)) == 0, "nonsense"
    assert timeline.place(frame(1180, 400)) == (1180 - 220) * 8
    assert timeline.place(frame(1580)) == 0


def decoded(audio: bytes) -> npt.NDArray[np.int64]:
    return np.rint(to_samples(audio, "mulaw") * 32768).astype(np.int64)


def test_mulaw_is_the_inverse_of_decoding() -> None:
    every = decoded(bytes(range(256)))
    assert len(set(every.tolist())) == 255, "there are two zeros"
    assert np.array_equal(decoded(to_mulaw(every.astype("<i2").tobytes())), every)
    assert to_mulaw(np.array([0, 32767, -32768], "<i2").tobytes()) == b"\xff\x80\x00"
    ramp = np.arange(-32768, 32768, 7).astype("<i2")
    clipped = np.clip(ramp.astype(np.int64), -32124, 32124)
    allowed = np.maximum(np.abs(clipped) // 16, 8) + 4
    assert np.all(np.abs(decoded(to_mulaw(ramp.tobytes())) - clipped) <= allowed)
