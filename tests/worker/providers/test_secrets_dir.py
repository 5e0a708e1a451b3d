"""Keys in files that change while a worker runs, as the files of a Kubernetes Secret do."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from natterjack.audio import AudioFormat
from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.errors import UsageError
from natterjack.local.embedded import EmbeddedServer
from natterjack.plugin.errors import PluginError, RequestRefused
from natterjack.plugin.provider import StreamRequest
from natterjack.settings import BrokerSettings, load
from tests.waiting import until
from tests.worker.programs import Speaker, StartWorker, WorkerProcess, closed, spoken, stored
from worker.providers import loading
from worker.providers.deepgram import DeepgramProvider
from worker.providers.deepgram.settings import DeepgramSettings
from worker.providers.loading import Providers
from worker.settings import WorkerSettings


class Volume:
    """A directory like that of a mounted Secret: each file is a link into `..data`, which is a link
    that changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._round = 0
        path.mkdir()

    def write(self, **files: str) -> None:
        self._round += 1
        fresh = self.path / f"..2026_11_20_{self._round}"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_text(content)
        link = self.path / "..data_tmp"
        link.symlink_to(fresh.name)
        link.rename(self.path / "..data")
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "secrets")


@pytest.fixture
def providers(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> Providers:
    """A worker's providers, with a first key in `volume` and none in the environment."""
    monkeypatch.delenv("DEEPGRAM_API_KEY", raising=False)
    volume.write(DEEPGRAM_API_KEY="one\n")
    return Providers(WorkerSettings(secrets_dir=volume.path))


def key_of(providers: Providers) -> str:
    """Return the key for the next stream."""
    made = providers.get("deepgram").plugin
    assert isinstance(made, DeepgramProvider)
    return made._api_key.get_secret_value()


def request() -> StreamRequest:
    return StreamRequest("s", AudioFormat("linear16", 16_000, 1))


def test_an_empty_name_is_not_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_SECRETS_DIR", "")
    with pytest.raises(UsageError, match=r"WORKER_SECRETS_DIR.*: .*the path is empty"):
        load(WorkerSettings)


# ---- the program ----------------------------------------------------------------------------


async def test_new_streams_use_the_new_key_and_others_continue(
    start_worker: StartWorker,
    emulator: DeepgramEmulator,
    volume: Volume,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    emulator.api_key = "first-key"
    volume.write(DEEPGRAM_API_KEY="first-key")
    worker = await start_worker(WORKER_SECRETS_DIR=str(volume.path), DEEPGRAM_API_KEY=None)
    before = Speaker(broker_settings, 40, conversation="before", speed=2)
    speaking = asyncio.create_task(before.speak())
    await spoken(before, 5)

    emulator.api_key = "second-key"  # the first key is refused from now on
    volume.write(DEEPGRAM_API_KEY="second-key")
    await until(lambda: worker.find("reloaded from changed files"), "the change is loaded")
    after = Speaker(broker_settings, 12, conversation="after", speed=8)
    await after.speak()
    (await closed(broker, after.spec)).audit(after)

    await speaking
    transcript = await closed(broker, before.spec)
    transcript.audit(before)
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries == {}, "the session used a single stream"
    assert not [line for line in worker.log if "-key" in str(line)]


async def test_a_new_key_closes_the_breaker_of_a_refused_key(
    start_worker: StartWorker,
    emulator: DeepgramEmulator,
    volume: Volume,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    emulator.api_key = "right"
    volume.write(DEEPGRAM_API_KEY="wrong")
    worker = await start_worker(
        WORKER_SECRETS_DIR=str(volume.path),
        DEEPGRAM_API_KEY=None,
        WORKER_BREAKER_FAILURES="1",
        WORKER_BREAKER_SECONDS="600",
        WORKER_BREAKER_MAX_SECONDS="600",
    )
    refused = Speaker(broker_settings, 4, conversation="refused", speed=8)
    await refused.speak()

    async def held() -> bool:
        return "recovering" in (await stored(broker, refused.spec)).states

    await until(held, "it is held")
    volume.write(DEEPGRAM_API_KEY="right")
    await until(lambda: worker.find("reloaded from changed files"), "the change is loaded")
    served = Speaker(broker_settings, 4, conversation="served", speed=8)
    await served.speak()
    for speaker in (refused, served):
        (await closed(broker, speaker.spec)).audit(speaker)


async def test_a_worker_without_its_key_names_the_setting(
    nats_server: EmbeddedServer, emulator: DeepgramEmulator, volume: Volume
) -> None:
    volume.write(SPEECHMATICS_API_KEY="another provider's")
    worker = WorkerProcess(
        nats_server.url, emulator.url, WORKER_SECRETS_DIR=str(volume.path), DEEPGRAM_API_KEY=None
    )
    await worker.launch()
    assert await worker.wait() == 2
    assert worker.find("DEEPGRAM_API_KEY is not set")


# ---- one process ----------------------------------------------------------------------------


async def test_unchanged_providers_are_kept(providers: Providers, volume: Volume) -> None:
    made = providers.get("deepgram")
    providers.look(volume.path)
    volume.write(DEEPGRAM_API_KEY="one", SPEECHMATICS_API_KEY="not used")
    providers.look(volume.path)
    assert providers.get("deepgram") is made
    assert list(providers.made) == ["deepgram"]
    await providers.close()


async def test_an_unusable_file_changes_nothing(
    providers: Providers, volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    assert key_of(providers) == "one"
    volume.write(DEEPGRAM_API_KEY="")
    for _ in range(3):
        providers.look(volume.path)
        assert key_of(providers) == "one"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1, "it is logged once"
    assert "DEEPGRAM_API_KEY" in errors[0].getMessage()
    volume.write(DEEPGRAM_API_KEY="two")
    providers.look(volume.path)
    assert key_of(providers) == "two"
    await providers.close()


class FragileProvider(DeepgramProvider):
    """Raises an error if its key is bad."""

    def __init__(self, settings: DeepgramSettings) -> None:
        super().__init__(settings)
        if (key := self._api_key.get_secret_value()).startswith("bad"):
            raise ValueError(f"cannot use {key}")


async def test_a_plugin_that_fails_to_start_is_logged_once(
    providers: Providers,
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(loading, "load_class", lambda name: FragileProvider)
    assert key_of(providers) == "one"
    for key, lines in (("bad", 2), ("bad", 2), ("worse", 2), ("bad", 4)):
        volume.write(DEEPGRAM_API_KEY=key)
        for _ in range(3):
            providers.look(volume.path)
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == lines
    await providers.close()


def test_the_error_of_a_plugin_is_in_the_log_and_not_in_the_session(
    providers: Providers,
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(loading, "load_class", lambda name: FragileProvider)
    volume.write(DEEPGRAM_API_KEY="bad-key")
    for _ in range(2):
        with pytest.raises(PluginError, match="cannot be made: ValueError") as caught:
            providers.get("deepgram")
        assert "bad-key" not in str(caught.value), "subscribers see this text"
    [record] = caplog.records
    assert record.exc_info is not None


async def test_one_bad_file_does_not_affect_other_providers(
    providers: Providers, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPEECHMATICS_API_KEY", raising=False)
    volume.write(DEEPGRAM_API_KEY="one", SPEECHMATICS_API_KEY="one")
    providers.look(volume.path)
    for name in ("speechmatics", "deepgram"):
        providers.get(name)
    volume.write(DEEPGRAM_API_KEY="two", SPEECHMATICS_API_KEY="")
    providers.look(volume.path)
    assert key_of(providers) == "two"
    await providers.close()


async def test_a_missing_directory_changes_nothing(
    providers: Providers, volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    assert key_of(providers) == "one"
    away = volume.path.rename(volume.path.with_name("away"))
    providers.look(volume.path)
    assert key_of(providers) == "one"
    assert str(volume.path) in caplog.text
    away.rename(volume.path)
    volume.write(DEEPGRAM_API_KEY="two")
    providers.look(volume.path)
    assert key_of(providers) == "two"
    await providers.close()


async def test_a_variable_takes_precedence_with_a_warning(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DEEPGRAM_API_KEY", "of the environment")
    volume.write(DEEPGRAM_API_KEY="of the file")
    providers = Providers(WorkerSettings(secrets_dir=volume.path))
    assert key_of(providers) == "of the environment"
    assert "DEEPGRAM_API_KEY is in the environment" in caplog.text
    assert "of the" not in caplog.text.replace("of the file will", "")
    await providers.close()


async def test_a_plain_file_may_be_overwritten(tmp_path: Path, providers: Providers) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "DEEPGRAM_API_KEY").write_text("one")
    providers = Providers(WorkerSettings(secrets_dir=plain))
    assert key_of(providers) == "one"
    (plain / "DEEPGRAM_API_KEY").write_text("another")
    providers.look(plain)
    assert key_of(providers) == "another"
    await providers.close()


def test_the_error_names_a_file_that_is_not_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPGRAM_API_KEY", raising=False)
    (tmp_path / "DEEPGRAM_API_KEY").write_bytes(b"\xff\xfe\x00")
    providers = Providers(WorkerSettings(secrets_dir=tmp_path))
    with pytest.raises(PluginError, match=rf"api_key.*utf-8.*{tmp_path}"):
        providers.get("deepgram")


def test_a_missing_directory_at_the_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"WORKER_SECRETS_DIR: .*directory"):
        load(WorkerSettings)


async def test_the_former_provider_remains_usable(
    emulator: DeepgramEmulator,
    providers: Providers,
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPGRAM_URL", emulator.url)
    emulator.api_key = "one"
    former = providers.get("deepgram")
    volume.write(DEEPGRAM_API_KEY="two")
    providers.look(volume.path)
    stream = await former.open(request())
    await stream.close()
    with pytest.raises(RequestRefused, match="401"):
        await providers.get("deepgram").open(request())
    await providers.close()
