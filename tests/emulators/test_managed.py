"""The emulator of the managed proxy, tested with the tables and test cases of the fact sheet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from natterjack.emulators import tones
from natterjack.emulators.managed import ManagedEmulator, ManagedFaults, ManagedSession
from natterjack.emulators.session import Close
from tests.waiting import bound, until, within

from .process import emulator_process

AUTH = {
    "type": "auth",
    "token": "user-session-token",
    "config": {
        "model": "nova-2",
        "language": "en-US",
        "sample_rate": 16000,
        "channels": 1,
        "encoding": "linear16",
        "interim_results": True,
    },
}
MESSAGES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "ready": {},
    "transcript": {"text": str, "is_final": bool},
    "credits_low": {"seconds_remaining": (int, float)},
    "error": {"code": str, "message": str},
    "session_end": {"seconds_used": (int, float)},
}
"""Members of each message (section 4 of the sheet), which today's client understands."""
EXTENSIONS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "ready": {"session_id": str},
    "transcript": {"start": float, "end": float, "seq": int, "session_id": str},
}
"""Additional members (section 6)."""


def check(message: Any, *, extended: bool = False) -> None:
    """Assert that a message has exactly the members in the table."""
    members = dict(MESSAGES[message["type"]])
    if extended:
        members |= EXTENSIONS.get(message["type"], {})
    assert set(message) == {"type", *members}
    for name, kind in members.items():
        assert isinstance(message[name], kind), message


def session(**switches: Any) -> ManagedSession:
    return ManagedSession(ManagedFaults(**switches), None)


def ready(**switches: Any) -> ManagedSession:
    opened = session(**switches)
    (answer,) = opened.text(json.dumps(AUTH))
    check(answer, extended=bool(switches.get("extended")))
    assert isinstance(answer, dict)
    assert answer["type"] == "ready"
    return opened


def play(opened: ManagedSession, audio: bytes, size: int = 2048) -> list[Any]:
    return [m for at in range(0, len(audio), size) for m in opened.audio(audio[at : at + size])]


def finals(messages: list[Any]) -> list[str]:
    texts = [m["text"] for m in messages if isinstance(m, dict) and m.get("is_final")]
    return tones.words_of(" ".join(texts))


# ---- the tables -----------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True])
def test_every_message_is_in_the_table(extended: bool) -> None:
    words = tones.sequence(16)
    opened = ready(extended=extended, credits_seconds=100, ready_again_after_seconds=1)
    messages = play(opened, tones.encode(words, phrase_words=8, tail_seconds=1))
    if extended:
        *last, close = opened.text('{"type": "end"}')
        assert close == Close(1000)
        messages += last
    for message in messages:
        check(message, extended=extended)
    kinds = {message["type"] for message in messages}
    assert kinds == {"ready", "transcript", "credits_low", *({"session_end"} if extended else ())}
    assert finals(messages) == words
    assert [m for m in messages if m["type"] == "transcript" and not m["is_final"]]
    if extended:
        transcripts = [m for m in messages if m["type"] == "transcript"]
        assert [m["seq"] for m in transcripts] == list(range(len(transcripts)))
        frontier = 0.0
        for message in (m for m in transcripts if m["is_final"]):
            assert message["start"] == pytest.approx(frontier, abs=1e-5)
            frontier = message["end"]


@pytest.mark.parametrize("size", [1, 333, 2048, 100_000])
def test_frames_of_any_size(size: int) -> None:
    words = tones.sequence(4)
    audio = tones.encode(words, tail_seconds=0.5)
    assert finals(play(ready(), audio, size)) == words


@pytest.mark.parametrize(
    "first",
    [
        "}{",
        "[]",
        '{"type": "ready"}',
        '{"type": "auth"}',
        '{"type": "auth", "token": "", "config": {}}',
        json.dumps({**AUTH, "config": {**AUTH["config"], "sample_rate": 8000}}),  # type: ignore[dict-item]
    ],
)
def test_bad_first_frames(first: str) -> None:
    error, close = session().text(first)
    check(error)
    assert isinstance(error, dict)
    assert (error["code"], close) == ("bad_request", Close(1008))


def test_audio_before_auth() -> None:
    error, close = session().audio(bytes(2048))
    assert isinstance(error, dict)
    assert (error["code"], close) == ("bad_request", Close(1008))


def test_an_oversized_frame() -> None:
    error, close = ready().audio(bytes(1024 * 1024 + 2))
    assert isinstance(error, dict)
    assert (error["code"], close) == ("audio_too_large", Close(1009))


