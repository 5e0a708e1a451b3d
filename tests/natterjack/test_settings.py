from __future__ import annotations

import argparse

import pytest
from pydantic_settings import BaseSettings

from docs.generate.settings import models
from natterjack.errors import UsageError
from natterjack.settings import BrokerSettings, StreamSettings, add_flags, load


def _flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser, BrokerSettings, "nats-")
    add_flags(parser, StreamSettings)
    return parser.parse_args(arguments)


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://environment:1")
    monkeypatch.setenv("NATTERJACK_LEASE_SECONDS", "9")
    assert load(BrokerSettings, _flags()).url == "nats://environment:1"
    assert load(BrokerSettings, _flags("--nats-url", "nats://flag:1")).url == "nats://flag:1"
    settings = load(StreamSettings, _flags("--no-create-streams", "--stream-replicas", "3"))
    assert (settings.create_streams, settings.stream_replicas) == (False, 3)
    assert settings.lease_seconds == 9


def test_invalid_values_are_named_by_their_variable() -> None:
    with pytest.raises(UsageError, match=r"^NATTERJACK_STREAM_REPLICAS: .*; NATTERJACK_LEASE_SEC"):
        load(StreamSettings, _flags("--stream-replicas", "nine", "--lease-seconds", "0"))


def test_an_empty_path_is_not_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^NATS_CREDS.*: .*the path is empty"):
        load(BrokerSettings, _flags("--nats-creds", ""))
    monkeypatch.setenv("NATS_CA", "")
    with pytest.raises(UsageError, match=r"^NATS_CA.*: .*the path is empty"):
        load(BrokerSettings)
    assert str(load(BrokerSettings, _flags("--nats-ca", ".")).ca) == "."


def test_kinds_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(StreamSettings).kinds == ("transcribe", "speak")
    monkeypatch.setenv("WORKER_KINDS", "speak, transcribe,speak")
    assert load(StreamSettings).kinds == ("speak", "transcribe")
    assert load(StreamSettings, _flags("--kinds", "speak")).kinds == ("speak",)
    for wrong in ("", "sing"):
        with pytest.raises(UsageError, match="WORKER_KINDS"):
            load(StreamSettings, _flags("--kinds", wrong))


@pytest.mark.parametrize(
    "url",
    [
        "nats://a:4222", "tls://a", "a", "a:4222", "a,b:1,nats://c", "nats://[::1]:4222",
        "ws://a", "wss://a/nats,wss://b:8443", "user:pass@a", "nats://token@a:4222", "a, b",
    ],
)  # fmt: skip
def test_urls(url: str) -> None:
    assert BrokerSettings(url=url).url == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://a", "'http://a' is not the URL of a NATS server, such as"),
        ("nats://", "'nats://' is not the URL"),
        ("", "'' is not the URL"),
        ("a,", "'' is not the URL"),
        ("nats://a:port", "'nats://a:port' is not the URL"),
        ("nats://a:70000", "'nats://a:70000' is not the URL"),
        ("nats://[::1", r"'nats://\[::1' is not the URL"),
        ("nats://user:s@ecret@a:port", "'nats://a:port' is not the URL"),
        ("nats://a,wss://b", "ws:// and wss:// cannot be mixed with nats:// and tls://"),
    ],
)
def test_urls_that_no_server_can_have(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", url)
    with pytest.raises(UsageError, match=f"^NATS_URL: {message}") as caught:
        load(BrokerSettings)
    assert "secret" not in str(caught.value)


def test_secrets_have_no_flags_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, BrokerSettings, "nats-")
    assert "password" not in parser.format_help()
    monkeypatch.setenv("NATS_PASSWORD", "hunter2")
    settings = load(BrokerSettings)
    assert "hunter2" not in repr(settings)
    assert settings.password is not None
    assert settings.password.get_secret_value() == "hunter2"


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_only_variables_with_a_prefix_of_ours_are_read(
    model: type[BaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable such as URL or API_KEY belongs to somebody else."""
    before = model()
    for name in model.model_fields:
        monkeypatch.setenv(name.upper(), "7")
    assert model() == before
