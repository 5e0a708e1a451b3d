"""`natterjack erase` on a real server: all data of one tenant and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.cli.erase import targets
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import StatusEvent
from natterjack.fleet.usage import DayUsage
from natterjack.local.demo import bundled_recording
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from tests.edge_capture.program import Edge
from tests.nats_server import NatsServer
from tests.waiting import until, within
from tests.worker.programs import (
    Speaker,
    StartWorker,
    closed,
    live_events,
    queue_empty,
    spoken,
    streaming,
)
from tests.worker.successors import following, new_id, request

from .commands import Command, run, run_async


def removed(
    tenant: str,
    conversation: str | None = None,
    speaker: str | None = None,
    *,
    usage: bool = False,
    voice: bool = False,
) -> dict[str, tuple[str, ...]]:
    """The subjects to remove, by label."""
    found = targets(tenant, conversation, speaker, usage=usage, voice=voice)
    return {target.label: target.subjects for target in found}


def test_subjects_of_a_tenant_a_conversation_and_a_speaker() -> None:
    assert removed("acme") == {
        "audio": ("stt.audio.acme.>",),
        "events": ("stt.transcript.acme.>",),
        "checkpoints": ("$KV.stt_sessions.acme.>",),
        "dead letters": ("stt.dead.acme.>",),
    }
    assert removed("acme", "call")["audio"] == ("stt.audio.acme.call.>",)
    assert removed("acme", "call", "anna") == {
        "audio": ("stt.audio.acme.call.anna",),
        "events": ("stt.transcript.acme.call.anna.>",),
        "checkpoints": ("$KV.stt_sessions.acme.call.anna",),
        "dead letters": ("stt.dead.acme.call.anna.>",),
    }


def test_voice_adds_text_speech_and_events() -> None:
    found = removed("acme", "call", "bot", voice=True)
    assert found["text"] == ("tts.text.acme.call.bot",)
    assert found["speech"] == ("tts.audio.acme.call.bot",)
    assert found["voice events"] == ("tts.event.acme.call.bot.>",)
    assert found["voice checkpoints"] == ("$KV.tts_sessions.acme.call.bot",)


def test_usage_adds_usage_records_and_the_budget() -> None:
    found = removed("acme", usage=True)
    assert found["usage"] == ("$KV.stt_usage.*.acme.>",)
    assert found["budget"] == ("$KV.stt_budgets.tenant.acme",)


@pytest.fixture
def quick_recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which nothing is written during the command."""
    monkeypatch.setattr("natterjack.cli.erase._RECHECK_DELAY_S", 0.1)


async def erase(server: NatsServer, *arguments: str, status: int = 0) -> str:
    """Run `natterjack erase` and return its output, including errors."""
    command = await run_async("erase", *arguments, NATS_URL=server.url)
    assert command.status == status, command.out + command.errors
    return command.out + command.errors


async def stored(broker: Broker, tenant: str) -> dict[str, int]:
    """Number of messages with the tenant as a token of the subject, by stream."""
    counts = {}
    js = broker.client.jetstream()
    for config in await js.streams_info():
        assert config.config.name is not None
        info = await js.stream_info(config.config.name, subjects_filter=">")
        subjects = info.state.subjects or {}
        count = sum(n for subject, n in subjects.items() if tenant in subject.split("."))
        if count:
            counts[config.config.name] = count
    return counts


