"""Settings of who may use the gateway: mistakes name the setting and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.access import AccessSettings
from natterjack.errors import UsageError
from natterjack.settings import load


@pytest.mark.parametrize(
    ("expose", "keys", "host", "problem"),
    [
        ("loopback", False, "127.0.0.1", None),
        ("loopback", True, "::1", None),
        ("loopback", True, "localhost", None),
        ("loopback", True, "0.0.0.0", "GATEWAY_EXPOSE to `tls`"),
        ("loopback", False, "gateway.example.org", "GATEWAY_EXPOSE to `tls`"),
        ("tls", True, "0.0.0.0", None),
        ("plain", True, "::", None),
        ("tls", False, "0.0.0.0", "set GATEWAY_KEYS_FILE"),
        ("plain", False, "0.0.0.0", "set GATEWAY_KEYS_FILE"),
        ("open", False, "0.0.0.0", None),
    ],
)
def test_nobody_is_reached_by_mistake(
    expose: str, keys: bool, host: str, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_EXPOSE", expose)
    if keys:
        monkeypatch.setenv("GATEWAY_KEYS_FILE", "/etc/keys")
    settings = load(AccessSettings)
    if problem is None:
        settings.check_exposure(host)
    else:
        with pytest.raises(UsageError, match=problem):
            settings.check_exposure(host)


def test_origins_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_ORIGINS", "https://a.example, http://localhost:3000,")
    assert load(AccessSettings).origins == ("https://a.example", "http://localhost:3000")
    for wrong in ("example.org", "https://a.example/page"):
        monkeypatch.setenv("GATEWAY_ORIGINS", wrong)
        with pytest.raises(UsageError, match=r"GATEWAY_ORIGINS.*is not an origin"):
            load(AccessSettings)


def test_the_secret_for_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(AccessSettings).secrets() == ()
    monkeypatch.setenv("GATEWAY_TOKEN_SECRET", "a" * 40)
    assert load(AccessSettings).secrets() == (b"a" * 40,)
    assert "a" * 40 not in repr(load(AccessSettings))
    file = tmp_path / "secret"
    file.write_text("b" * 44)
    monkeypatch.setenv("GATEWAY_TOKEN_SECRET_FILE", str(file))
    assert load(AccessSettings).secrets() == (b"b" * 44,)
    monkeypatch.delenv("GATEWAY_TOKEN_SECRET_FILE")
    monkeypatch.setenv("GATEWAY_TOKEN_SECRET", "short")
    with pytest.raises(UsageError, match=r"GATEWAY_TOKEN_SECRET: .*openssl"):
        load(AccessSettings).secrets()
