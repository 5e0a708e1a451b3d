"""Settings, the address, and the first frame."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.errors import UsageError
from natterjack.plugin.errors import PluginError, RequestRefused
from natterjack.settings import load
from worker.providers.managed import ManagedProvider, config, protocol
from worker.providers.managed.protocol import Config
from worker.providers.managed.settings import ManagedSettings

from ..emulated.streams import request


@pytest.mark.parametrize(
    ("base", "url"),
    [
        # The fact sheet's own examples.
        ("proxy.example.org", "wss://proxy.example.org/ws/transcribe"),
        ("ws://10.0.0.5:8080/", "ws://10.0.0.5:8080/ws/transcribe"),
        ("wss://proxy.example.org//", "wss://proxy.example.org/ws/transcribe"),
        ("proxy.example.org/under/", "wss://proxy.example.org/under/ws/transcribe"),
    ],
)
def test_addresses(base: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGED_URL", base)
    assert load(ManagedSettings).url + protocol.PATH == url


@pytest.mark.parametrize("base", ["https://proxy.example.org", "http://x"])
def test_addresses_with_another_scheme_are_refused(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGED_URL", base)
    with pytest.raises(UsageError, match="MANAGED_URL"):
        load(ManagedSettings)


def test_a_missing_address_is_named() -> None:
    with pytest.raises(PluginError, match="MANAGED_URL"):
        ManagedProvider(ManagedSettings(token=SecretStr("t")))


def test_the_first_frame() -> None:
    assert config(ManagedSettings(), request()) == Config()
    settings = ManagedSettings(model="nova-3", language="de", interim_results=False)
    wanted = Config(model="nova-3", language="de", interim_results=False)
    assert config(settings, request()) == wanted
    session = request(model="m", language="fr")
    assert config(settings, session).model == "m"
    assert config(settings, session).language == "fr"
    options = {"model": "o", "language": "nl", "interim_results": True}
    found = config(settings, request(model="m", language="fr", options=options))
    assert (found.model, found.language, found.interim_results) == ("o", "nl", True)


@pytest.mark.parametrize("options", [{"punctuate": True}, {"interim_results": "true"}])
def test_other_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=next(iter(options))) as caught:
        config(ManagedSettings(), request(options=options))
    assert caught.value.provider == "managed"


def test_other_audio_formats_are_refused() -> None:
    with pytest.raises(RequestRefused, match="8000"):
        config(ManagedSettings(), request(AudioFormat("linear16", 8000, 1)))


def test_capabilities_follow_the_settings() -> None:
    def made(**settings: Any) -> ManagedProvider:
        return ManagedProvider(ManagedSettings(url="ws://h", token=SecretStr("t"), **settings))

    assert made().capabilities == ManagedProvider.capabilities
    special = made(extensions="on", catch_up_rate=3, price_per_hour=1, currency="EUR").capabilities
    assert special.finalize
    assert (special.catch_up_rate, special.price_per_hour, special.currency) == (3, 1, "EUR")
