"""Keys and addresses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from natterjack.plugin.errors import PluginError
from natterjack.plugin.provider import Provider

from .table import AGENT, DEEPGRAM, DEEPGRAM_REST, FLUX, MANAGED, SPEECHMATICS, Emulated

pytestmark = pytest.mark.parametrize(
    "case", [DEEPGRAM, FLUX, DEEPGRAM_REST, MANAGED, SPEECHMATICS, AGENT], ids=str
)


def settings_of(case: Emulated, **changes: Any) -> BaseSettings:
    own = {case.own(name): value for name, value in changes.items()}
    settings: dict[str, Any] = {case.key: SecretStr(case.secret), **own}
    return case.provider.Settings(**settings)


def made(case: Emulated, **changes: Any) -> Provider:
    return case.provider(settings_of(case, **changes))


@pytest.mark.parametrize("key", [None, SecretStr(" ")])
def test_a_missing_key_is_named(case: Emulated, key: SecretStr | None) -> None:
    vendor = case.name.partition("-")[0]
    with pytest.raises(PluginError, match=f"{vendor}_{case.key}".upper()):
        made(case, url=case.address("wss"), **{case.key: key})


def test_an_unencrypted_address_logs_a_warning(
    case: Emulated, caplog: pytest.LogCaptureFixture
) -> None:
    made(case, url=case.address("ws"))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(f"without encryption, at {case.address('ws')}")
    caplog.clear()
    made(case, url=case.address("wss"))
    assert not caplog.records


def test_the_key_is_not_shown(case: Emulated, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    provider = made(case, url=case.address("ws"))
    settings = settings_of(case)
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert case.secret not in shown + repr(vars(provider)) + caplog.text
