"""`natterjack plugins` shows voices beside the providers that transcribe."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.cli import plugins
from natterjack.plugin import VoiceCapabilities, described
from natterjack.plugin.entry_points import GROUP, VOICES_GROUP, available


class ToadSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TOAD_")

    volume: float = described(0.5, "how loud it is")


class Toad:
    """A voice, with the attributes that the command reads."""

    Settings = ToadSettings
    capabilities = VoiceCapabilities(sample_rates=(8000, 16_000), price_per_1000_characters=0.03)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, EntryPoint]]:
    """A voice is installed, beside the providers that are."""
    points = {
        GROUP: {"sherpa": available()["sherpa"]},
        VOICES_GROUP: {"toad": EntryPoint("toad", f"{__name__}:Toad", VOICES_GROUP)},
    }
    monkeypatch.setattr(plugins, "available", points.__getitem__)
    return points


def test_a_voice_is_listed_with_its_capabilities_and_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plugins.show(as_json=False) == 0
    shown = capsys.readouterr().out
    assert "\ntoad, voice  (" in shown
    voice = shown.partition("toad, voice")[2]
    for line in ("sample rates 8000, 16000", "price per 1000 characters 0.03", "marks no",
                 "TOAD_VOLUME how loud it is [default 0.5]"):  # fmt: skip
        assert line in " ".join(voice.split()), line


def test_kinds_tell_voices_from_transcription(capsys: pytest.CaptureFixture[str]) -> None:
    assert plugins.show(as_json=True) == 0
    about: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["kind"]) for one in about] == [
        ("sherpa", "transcription"), ("toad", "voice"),
    ]  # fmt: skip


def test_a_voice_that_cannot_be_loaded_is_an_error(
    installed: dict[str, dict[str, EntryPoint]], capsys: pytest.CaptureFixture[str]
) -> None:
    installed[VOICES_GROUP] = {"newt": EntryPoint("newt", "no_such_package:Newt", VOICES_GROUP)}
    assert plugins.show(as_json=False) == 1
    assert "cannot be loaded: ModuleNotFoundError" in capsys.readouterr().out
