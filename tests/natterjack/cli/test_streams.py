"""`natterjack streams apply` on a real server: it shows changes first and loses nothing unasked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from natterjack.broker import streams
from natterjack.broker.changes import Change
from natterjack.broker.connection import Broker, connected
from natterjack.broker.differences import COPIES, stream_differences
from natterjack.cli.streams import lost
from natterjack.errors import StreamMismatch
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from tests.nats_server import NatsServer

from .commands import run_async


async def apply(server: NatsServer, *arguments: str, status: int = 0) -> str:
    """Run `natterjack streams apply` and return its output, including errors."""
    command = await run_async("streams", "apply", *arguments, NATS_URL=server.url)
    assert command.status == status, command.out + command.errors
    return command.out + command.errors


async def test_it_creates_all_that_a_worker_needs_once(
    nats_server: NatsServer, broker: Broker
) -> None:
    dry = await apply(nats_server, "--dry-run")
    assert dry.count("make ") == 20
    assert "nothing was changed" in dry
    js = broker.client.jetstream()
    with pytest.raises(NotFoundError):
        await js.stream_info(streams.SESSIONS)
    assert "20 changes made" in await apply(nats_server)
    assert "everything is as the settings say" in await apply(nats_server)
    await streams.ensure(broker, StreamSettings(create_streams=False))


async def test_voice_adds_its_streams_and_its_queue(
    nats_server: NatsServer, broker: Broker
) -> None:
    await apply(nats_server, "--kinds", "transcribe")
    added = await apply(nats_server, "--kinds", "transcribe,speak")
    assert "6 changes made" in added
    assert re.search(r"make +TTS_SESSIONS > workers", added)
    await streams.ensure(broker, StreamSettings(create_streams=False, kinds=KINDS))
    js = broker.client.jetstream()
    await js.delete_stream(streams.VOICE_SESSIONS)
    await js.add_stream(StreamConfig(name=streams.VOICE_SESSIONS, subjects=["tts.session.>"]))
    remade = await apply(nats_server, "--kinds", "speak", "--allow-loss")
    assert re.search(r"remake +TTS_SESSIONS ", remade)
    await streams.ensure(broker, StreamSettings(create_streams=False, kinds=KINDS))
    assert "everything is as the settings say" in await apply(nats_server)


async def test_what_a_worker_creates_needs_no_change(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    assert "everything is as the settings say" in await apply(nats_server)


async def test_longer_ages_keep_stored_messages(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    await js.publish("stt.audio.t.c.s", b"audio")
    longer = ("--audio-max-age-seconds", "1800", "--lease-seconds", "5")
    output = await apply(nats_server, *longer, "--audio-max-bytes", "64", status=1)
    assert "max_age 900 -> 1800" in output
    assert "ack_wait 3 -> 5" in output
    assert "max_bytes 8589934592 -> 64   LOSES" in output
    assert (await js.stream_info(streams.AUDIO)).config.max_age == 900
    output = await apply(nats_server, *longer)
    assert "3 changes made" in output
    info = await js.stream_info(streams.AUDIO)
    assert (info.config.max_age, info.state.messages) == (1800, 1)
    assert (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config.ack_wait == 5


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        (("--audio-max-age-seconds", "60"), " (limits: NATTERJACK_AUDIO_MAX_AGE_SECONDS)"),
        (("--audio-storage", "memory"), ""),
        (("--audio-max-bytes", "9"), " (limits: NATTERJACK_AUDIO_MAX_BYTES)"),
    ],
)
async def test_stored_messages_are_lost_only_with_allow_loss(
    nats_server: NatsServer, ready_broker: Broker, arguments: tuple[str, ...], limits: str
) -> None:
    js = ready_broker.client.jetstream()
    await js.publish("stt.audio.t.c.s", b"audio")
    output = await apply(nats_server, *arguments, "--transcripts-max-age-seconds", "9e5", status=1)
    assert f"STT_AUDIO would be lost{limits}, so nothing was changed: --allow-loss" in output
    assert (await js.stream_info(streams.AUDIO)).state.messages == 1
    assert (await js.stream_info(streams.TRANSCRIPTS)).config.max_age == 604_800
    output = await apply(nats_server, *arguments, "--allow-loss")
    assert "1 change made" in output
    assert "everything is as" in await apply(nats_server, *arguments)


async def test_other_configuration_is_kept(nats_server: NatsServer, ready_broker: Broker) -> None:
    js = ready_broker.client.jetstream()
    found = (await js.stream_info(streams.TRANSCRIPTS)).config
    await js.update_stream(
        found.evolve(
            description="ours", compression=StoreCompression.S2,
            subjects=[*(found.subjects or []), "other.>"], max_age=600.0,
        )
    )  # fmt: skip
    output = await apply(nats_server)
    assert "max_age 600 -> 604800" in output
    after = (await js.stream_info(streams.TRANSCRIPTS)).config
    assert (after.description, after.compression) == ("ours", StoreCompression.S2)
    assert "other.>" in (after.subjects or [])
    assert after.max_age == 604_800


async def test_an_unusable_stream_is_recreated_only_with_allow_loss(
    nats_server: NatsServer, broker: Broker
) -> None:
    js = broker.client.jetstream()
    await js.add_stream(
        StreamConfig(
            name=streams.SESSIONS, subjects=["stt.session.>"], storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
        )
    )  # fmt: skip
    assert "retention limits -> workqueue" in await apply(nats_server, status=1)
    await apply(nats_server, "--allow-loss")
    await streams.ensure(broker, StreamSettings(create_streams=False))


async def test_an_unusable_consumer_is_recreated_only_with_allow_loss(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    await js.delete_consumer(streams.SESSIONS, streams.CONSUMER)
    await js.add_consumer(
        streams.SESSIONS,
        ConsumerConfig(
            durable_name=streams.CONSUMER, ack_policy=AckPolicy.EXPLICIT, deliver_subject="push.it"
        ),
    )
    assert "deliver_subject push.it -> none" in await apply(nats_server, status=1)
    await apply(nats_server, "--allow-loss")
    await streams.ensure(ready_broker, StreamSettings(create_streams=False))


async def test_the_consumer_of_a_recreated_stream_is_recreated(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    found = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    await js.delete_stream(streams.SESSIONS)
    await js.add_stream(
        StreamConfig(
            name=streams.SESSIONS, subjects=["stt.session.>"], storage=StorageType.MEMORY,
            retention=RetentionPolicy.WORK_QUEUE, metadata={"of": "us"},
        )
    )  # fmt: skip
    await js.add_consumer(streams.SESSIONS, found.evolve(description="ours", max_waiting=77))
    output = await apply(nats_server, "--allow-loss")
    assert re.search(r"^make +STT_SESSIONS > workers", output, re.MULTILINE)
    await streams.ensure(ready_broker, StreamSettings(create_streams=False))
    after = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    assert (after.description, after.max_waiting) == ("ours", 77)
    kept = (await js.stream_info(streams.SESSIONS)).config.metadata or {}
    assert kept["of"] == "us"
    assert "everything is as the settings say" in await apply(nats_server)


@pytest.mark.process
async def test_a_stream_is_not_deleted_if_the_new_one_would_be_refused(
    tmp_path: Path,
) -> None:
    configuration = tmp_path / "nats.conf"
    configuration.write_text("jetstream { max_file_store: 1GB, max_memory_store: 1MB }")
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(configuration)))
    server.start()
    try:
        wanted = ("--audio-max-bytes", "9000000")
        await apply(server, *wanted)
        async with connected(BrokerSettings(url=server.url), name="test", once=True) as broker:
            js = broker.client.jetstream()
            await js.publish("stt.audio.t.c.s", b"audio")
            output = await apply(
                server, *wanted, "--audio-storage", "memory", "--allow-loss", status=2
            )
            assert "so it was not changed: insufficient memory resources" in output
            assert (await js.stream_info(streams.AUDIO)).state.messages == 1
            assert len(await js.streams_info()) == 18  # the stream made to try it is gone
    finally:
        server.stop()


async def test_a_stream_that_cannot_be_recreated_is_restored(
    nats_server: NatsServer, broker: Broker
) -> None:
    js = broker.client.jetstream()
    await js.add_stream(StreamConfig(name="THEIRS", subjects=["stt.session.b.>"]))
    await js.add_stream(StreamConfig(name=streams.SESSIONS, subjects=["stt.session.a.>"]))
    output = await apply(nats_server, "--allow-loss", status=2)
    assert "it was deleted, and JetStream refused to recreate it: subjects overlap" in output
    assert "the previous one was recreated, and is empty" in output
    assert (await js.stream_info(streams.SESSIONS)).config.subjects == ["stt.session.a.>"]


def test_fewer_replicas_need_allow_loss() -> None:
    wanted = streams.stream_configs(StreamSettings())[0]
    found = wanted.evolve(num_replicas=3)
    (fewer,) = stream_differences(found, wanted)
    assert (fewer.field, fewer.loss) == ("num_replicas", COPIES)
    (more,) = stream_differences(wanted, found)
    assert not more.loss
    output = lost([Change("STT_SESSIONS", "change", (fewer,), wanted, found)])
    assert "replicas of STT_SESSIONS on other servers would be removed" in output
    assert "NATTERJACK_STREAM_REPLICAS" in output


async def test_wider_subjects_are_narrowed_to_ours(nats_server: NatsServer, broker: Broker) -> None:
    js = broker.client.jetstream()
    await js.add_stream(
        StreamConfig(
            name=streams.TRANSCRIPTS, subjects=["stt.transcript.>", "other.>"], allow_direct=True
        )
    )
    with pytest.raises(StreamMismatch, match="`natterjack streams apply` corrects it"):
        await streams.ensure(broker, StreamSettings())
    await apply(nats_server, "--allow-loss")
    await streams.ensure(broker, StreamSettings(create_streams=False))
    subjects = (await js.stream_info(streams.TRANSCRIPTS)).config.subjects or []
    assert "other.>" in subjects
    assert "stt.transcript.>" not in subjects
    assert "everything is as the settings say" in await apply(nats_server)


@pytest.mark.parametrize(
    "set_otherwise",
    [
        {"filter_subject": "stt.session.acme.>"},
        {"filter_subjects": ["stt.session.acme.>", "stt.session.other.>"]},
        {"headers_only": True},
        {"inactive_threshold": 3600.0},
        {"backoff": [1.0, 3.0]},
        {"pause_until": "2999-01-01T00:00:00Z"},
    ],
    ids=str,
)
async def test_a_consumer_that_filters_or_delays_requests_is_corrected(
    nats_server: NatsServer, ready_broker: Broker, set_otherwise: dict[str, Any]
) -> None:
    js = ready_broker.client.jetstream()
    await js.delete_consumer(streams.SESSIONS, streams.CONSUMER)
    ours = streams.consumer_config(StreamSettings())
    await js.add_consumer(streams.SESSIONS, ours.evolve(description="theirs", **set_otherwise))
    (what,) = set_otherwise
    assert what in await apply(nats_server)
    after = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    assert not getattr(after, what)
    assert after.description == "theirs"
    assert "everything is as the settings say" in await apply(nats_server)


async def test_a_stream_without_acknowledgments_or_sealed_is_corrected(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    audio = (await js.stream_info(streams.AUDIO)).config
    await js.update_stream(audio.evolve(no_ack=True))
    slots = (await js.stream_info(streams.SLOTS)).config
    await js.update_stream(slots.evolve(sealed=True))
    with pytest.raises(StreamMismatch, match="sealed"):
        await streams.ensure(ready_broker, StreamSettings(create_streams=False))
    output = await apply(nats_server, status=1)
    assert "no_ack True -> False" in output
    assert "sealed True -> False   LOSES" in output
    await apply(nats_server, "--allow-loss")
    await streams.ensure(ready_broker, StreamSettings(create_streams=False))
    assert "everything is as the settings say" in await apply(nats_server)


async def test_a_new_limit_of_the_queue_loses_no_request(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    found = (await js.stream_info(streams.SESSIONS)).config
    assert found.max_bytes == 67_108_864
    await js.update_stream(found.evolve(max_bytes=-1, discard=DiscardPolicy.OLD))
    for number in range(5):
        await js.publish(f"stt.session.t.c.{number}", b"x" * 60_000)
    output = await apply(nats_server, "--sessions-max-bytes", "100000")
    assert "LOSES" not in output
    assert (await js.stream_info(streams.SESSIONS)).state.messages == 5
    with pytest.raises(APIError, match="maximum bytes exceeded"):
        await js.publish("stt.session.t.c.more", b"{}")
    assert (await js.stream_info(streams.SESSIONS)).state.messages == 5


@pytest.mark.parametrize("bound", ["0", "-7"])
async def test_invalid_limits_in_bytes(nats_server: NatsServer, bound: str) -> None:
    for what in ("audio", "sessions"):
        output = await apply(nats_server, f"--{what}-max-bytes", bound, status=2)
        assert f"NATTERJACK_{what.upper()}_MAX_BYTES: " in output
        assert "must be -1 (none), or more than 0" in output


async def test_a_missing_broker_is_said(nats_server: NatsServer) -> None:
    nats_server.kill()
    output = await apply(nats_server, status=2)
    assert "natterjack streams: " in output
