"""`POST /v1/audio/transcriptions` with OpenAI's SDK and with plain HTTP."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import aiohttp
import openai
import pytest
import srt
import webvtt

from natterjack.emulators import tones
from tests.edge_capture.media import make
from tests.gateway.audio.files import wav
from tests.nats_server import NatsServer
from tests.waiting import until, within
from tests.worker.programs import UNDISTURBED, holder

from ..house import House, Speech

pytestmark = pytest.mark.process

MODEL: Any = "gpt-4o-transcribe"


Connect = Callable[..., openai.AsyncOpenAI]


@pytest.fixture
async def client(house: House) -> AsyncIterator[Connect]:
    """Makes clients of the SDK, for a key."""
    made: list[openai.AsyncOpenAI] = []

    def connect(key: str = "none") -> openai.AsyncOpenAI:
        url = f"{house.gateway.http}/v1"
        made.append(openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0))
        return made[-1]

    yield connect
    for each in made:
        await each.close()


def named(speech: Speech) -> tuple[str, bytes]:
    return "a.wav", wav(speech.audio, 16_000)


async def post(house: House, *parts: tuple[str, Any], **headers: str) -> tuple[int, str]:
    """Send parts of a form in the order given; bytes are the file."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in parts:
        if isinstance(value, bytes):
            file = io.BytesIO(value)
            form.add_field(name, file, filename="a.wav", content_type="audio/wav")
        else:
            form.add_field(name, value)
    url = f"{house.gateway.http}/v1/audio/transcriptions"
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, data=form, headers=headers) as answer,
    ):
        return answer.status, await answer.text()


async def test_every_format(house: House, client: Connect) -> None:
    await house.start("deepgram")
    speech = Speech(16)
    file = named(speech)
    create = client().audio.transcriptions.create
    async with within(120):
        plain = await create(file=file, model=MODEL, language="en")
        speech.check(tones.words_of(plain.text))
        text: Any = await create(file=file, model=MODEL, response_format="text")
        assert text.strip() == plain.text
        verbose: Any = await create(
            file=file, model="whisper-1", response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )  # fmt: skip
        speech.check(tones.words_of(" ".join(one.text for one in verbose.segments)))
        speech.check([tones.plain(one.word) for one in verbose.words])
        starts = [place.start for place in speech.places]
        assert [one.start for one in verbose.words] == pytest.approx(starts, abs=0.05)
        assert float(verbose.duration) == pytest.approx(speech.seconds, abs=0.01)
        subtitles: Any = await create(file=file, model="whisper-1", response_format="srt")
        speech.check(tones.words_of(" ".join(cue.content for cue in srt.parse(subtitles))))
        captions: Any = await create(file=file, model="whisper-1", response_format="vtt")
        cues = webvtt.from_string(captions)
        speech.check(tones.words_of(" ".join(cue.text for cue in cues.captions)))
        diarized: Any = await create(
            file=file, model="gpt-4o-transcribe-diarize", response_format="diarized_json"
        )
        speech.check(tones.words_of(" ".join(one.text for one in diarized.segments)))
        assert {one.speaker for one in diarized.segments} == {"A"}


async def test_a_stream(house: House, client: Connect) -> None:
    await house.start("deepgram")
    speech = Speech(24)
    events = []
    async with within(60):
        stream = await client().audio.transcriptions.create(
            file=named(speech), model=MODEL, stream=True
        )
        async for event in stream:
            events.append(event)
    kinds = [event.type for event in events]
    assert kinds == ["transcript.text.delta"] * (len(kinds) - 1) + ["transcript.text.done"]
    assert len(kinds) > 2
    done: Any = events[-1]
    assert "".join(event.delta for event in events[:-1]) == done.text  # type: ignore[union-attr]
    speech.check(tones.words_of(done.text))
    status, body = await post(house, ("stream", "true"), ("file", named(speech)[1]))
    assert status == 200
    assert body.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.m4a", ["-c:a", "aac"]), ("a.mp3", []), ("a.webm", ["-c:a", "libopus"]),
        ("a.ogg", ["-c:a", "libopus"]), ("a.flac", []),
    ],
)  # fmt: skip
async def test_any_container(house: House, tmp_path: Path, name: str, arguments: list[str]) -> None:
    await house.start("deepgram")
    speech = Speech(8)
    (tmp_path / "source.wav").write_bytes(named(speech)[1])
    path = make(tmp_path / name, "-i", tmp_path / "source.wav", "-ar", "48000", *arguments)
    sync = openai.OpenAI(api_key="none", base_url=f"{house.gateway.http}/v1", max_retries=0)

    def transcribe() -> str:
        with sync, path.open("rb") as file:
            return sync.audio.transcriptions.create(file=file, model=MODEL).text

    async with within(60):
        speech.check(tones.words_of(await asyncio.to_thread(transcribe)))


