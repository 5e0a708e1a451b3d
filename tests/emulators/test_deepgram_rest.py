"""The emulator of recordings, tested with the provider's own client and specification."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import wave
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import jsonschema
import pytest

from natterjack.emulators import pcm, tones
from natterjack.emulators.deepgram.rest import DeepgramRestEmulator, parse
from natterjack.emulators.session import Refusal
from natterjack.emulators.specification import load_specification

from .process import emulator_process

with warnings.catch_warnings():
    # The SDK still looks for names that its own WebSocket library calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v1.client  # noqa: F401 - the SDK would import it later
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.media.client import AsyncMediaClient
    from deepgram.types.listen_v1response import ListenV1Response

SPECIFICATION = Path(__file__).parent / "specs" / "deepgram-openapi.yml"
KEY = "a-key"
WORDS = tones.sequence(20)
AUDIO = tones.encode(WORDS, lead_seconds=0.3)


def wav(audio: bytes, channels: int = 1, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(audio)
    return file.getvalue()


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramRestEmulator]:
    async with DeepgramRestEmulator(api_key=KEY) as emulator:
        yield emulator


@contextlib.asynccontextmanager
async def sdk(
    emulator: DeepgramRestEmulator, api_key: str = KEY
) -> AsyncIterator[AsyncMediaClient]:
    environment = DeepgramClientEnvironment(
        base=emulator.url, production=emulator.url, agent=emulator.url, agent_rest=emulator.url
    )
    async with httpx.AsyncClient() as http:
        client = AsyncDeepgramClient(api_key=api_key, environment=environment, httpx_client=http)
        yield client.listen.v1.media


async def post(
    emulator: DeepgramRestEmulator,
    body: bytes,
    query: str = "model=nova-3",
    kind: str = "audio/wav",
    key: str | None = KEY,
) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": kind} | ({} if key is None else {"Authorization": f"Token {key}"})
    url = f"{emulator.url}/v1/listen?{query}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        assert response.headers["dg-request-id"]
        return response.status, json.loads(await response.read())


# ---- the specification ----------------------------------------------------------------------


def specification() -> dict[str, Any]:
    return load_specification(SPECIFICATION)


@cache
def operation() -> dict[str, Any]:
    found: dict[str, Any] = specification()["paths"]["/v1/listen"]["post"]
    return found


def validator(schema: Mapping[str, Any]) -> Any:
    return jsonschema.Draft202012Validator({**schema, "components": specification()["components"]})


def any_of(schema: Any) -> Any:
    """Replace `oneOf` with `anyOf` in a schema whose alternatives overlap, such as an enumeration
    and any string."""
    if isinstance(schema, dict):
        return {"anyOf" if k == "oneOf" else k: any_of(v) for k, v in schema.items()}
    return [any_of(item) for item in schema] if isinstance(schema, list) else schema


@cache
def parameters() -> dict[str, Any]:
    components = any_of(specification()["components"])
    return {
        parameter["name"]: jsonschema.Draft202012Validator(
            {**any_of(parameter["schema"]), "components": components}
        )
        for parameter in operation()["parameters"]
        if parameter["in"] == "query"
    }


def check_parameters(query: Mapping[str, Sequence[str]], *, only_names: bool = False) -> None:
    """Assert that the specification allows each parameter and its value, alone or in a list.

    All values in a query are strings, so flags are converted first.
    """
    for name, values in query.items():
        assert name in parameters(), f"{name} is not in the specification"
        if only_names:
            continue
        plain = {"true": True, "false": False}
        candidates: list[Any] = [list(values)]
        if len(values) == 1:
            candidates += [values[0], plain.get(values[0])]
        assert any(parameters()[name].is_valid(value) for value in candidates), (name, values)


@pytest.mark.parametrize(
    ("name", "values"),
    [("punctuate", ["yes"]), ("diarize_model", ["v9"]), ("no_such", ["true"])],
)
def test_the_parameter_check_detects_errors(name: str, values: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_parameters({name: values})


@pytest.mark.parametrize(
    "query",
    [
        "model=nova-3",
        "model=nova-3&smart_format=true&diarize=true&detect_language=true&tag=a&tag=b",
        "model=nova-2&multichannel=true&punctuate=true&keywords=toad&extra=ticket:7",
    ],
)
async def test_answers_fit_the_specification(emulator: DeepgramRestEmulator, query: str) -> None:
    status, content = await post(
        emulator, wav(pcm.interleave(AUDIO, tones.silence(1)), channels=2), query
    )
    assert status == 200
    success = operation()["responses"]["200"]["content"]["application/json"]["schema"]
    checked = validator(success)
    checked.validate(content)
    # Objects of the schema allow other fields, so check the intended alternative by itself.
    validator({"$ref": "#/components/schemas/ListenV1Response"}).validate(content)
    assert content["metadata"]["duration"] == pytest.approx(len(AUDIO) / 32000)


def test_the_specification_is_named_and_attributed() -> None:
    attribution = (SPECIFICATION.parent / "README.md").read_text()
    assert SPECIFICATION.name in attribution
    assert attribution.count("CC BY 4.0") >= 2


# ---- the official SDK -----------------------------------------------------------------------


async def test_the_sdk_gets_every_word(emulator: DeepgramRestEmulator) -> None:
    async with sdk(emulator) as media:
        answer = await media.transcribe_file(
            request=wav(AUDIO),
            model="nova-3",
            smart_format=True,
            diarize=True,
            keyterm=["natter jack"],
            tag=["a", "b"],
        )
    assert isinstance(answer, ListenV1Response)
    assert answer.results.channels is not None
    alternatives = answer.results.channels[0].alternatives
    assert alternatives is not None
    (best,) = alternatives
    assert best.transcript is not None
    assert best.words is not None
    assert tones.words_of(best.transcript) == WORDS
    for word, place in zip(best.words, tones.places(WORDS, lead_seconds=0.3), strict=True):
        assert word.start == pytest.approx(place.start, abs=0.01)
        assert word.end == pytest.approx(place.end, abs=0.01)
    assert answer.metadata.request_id == emulator.log[0].request_id
    assert answer.metadata.duration == pytest.approx(len(AUDIO) / 32000)
    check_parameters(emulator.log[0].query)


async def test_the_sdk_receives_errors(emulator: DeepgramRestEmulator) -> None:
    async with sdk(emulator, "wrong") as media:
        with pytest.raises(ApiError) as refused:
            await media.transcribe_file(request=wav(AUDIO), model="nova-3")
    assert refused.value.status_code == 401
    async with sdk(emulator) as media:
        with pytest.raises(ApiError) as refused:
            await media.transcribe_url(url="https://example.org/call.wav")
    assert refused.value.status_code == 400
    assert "REMOTE_CONTENT_ERROR" in str(refused.value.body)


# ---- accepted requests ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"punctuate": ["True"]}, 400, "INVALID_QUERY_PARAMETER"),
        ({"encoding": ["mp3"]}, 400, "INVALID_QUERY_PARAMETER"),
        ({"sample_rate": ["fast"]}, 400, "INVALID_QUERY_PARAMETER"),
        ({"redact": ["ssn"]}, 400, "INVALID_QUERY_PARAMETER"),
        ({"diarize_model": ["v3"]}, 400, "INVALID_QUERY_PARAMETER"),
        ({"diarize_model": ["v2"], "diarize": ["true"]}, 400, "Bad Request"),
        ({"keywords": ["toad"], "model": ["nova-3"]}, 400, "Bad Request"),
        ({"keyterm": ["toad"], "model": ["nova-2"]}, 400, "Bad Request"),
        ({"keyterm": ["toad " * 501], "model": ["nova-3"]}, 400, "Bad Request"),
        ({"model": ["flux-general-en"]}, 400, "Bad Request"),
        ({"model": ["nova-33"]}, 403, "INSUFFICIENT_PERMISSIONS"),
    ],
)
def test_bad_queries_are_refused(query: dict[str, list[str]], status: int, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(query)
    assert (refused.value.status, refused.value.body["err_code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "query", "kind", "code"),
    [
        (b"", "", "audio/wav", "Bad Request"),
        (wav(b""), "", "audio/wav", "Bad Request"),
        (b"RIFF1234", "", "audio/wav", "Bad Request"),
        (AUDIO, "", "application/octet-stream", "Bad Request"),
        (AUDIO, "encoding=linear16", "application/octet-stream", "Bad Request"),
        (b"{", "", "application/json", "Bad Request"),
    ],
)
async def test_bad_audio_is_refused(
    emulator: DeepgramRestEmulator, body: bytes, query: str, kind: str, code: str
) -> None:
    status, content = await post(emulator, body, query, kind)
    assert (status, content["err_code"]) == (400, code)
    assert emulator.log[0].closed == "refused 400"


@pytest.mark.parametrize("key", [None, "wrong", "a.b.c"])
async def test_credentials(emulator: DeepgramRestEmulator, key: str | None) -> None:
    assert (await post(emulator, wav(AUDIO), key=key))[0] == 401


@pytest.mark.parametrize("encoding", ["linear16", "mulaw"])
async def test_raw_audio(emulator: DeepgramRestEmulator, encoding: Any) -> None:
    audio = tones.encode(WORDS, 8000, encoding=encoding)
    query = f"encoding={encoding}&sample_rate=8000"
    status, _ = await post(emulator, audio, query, "application/octet-stream")
    assert status == 200
    assert emulator.words == WORDS


@pytest.mark.process
async def test_the_emulator_as_a_process() -> None:
    async with (
        emulator_process("deepgram-rest") as emulator,
        aiohttp.ClientSession(headers={"Authorization": "Token k"}) as session,
        session.post(f"{emulator.url}/v1/listen", data=wav(AUDIO)) as response,
    ):
        assert response.status == 200
        assert [word["word"] for word in (await emulator.log())[0]["words"]] == WORDS
