"""A store that is full, or too small for a limit: the messages name stream, limit and setting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.api import StorageType
from nats.js.errors import APIError

from natterjack.broker import changes, refusals, store_limits, streams
from natterjack.broker.connection import Broker, connected
from natterjack.errors import BrokerUnreachable, StreamMismatch
from natterjack.settings import KINDS, BrokerSettings, Kind, StreamSettings
from tests.nats_server import NatsServer

ONE: tuple[Kind, ...] = ("transcribe",)
MIB = 1024 * 1024


def test_sizes_have_a_unit() -> None:
    counts = (1, 1023, 1024, 64 * MIB, 8 * 1024 * MIB, 1536 * MIB, 5 * 1024**5)
    assert [store_limits.size(count) for count in counts] == [
        "1 bytes", "1023 bytes", "1 KiB", "64 MiB", "8 GiB", "1.5 GiB", "5120 TiB"
    ]  # fmt: skip


def test_every_stream_with_a_limit_has_a_setting_for_it() -> None:
    configs = streams.stream_configs(StreamSettings(kinds=KINDS))
    limited = [config.name or "" for config in configs if config.max_bytes]
    assert limited == [
        streams.SESSIONS, streams.AUDIO, streams.VOICE_SESSIONS, streams.TEXT, streams.SPEECH
    ]  # fmt: skip
    for name in limited:
        field = store_limits.setting(name).removeprefix("NATTERJACK_").lower()
        assert field in StreamSettings.model_fields


@pytest.mark.parametrize(
    ("err_code", "description", "explained"),
    [
        (10052, "stream configuration is wrong", "stream configuration is wrong"),
        (10005, "no suitable peers for placement, tags not matched", None),
        (10005, "no suitable peers for placement, insufficient storage", "no room for the stream"),
        (10005, "no suitable peers for placement", "NATTERJACK_STREAM_REPLICAS"),
        (10028, "insufficient memory resources available", "raise max_memory_store"),
        (10002, "resource limits exceeded for account", "lower NATTERJACK_AUDIO_MAX_BYTES"),
    ],
)
def test_a_refused_stream(err_code: int, description: str, explained: str | None) -> None:
    (config,) = [
        c.evolve(storage=StorageType.MEMORY)
        for c in streams.stream_configs(StreamSettings())
        if c.name == streams.AUDIO
    ]
    found = store_limits.explain_refused_stream(config, err_code, description)
    assert found.startswith(description)
    assert explained in found if explained else found == description


@pytest.mark.parametrize(
    ("err_code", "description", "passes"),
    [
        (10005, "no suitable peers for placement", True),
        (10005, "no suitable peers for placement, peer offline", True),
        (10005, "no suitable peers for placement, tags not matched", False),
        (10005, "no suitable peers for placement, insufficient storage", False),
        (10118, "stream is offline", True),
        (10052, "stream configuration is wrong", False),
        (None, None, False),
    ],
)
def test_what_a_cluster_refuses_while_it_forms_is_tried_again(
    err_code: int | None, description: str | None, passes: bool
) -> None:
    expected = BrokerUnreachable if passes else StreamMismatch
    with pytest.raises(expected), refusals.translated(streams.AUDIO):
        raise APIError(code=400, err_code=err_code, description=description)


def test_a_refused_message() -> None:
    explain = store_limits.explain_refused_message
    assert "raise NATTERJACK_SESSIONS_MAX_BYTES" in explain(
        streams.SESSIONS, 10077, "maximum bytes exceeded"
    )
    assert "raise NATTERJACK_TTS_TEXT_MAX_BYTES" in explain(
        streams.TEXT, 10077, "maximum bytes exceeded"
    )
    assert explain(streams.AUDIO, 10077, "maximum messages exceeded") == "maximum messages exceeded"
    assert explain(streams.AUDIO, None, None) == "no reason given"


# ---- with real servers ---------------------------------------------------------------------------


@pytest.fixture
def small_server(
    processes: None, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[NatsServer]:
    configuration = tmp_path / "nats.conf"
    configuration.write_text(f"jetstream {{ {request.param} }}")
    server = NatsServer(tmp_path / "store", extra_arguments=("-c", str(configuration)))
    server.start()
    yield server
    server.stop()


def small(limits: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("small_server", [limits], indirect=True)


def connection(server: NatsServer) -> BrokerSettings:
    return BrokerSettings(url=server.url)


async def limit_of(js: JetStreamContext, stream: str) -> int | None:
    return (await js.stream_info(stream)).config.max_bytes


@small("max_file_store: 1MB")
async def test_a_store_below_the_limit_of_the_queue(small_server: NatsServer) -> None:
    async with connected(connection(small_server), name="test", once=True) as broker:
        with pytest.raises(
            StreamMismatch,
            match=r"^STT_SESSIONS: JetStream refused: insufficient storage resources available: "
            "the store has no room for the stream's limit of 64 MiB: lower "
            "NATTERJACK_SESSIONS_MAX_BYTES, or raise max_file_store",
        ):
            await streams.ensure(broker, StreamSettings())


@small("max_file_store: 1GB, max_memory_store: 100MB")
async def test_a_store_below_the_default_limit_of_audio(small_server: NatsServer) -> None:
    async with connected(connection(small_server), name="test", once=True) as broker:
        js = broker.client.jetstream()
        for limit, storage in ((8 * 1024 * MIB, "file"), (512 * MIB, "memory")):
            settings = StreamSettings.model_validate(
                {"audio_max_bytes": limit, "audio_storage": storage}
            )
            option = "max_file_store" if storage == "file" else "max_memory_store"
            with pytest.raises(
                StreamMismatch,
                match=f"STT_AUDIO: .* limit of {store_limits.size(limit)}: lower "
                f"NATTERJACK_AUDIO_MAX_BYTES, or raise {option}",
            ):
                await streams.ensure(broker, settings)
        planned = await changes.plan(broker, StreamSettings())
        (audio,) = [change for change in planned if change.name == streams.AUDIO]
        with pytest.raises(StreamMismatch, match=r"STT_AUDIO: .*lower NATTERJACK_AUDIO_MAX_BYTES"):
            await changes.apply(broker, audio)
        # Without a setting, a worker takes what fits.
        await streams.ensure(broker, StreamSettings())
        assert await limit_of(js, streams.AUDIO) == 512 * MIB


@small("max_file_store: 1200KB")
async def test_a_tiny_store_has_room_for_some_audio(
    small_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(connection(small_server), name="test", once=True) as broker:
        js = await streams.ensure(broker, StreamSettings(kinds=ONE, sessions_max_bytes=-1))
        assert await limit_of(js, streams.AUDIO) == MIB
    assert "NATTERJACK_AUDIO_MAX_BYTES: limited to 1 MiB" in caplog.text


@small("max_file_store: 66000KB")
async def test_a_store_without_room_for_any_audio(small_server: NatsServer) -> None:
    async with connected(connection(small_server), name="test", once=True) as broker:
        with pytest.raises(StreamMismatch, match=r"STT_AUDIO: .* limit of 8 GiB: lower NATTERJACK"):
            await streams.ensure(broker, StreamSettings(kinds=ONE))


@small("max_file_store: 300MB")
async def test_a_store_below_the_default_limits_of_all_audio(small_server: NatsServer) -> None:
    async with connected(connection(small_server), name="test", once=True) as broker:
        settings = StreamSettings(kinds=KINDS, tts_audio_max_bytes=512 * MIB)
        with pytest.raises(
            StreamMismatch, match=r"TTS_AUDIO: .* limit of 512 MiB: lower NATTERJACK_TTS_AUDIO_MAX"
        ):
            await streams.ensure(broker, settings)
        # Streams with fixed limits take their room before any audio does.
        js = await streams.ensure(broker, StreamSettings(kinds=KINDS))
        assert await limit_of(js, streams.TEXT) == 64 * MIB
        assert await limit_of(js, streams.AUDIO) == 64 * MIB
        assert await limit_of(js, streams.SPEECH) == 32 * MIB


@small("max_file_store: 1MB")
async def test_a_full_store_refuses_every_message(small_server: NatsServer) -> None:
    settings = StreamSettings(kinds=ONE, sessions_max_bytes=-1, audio_max_bytes=-1)
    async with connected(connection(small_server), name="test", once=True) as broker:
        js = await streams.ensure(broker, settings)
        explained = ""
        while not explained:
            try:
                await js.publish("stt.audio.t.c.s", bytes(20_000))
            except APIError as error:
                explained = store_limits.explain_refused_message(
                    streams.AUDIO, error.err_code, error.description
                )
        assert "STT_AUDIO accepts nothing" in explained
        assert "max_file_store" in explained


@small("max_file_store: 160MB")
async def test_audio_never_takes_the_room_of_transcripts(small_server: NatsServer) -> None:
    async with connected(connection(small_server), name="test", once=True) as broker:
        js = await streams.ensure(broker, StreamSettings(kinds=ONE))
        assert await limit_of(js, streams.AUDIO) == 64 * MIB
        for _ in range(80):
            await js.publish("stt.audio.t.c.s", bytes(900_000))
        assert (await js.stream_info(streams.AUDIO)).state.messages < 80
        await js.publish("stt.transcript.t.c.s.final", b"a final")


async def test_a_limit_for_audio_loses_nothing_that_fits(broker: Broker) -> None:
    js = await streams.ensure(broker, StreamSettings(audio_max_bytes=-1))
    await js.publish("stt.audio.t.c.s", bytes(1000))
    for limit, loss in ((8 * 1024 * MIB, ""), (100, "what is stored")):
        planned = await changes.plan(broker, StreamSettings(audio_max_bytes=limit))
        (audio,) = [change for change in planned if change.name == streams.AUDIO]
        assert (audio.action, audio.loss) == ("change", loss)