async def test_parts_in_any_order(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(8)
    parts = [("model", "whisper-1"), ("file", named(speech)[1]), ("response_format", "text")]
    for order in (parts, parts[::-1]):
        status, body = await post(house, *order)
        assert status == 200
        speech.check(tones.words_of(body))


async def test_killed_worker_and_broker(
    house: House, client: Connect, nats_server: NatsServer
) -> None:
    await house.start_gateway()
    for _ in range(2):
        await house.start_worker("deepgram", DEEPGRAM_CATCH_UP_RATE="2")
    speech = Speech(60)
    async with within(120):
        asking = asyncio.create_task(
            client().audio.transcriptions.create(file=named(speech), model=MODEL)
        )
        (await holder(house.workers)).signal(SIGKILL)
        nats_server.kill()
        nats_server.start()
        speech.check(tones.words_of((await asking).text))


async def test_a_client_that_leaves_ends_its_session(house: House) -> None:
    """Audio that was published by then is transcribed, and the rest of the file is not
    published."""
    await house.start_gateway(GATEWAY_BURST_SECONDS="10")
    await house.start_worker("deepgram", **UNDISTURBED, DEEPGRAM_CATCH_UP_RATE="4")
    speech = Speech(4000)
    assert speech.seconds > 1000
    asking = asyncio.create_task(post(house, ("file", named(speech)[1])))
    worker = await holder(house.workers)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    async def ended() -> bool:
        _, text = await worker.get("/sessions")
        found = json.loads(text)
        return not (found["sessions"] if isinstance(found, dict) else found)

    await until(ended, "the end of the session")


async def test_keys(house: House, client: Connect) -> None:
    key = house.key(doors=("openai",))
    other = house.key(doors=("deepgram",))
    await house.start("deepgram")
    speech = Speech(4)
    for secret, status, code in (
        ("wrong", 401, "invalid_api_key"),
        (other, 403, "insufficient_permissions"),
    ):
        with pytest.raises(openai.APIStatusError) as raised:
            await client(secret).audio.transcriptions.create(file=named(speech), model=MODEL)
        assert (raised.value.status_code, raised.value.code) == (status, code)
    found = await client(key).audio.transcriptions.create(file=named(speech), model=MODEL)
    speech.check(tones.words_of(found.text))


async def test_bad_input(house: House) -> None:
    await house.start("deepgram")
    good = named(Speech(2))[1]
    cases: list[tuple[int, str, list[tuple[str, Any]]]] = [
        (400, "no file", [("model", "whisper-1")]),
        (400, "not a single byte", [("file", b"")]),
        (400, "does not begin like", [("file", b"\0\1\2\3" * 1000)]),
        (400, "JSON", [("file", b'{"a": 1, "b": 2}')]),
        (400, "header", [("file", good[:30])]),
        (400, "no audio", [("file", good[:44])]),
        (400, "malformed or cut", [("file", b"OggS" + bytes(5000))]),
        (400, "response_format is one of", [("file", good), ("response_format", "xml")]),
        (413, "too long", [("prompt", "x" * 100_000), ("file", good)]),
    ]
    for status, message, parts in cases:
        found, body = await post(house, *parts)
        assert found == status, body
        error = json.loads(body)["error"]
        assert message in error["message"], parts
        assert error["type"] == "invalid_request_error"
    url = f"{house.gateway.http}/v1/audio/transcriptions"
    async with aiohttp.ClientSession() as http:
        for content_type, data in (
            ("application/json", b"{}"), ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=a", b"--a\r\nnonsense"),
        ):  # fmt: skip
            async with http.post(
                url, data=io.BytesIO(data), headers={"Content-Type": content_type}
            ) as answer:
                assert answer.status in (400, 415)
                assert (await answer.json())["error"]["message"]