@pytest.mark.usefixtures("quick_recheck")
async def test_all_data_of_a_tenant_is_removed_and_nothing_else(
    nats_server: NatsServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    worker = await start_worker()
    speakers = [
        Speaker(broker_settings, 10, tenant=tenant, conversation=conversation)
        for tenant, conversation in (("acme", "one"), ("acme", "two"), ("other", "one"))
    ]
    await asyncio.gather(*(speaker.speak() for speaker in speakers))
    for speaker in speakers:
        await closed(broker, speaker.spec)
    await queue_empty(broker)
    worker.signal(signal.SIGTERM)  # it writes its usage records
    assert await worker.wait() == 0
    # A durable consumer rejects an event of each session.
    durable = natterjack.durable("x", start="start", settings=broker_settings)
    async with durable as deliveries, within(60):
        for delivery in [await anext(deliveries) for _ in speakers]:
            await delivery.reject("not wanted")
    before, other = await stored(broker, "acme"), await stored(broker, "other")
    assert {*before} == {
        "STT_AUDIO", "STT_TRANSCRIPTS", "STT_DEAD_LETTERS", "KV_stt_sessions", "KV_stt_usage",
    }  # fmt: skip

    counted = await erase(nats_server, "--tenant", "acme", "--dry-run")
    assert "nothing was removed" in counted
    assert await stored(broker, "acme") == before

    await erase(nats_server, "--tenant", "acme", "--conversation", "one", "--yes")
    rest = await stored(broker, "acme")
    assert 0 < rest["STT_TRANSCRIPTS"] < before["STT_TRANSCRIPTS"]
    assert rest["KV_stt_sessions"] == 1
    assert (before["STT_DEAD_LETTERS"], rest["STT_DEAD_LETTERS"]) == (2, 1)

    await erase(nats_server, "--tenant", "acme", "--yes")
    assert await stored(broker, "acme") == {"KV_stt_usage": before["KV_stt_usage"]}
    await erase(nats_server, "--tenant", "acme", "--usage", "--yes")
    assert await stored(broker, "acme") == {}
    assert await stored(broker, "other") == other


async def test_open_sessions_are_reported_and_ended_only_with_stop(
    nats_server: NatsServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    speaker = Speaker(broker_settings, 60, tenant="acme", speed=2)
    waits = Speaker(broker_settings, 1, tenant="acme", conversation="waits")
    worker = await start_worker(WORKER_MAX_SESSIONS="1")
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4.0)
    await waits.speak()
    output = await erase(nats_server, "--tenant", "acme", "--yes", status=1)
    assert "2 sessions are open" in output
    assert "acme.c.s" in output
    assert (await stored(broker, "acme"))["STT_AUDIO"]
    # The waiting session must not get the worker's slot before its request is removed.
    output = await erase(
        nats_server, "--tenant", "acme", "--conversation", "waits", "--stop", "--yes"
    )
    assert (await stored(broker, "acme"))["STT_SESSIONS"] == 1
    speaking.cancel()
    await asyncio.wait([speaking])
    await erase(nats_server, "--tenant", "acme", "--stop", "--yes")
    await queue_empty(broker)
    found = await stored(broker, "acme")
    assert {*found} <= {"KV_stt_usage"}
    assert worker.running


async def test_a_client_that_is_still_writing_is_reported(
    nats_server: NatsServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    """The client does not stop when its session is ended, as an edge does."""
    speaker = Speaker(broker_settings, 90, tenant="acme", speed=2)
    await start_worker()
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4.0)
    output = await erase(nats_server, "--tenant", "acme", "--stop", "--yes", status=1)
    assert "another client is still writing: audio " in output
    assert "Remove the tenant's users first" in output
    speaking.cancel()
    await asyncio.wait([speaking])
    await erase(nats_server, "--tenant", "acme", "--stop", "--yes")
    assert {*await stored(broker, "acme")} <= {"KV_stt_usage"}


async def test_an_edge_stops_publishing_when_its_session_is_erased(
    nats_server: NatsServer, broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    await start_worker()
    arguments = ("file", str(bundled_recording()), "--speed", "0.1", "--tenant", "acme")
    edge = Edge(tmp_path / "edge", arguments, {"NATS_URL": nats_server.url})
    try:
        await edge.says("session streaming")
        await erase(nats_server, "--tenant", "acme", "--stop", "--yes")
        assert await edge.exit_code() == 1
        assert "the session was ended by a request" in edge.stderr
    finally:
        edge.end()
    # The edge reports about itself until it has ended.
    assert {*await stored(broker, "acme")} <= {"KV_stt_usage", "KV_stt_edges"}


async def test_a_session_that_continues_another_is_erased_and_has_no_successor(
    nats_server: NatsServer,
    emulator: DeepgramEmulator,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    await start_worker(WORKER_RECOVERY_SECONDS="0.5", WORKER_BREAKER_SECONDS="0.1")
    speaker = Speaker(broker_settings, 90, tenant="acme", speed=2, successor=new_id())
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 2.0)
    await emulator.set(handshake_status=503)
    emulator.drop()
    failed = (await closed(broker, speaker.spec)).closing[0]
    await emulator.set(handshake_status=None)
    spec = following(speaker.spec, failed)

    async def listed() -> bool:
        found = await run_async("sessions", "--json", NATS_URL=nats_server.url)
        rows = [(row["session_id"], row["continues"]) for row in json.loads(found.out)]
        return rows == [(spec.session_id, spec.continues)]

    async with live_events(broker, spec) as events:
        await request(broker, spec)
        await streaming(broker, spec)
        await until(listed, "it is listed, with the session that it continues")
        speaking.cancel()
        await asyncio.wait([speaking])
        await erase(nats_server, "--tenant", "acme", "--stop", "--yes")
    (closing,) = [event for event in events if isinstance(event, StatusEvent) and event.closing]
    assert (closing.reason, closing.continued_by) == ("stopped: erased", None)
    await queue_empty(broker)
    assert {*await stored(broker, "acme")} <= {"KV_stt_usage"}


async def test_usage_is_erased_while_the_worker_runs(
    nats_server: NatsServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    """The worker forgets the erased usage and later writes only what was used since."""
    worker = await start_worker()

    async def use(tenant: str, conversation: str) -> None:
        speaker = Speaker(broker_settings, 4, tenant=tenant, conversation=conversation)
        await speaker.speak()
        await closed(broker, speaker.spec)
        await queue_empty(broker)

    await use("acme", "one")
    await use("other", "one")
    await erase(nats_server, "--tenant", "acme", "--usage", "--yes")
    assert await stored(broker, "acme") == {}
    await use("acme", "two")
    await use("other", "two")
    worker.signal(signal.SIGTERM)  # it writes the remaining usage records
    assert await worker.wait() == 0
    ((acme,), (other,)) = await usage_of(broker, "acme"), await usage_of(broker, "other")
    assert 1.5 < acme.captured_seconds < 3  # half a second a word
    assert 3.5 < other.captured_seconds < 5


async def usage_of(broker: Broker, tenant: str) -> list[DayUsage]:
    """A tenant's usage records of all processes."""
    js = broker.client.jetstream()
    stream = f"KV_{streams.USAGE_BUCKET}"
    state = (await js.stream_info(stream, subjects_filter=f"$KV.*.*.{tenant}.*")).state
    messages = [await js.get_last_msg(stream, subject) for subject in state.subjects or {}]
    return [DayUsage.model_validate_json(message.data or b"") for message in messages]


@pytest.mark.usefixtures("quick_recheck")
async def test_invalid_requests_and_slots_of_dead_workers_are_removed(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    for subject in ("we$ird.s", "deep.er.s.t", "c"):
        await js.publish(f"stt.session.acme.{subject}", b'{"labels":{"patient":"x"}}')
    await js.publish("stt.session.other.we$ird.s", b"{}")
    for slot, tenant in enumerate(("acme", "other", "acme-2")):
        claim = json.dumps({"id": str(slot), "tenant": tenant, "by": "gone"})
        await js.publish(f"stt.slot.deepgram.{slot}", claim.encode())
    output = await erase(nats_server, "--tenant", "acme", "--dry-run")
    assert re.search(r"invalid requests +3 ", output)
    assert re.search(r"slots +1 ", output)
    await erase(nats_server, "--tenant", "acme", "--yes")
    assert await stored(ready_broker, "acme") == {}
    assert await stored(ready_broker, "other") == {"STT_SESSIONS": 1}
    assert (await js.stream_info(streams.SLOTS)).state.messages == 2
    assert "slots" not in await erase(nats_server, "--tenant", "acme", "--dry-run")


@pytest.mark.usefixtures("quick_recheck")
async def test_what_voice_sessions_left_is_removed(nats_server: NatsServer, broker: Broker) -> None:
    js = await streams.ensure(broker, StreamSettings(kinds=KINDS))
    for tenant in ("acme", "other"):
        for subject in (
            "tts.session.{}.c.s", "tts.text.{}.c.s", "tts.audio.{}.c.s", "tts.event.{}.c.s.status",
            "$KV.tts_sessions.{}.c.s",
        ):  # fmt: skip
            await js.publish(subject.format(tenant), b"{}")
    output = await erase(nats_server, "--tenant", "acme", "--dry-run")
    assert re.search(r"speech +1 +TTS_AUDIO", output)
    assert re.search(r"open voice sessions +1 +TTS_SESSIONS", output)
    refused = await erase(nats_server, "--tenant", "acme", "--yes", status=1)
    assert "1 sessions are open and still write: acme.c.s" in refused
    await erase(nats_server, "--tenant", "acme", "--stop", "--yes")
    assert await stored(broker, "acme") == {}
    assert sum((await stored(broker, "other")).values()) == 5


async def test_it_asks_for_confirmation(nats_server: NatsServer, ready_broker: Broker) -> None:
    js = ready_broker.client.jetstream()
    await js.publish("stt.audio.acme.c.s", b"audio")
    assert "--yes is needed" in await erase(nats_server, "--tenant", "acme", status=2)
    assert (await js.stream_info(streams.AUDIO)).state.messages == 1
    async with Command(
        "erase", "--tenant", "acme", terminal=True, NATS_URL=nats_server.url
    ) as command:
        await until(lambda: "--yes is needed" in command.errors, "it has no terminal to read")
        assert await command.status() == 2
    assert (await js.stream_info(streams.AUDIO)).state.messages == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tenant", "a.b"), "not valid"),
        (("--tenant", ">"), "not valid"),
        (("--tenant", "a", "--speaker", "s"), "--conversation"),
        (("--tenant", "a", "--conversation", "c", "--usage"), "whole tenant"),
        ((), "--tenant"),
    ],
)
def test_mistakes_are_reported(arguments: tuple[str, ...], message: str) -> None:
    command = run("erase", *arguments, NATS_URL="nats://127.0.0.1:9")
    assert command.status == 2
    assert message in command.errors


async def test_missing_streams_are_reported(nats_server: NatsServer) -> None:
    assert "stream not found" in await erase(nats_server, "--tenant", "a", "--yes", status=2)


@pytest.mark.process
@pytest.mark.parametrize("arguments", [("erase", "--tenant", "a", "--yes"), ("streams", "apply")])
async def test_a_server_without_jetstream_is_reported(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    class Plain(NatsServer):
        def store_arguments(self) -> tuple[str | Path, ...]:
            return ()

    server = Plain(tmp_path / "nats")
    server.start()
    try:
        command = await run_async(*arguments, NATS_URL=server.url)
        assert command.status == 2
        assert "JetStream is not available" in command.errors
    finally:
        server.stop()
