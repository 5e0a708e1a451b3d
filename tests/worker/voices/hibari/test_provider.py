"""The voice's capabilities, the requests it refuses, and its lazy loading."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from natterjack.plugin.errors import PluginError, RequestRefused
from tests.waiting import bound
from worker.voices.hibari import HibariVoice, model
from worker.voices.hibari.settings import HibariSettings

from .conftest import request


@pytest.mark.process
def test_importing_loads_neither_engine_nor_numpy() -> None:
    code = (
        "import sys, worker.voices.hibari as h; h.HibariVoice.capabilities;"
        "h.HibariVoice(h.HibariVoice.Settings());"
        "found = {'numpy', 'onnxruntime', 'hibari'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=bound(60))


@pytest.mark.parametrize("language", [None, "", "en", "en-US", "en_GB", "EN"])
async def test_english_is_accepted(voice: HibariVoice, language: str | None) -> None:
    stream = await voice.open(request(language=language, model="heart"))
    await stream.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"language": "de-DE"}, "'de-DE'.*English only"),
        ({"model": "emma"}, "'emma'.*'heart'"),
        ({"options": {"pitch": 2}}, "unknown option 'pitch'"),
        ({"options": {"speed": 0.1}}, "'speed'.*0.5"),
        ({"options": {"speed": "fast"}}, "'speed'.*number"),
        ({"sample_rate": 16_000}, "24000 Hz"),
        ({"encoding": "mulaw"}, "linear16"),
    ],
)
async def test_refusals(voice: HibariVoice, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestRefused, match=message) as caught:
        await voice.open(request(**fields))
    assert (caught.value.provider, caught.value.cause) == ("hibari", "request")


async def test_opening_at_once_and_cancelled_opening(engine: None) -> None:
    voice = HibariVoice(HibariSettings(threads=1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(voice.open(request()), 0)
    streams = await asyncio.gather(*(voice.open(request()) for _ in range(3)))
    for stream in streams:
        await stream.close()
    await voice.close()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(PluginError, match=r"not installed; run: pip install 'natterjack\[local\]'"):
        HibariVoice(HibariSettings())


def test_with_another_package_of_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hibari").mkdir()
    (tmp_path / "hibari" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "hibari", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"incomplete.*hibari-tts 0\.2\.1"):
        HibariVoice(HibariSettings())


async def test_a_damaged_model_refuses_the_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "assets"
    shutil.copytree(model.find(), folder)
    with (folder / "hibari.onnx").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"damage")
    monkeypatch.setattr(model, "find", lambda: folder)
    voice = HibariVoice(HibariSettings())
    with pytest.raises(RequestRefused, match=r"damaged.*force-reinstall"):
        await voice.open(request())
    await voice.close()
