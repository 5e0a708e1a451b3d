"""Clients of the doors may send raw encodings and containers; other bytes are refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from natterjack.emulators import tones
from natterjack.emulators.pcm import from_linear16
from tests.waiting import within

from ..audio.files import FORMATS, WORDS, encoded, wav
from .house import RATE, House, Speech

pytestmark = pytest.mark.process

Messages = list[dict[str, Any]]
START = {
    "message": "StartRecognition",
    "audio_format": {"type": "raw", "encoding": "pcm_s16le", "sample_rate": RATE},
    "transcription_config": {"language": "en", "model": "linden-1"},
}


async def rest(socket: ClientConnection) -> Messages:
    """All messages until the connection is closed."""
    found = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            found.append(json.loads(await socket.recv()))
    return found


async def flux(house: House, query: str, pieces: Iterable[bytes | str]) -> tuple[Messages, Any]:
    """Send to `/v2/listen`; return all messages, and how the connection was closed."""
    url = f"{house.gateway.ws}/v2/listen?model=flux-general-en{query}"
    async with within(60), websockets.connect(url, max_size=None) as socket:
        with contextlib.suppress(ConnectionClosed):
            for piece in pieces:
                await socket.send(piece)
            await socket.send('{"type": "CloseStream"}')
        return await rest(socket), (socket.close_code, socket.close_reason)


async def speechmatics(
    house: House, path: str, pieces: Iterable[bytes | str], **audio_format: Any
) -> tuple[Messages, Any]:
    """Send to `path`; return all messages, and how the connection was closed."""
    start = {**START, "audio_format": audio_format} if audio_format else START
    async with within(60), websockets.connect(f"{house.gateway.ws}{path}", max_size=None) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps(start))
            for piece in pieces:
                await socket.send(piece)
            await socket.send('{"message": "EndOfStream", "last_seq_no": 0}')
        return await rest(socket), (socket.close_code, socket.close_reason)


def flux_words(messages: Messages) -> list[str]:
    last = {one["turn_index"]: one["transcript"] for one in messages if one["type"] == "TurnInfo"}
    return [word for text in last.values() for word in tones.words_of(text)]


def spoken(messages: Messages) -> list[str]:
    finals = [one for one in messages if one["message"] == "AddTranscript"]
    return tones.words_of("".join(one["metadata"]["transcript"] for one in finals))


def floats(audio: bytes) -> bytes:
    return (np.frombuffer(audio, "<i2").astype("<f4") / 32768).tobytes()


def in_pieces(data: bytes, size: int = 5001) -> list[bytes]:
    """Pieces that end anywhere, also within a sample."""
    return [data[at : at + size] for at in range(0, len(data), size)]


async def test_flux_clients_send_raw_audio_and_containers(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(8)
    raw = f"&sample_rate={RATE}&encoding="
    for query, data in (
        (f"{raw}linear16", speech.audio),
        (f"{raw}linear32", floats(speech.audio)),
        (f"{raw}mulaw", from_linear16(speech.audio, "mulaw")),
        (f"{raw}alaw", from_linear16(speech.audio, "alaw")),
        ("", wav(speech.audio, RATE)),
    ):
        messages, close = await flux(house, query, in_pieces(data))
        speech.check(flux_words(messages))
        assert close == (1005, ""), query


async def test_speechmatics_clients_send_raw_audio_and_files(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(8)
    for audio_format, data in (
        ({"type": "raw", "encoding": "pcm_f32le", "sample_rate": RATE}, floats(speech.audio)),
        (
            {"type": "raw", "encoding": "mulaw", "sample_rate": RATE},
            from_linear16(speech.audio, "mulaw"),
        ),
        ({"type": "file"}, wav(speech.audio, RATE)),
    ):
        messages, close = await speechmatics(house, "/v2", in_pieces(data), **audio_format)
        speech.check(spoken(messages))
        assert messages[-1] == {"message": "EndOfTranscript"}
        assert close[0] == 1000


async def test_a_browsers_recorder_is_decoded(house: House, tmp_path: Path) -> None:
    await house.start("deepgram")
    webm = encoded(tmp_path, "a.webm", FORMATS["a.webm"])
    messages, _ = await flux(house, "", in_pieces(webm))
    assert flux_words(messages) == list(WORDS)
    messages, _ = await speechmatics(house, "/v2", in_pieces(webm), type="file")
    assert spoken(messages) == list(WORDS)


async def test_what_is_no_audio_is_refused(house: House) -> None:
    await house.start("deepgram")
    messages, (code, reason) = await flux(house, "", [b"no audio at all, but text"])
    assert [one["type"] for one in messages] == ["Connected"]
    assert code == 1008
    assert "DATA-0000" in reason
    messages, (code, reason) = await speechmatics(house, "/v2", [b"\0" * 100], type="file")
    assert [one["message"] for one in messages[-2:]] == ["Error", "EndOfTranscript"]
    assert messages[-2]["type"] == "invalid_audio_type"
    assert (code, reason) == (1008, "invalid_audio_type")


@pytest.mark.parametrize("path", ["/v2", "/v2/agent"])
async def test_bad_input_gets_an_error_and_an_end(house: House, path: str) -> None:
    await house.start("deepgram")
    start = json.dumps(START)
    force = '{"message": "ForceEndOfUtterance", "timestamp": "soon"}'
    for pieces, kind, code in (
        ([b"\0\0"], "protocol_error", 1003),
        (['{"message": "EndOfStream", "last_seq_no": 0}'], "protocol_error", 1003),
        (["{"], "invalid_message", 1003),
        ([start, start], "protocol_error", 1003),
        ([start, '{"message": "Dance"}'], "invalid_message", 1003),
        ([start, force], "invalid_message", 1003),
        ([start, '{"message": "AddChannelAudio"}'], "not_allowed", 4003),
        ([start.replace("pcm_s16le", "opus")], "invalid_audio_type", 1008),
    ):
        async with within(30), websockets.connect(f"{house.gateway.ws}{path}") as socket:
            for piece in pieces:
                await socket.send(piece)
            messages = await rest(socket)
            assert messages[-1] == {"message": "EndOfTranscript"}
            assert (messages[-2]["message"], messages[-2]["type"]) == ("Error", kind)
            assert (socket.close_code, socket.close_reason) == (code, kind)


async def test_a_message_of_20_mb_ends_the_connection_and_loses_nothing(house: House) -> None:
    await house.start("deepgram")
    query = f"&encoding=linear16&sample_rate={RATE}"
    messages, (code, _) = await flux(house, query, [bytes(20_000_000)])
    assert code in (1009, 1006)  # the library may notice the closed connection while it sends
    # A large message within the limit is audio as any other.
    speech = Speech(40)
    messages, close = await flux(house, query, [speech.audio])
    speech.check(flux_words(messages))
    assert close == (1005, "")


async def test_another_path_is_not_found(house: House) -> None:
    await house.start_gateway()
    for path in ("/v3", "/v2/agents", "/v2/listen/en", "/v2/EN", "/v2/en/us"):
        with pytest.raises(websockets.InvalidStatus, match="404"):
            async with websockets.connect(f"{house.gateway.ws}{path}"):
                pass