def test_credits_low_then_exhausted() -> None:
    """Case 8: one warning per threshold, then the error, last results, session_end and close."""
    words = tones.sequence(4)
    audio = tones.encode(words, tail_seconds=0.1)
    opened = ready(credits_seconds=302)
    messages = play(opened, tones.silence(300) + audio)
    low = [m["seconds_remaining"] for m in messages if _type(m) == "credits_low"]
    assert low == [300, 60]
    messages += play(opened, tones.silence(2))
    at = [_type(m) for m in messages].index("error")
    error, *last, end, close = messages[at:]
    assert error["code"] == "credits_exhausted"
    assert end == {"type": "session_end", "seconds_used": pytest.approx(302, abs=0.1)}
    assert close == Close(4402)
    assert finals([*messages[:at], *last]) == words


def _type(message: Any) -> str | None:
    return message["type"] if isinstance(message, dict) else None


def test_unknown_messages_are_ignored() -> None:
    assert ready().text('{"type": "weather"}') == []
    # These are unknown without the extensions.
    assert ready().text('{"type": "end"}') == []
    assert ready().text('{"type": "finalize"}') == []


def test_finalize() -> None:
    words = tones.sequence(2)
    opened = ready(extended=True)
    play(opened, tones.encode(words, tail_seconds=0.1))
    (message,) = opened.text('{"type": "finalize"}')
    assert finals([message]) == words


def test_blanks() -> None:
    audio = tones.silence(5)
    assert [m["text"] for m in play(ready(), audio)].count("") > 0
    assert play(ready(blanks=False), audio) == []


# ---- the server -----------------------------------------------------------------------------


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


async def test_the_documented_client(client: aiohttp.ClientSession) -> None:
    """Case 1: a client without headers sends blocks of 2,048 bytes and closes at the end."""
    words = tones.sequence(16)
    audio = tones.encode(words, phrase_words=8, tail_seconds=1)
    messages: list[Any] = []
    async with ManagedEmulator() as emulator:
        async with client.ws_connect(f"{emulator.url}/ws/transcribe") as socket:
            await socket.send_json(AUTH)
            assert await socket.receive_json(timeout=bound(1)) == {"type": "ready"}
            for at in range(0, len(audio), 2048):
                await socket.send_bytes(audio[at : at + 2048])
            async with within(5):
                while finals(messages) != words:
                    messages.append(await socket.receive_json())
            await socket.close()
        await until(
            lambda: emulator.log[0].closed == "client 1000", "the server receives the close"
        )
    assert emulator.log[0].texts == {"auth": 1}


@pytest.mark.parametrize("switches", [{"auth_error": "auth_failed"}, {}])
async def test_errors_precede_the_close(
    client: aiohttp.ClientSession, switches: dict[str, Any]
) -> None:
    """Case 2, and "always send the error JSON before closing"."""
    async with (
        ManagedEmulator(api_key="another", **switches) as emulator,
        client.ws_connect(f"{emulator.url}/ws/transcribe") as socket,
    ):
        await socket.send_json(AUTH)
        error = await socket.receive_json()
        check(error)
        assert error["code"] == "auth_failed"
        assert (await socket.receive()).data == 4401


async def test_no_first_frame(client: aiohttp.ClientSession) -> None:
    async with (
        ManagedEmulator(receive_timeout_seconds=0.2) as emulator,
        client.ws_connect(f"{emulator.url}/ws/transcribe") as socket,
    ):
        assert (await socket.receive_json(timeout=bound(5)))["code"] == "bad_request"
        assert (await socket.receive()).data == 1008


async def test_silence_does_not_close_the_connection(client: aiohttp.ClientSession) -> None:
    """The protocol has no application keepalive (3.2)."""
    async with (
        ManagedEmulator(receive_timeout_seconds=0.2) as emulator,
        client.ws_connect(f"{emulator.url}/ws/transcribe") as socket,
    ):
        await socket.send_json(AUTH)
        await socket.receive_json()
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.7)
        assert emulator.open_connections == 1


@pytest.mark.process
async def test_the_emulator_as_a_process(client: aiohttp.ClientSession) -> None:
    async with (
        emulator_process("managed", "--api-key", "user-session-token") as emulator,
        client.ws_connect(f"{emulator.url}/ws/transcribe") as socket,
    ):
        await socket.send_json(AUTH)
        assert await socket.receive_json() == {"type": "ready"}
