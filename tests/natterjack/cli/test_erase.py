"""`natterjack erase` on a real server: all of one tenant, nothing of another, no surprise."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.fleet.usage import DayUsage
from natterjack.local.demo import bundled_recording
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from tests.edge_capture.program import Edge
from tests.waiting import until
from tests.worker.programs import Speaker, StartWorker, closed, queue_empty, spoken

from .test_commands import Command


async def erase(server: EmbeddedServer, *arguments: str, status: int = 0) -> str:
    """What it prints, errors included."""
    async with Command("erase", *arguments, NATS_URL=server.url) as command:
        assert await command.status() == status, command.out + command.errors
    assert "Traceback" not in command.errors
    return command.out + command.errors


async def kept(broker: Broker, tenant: str) -> dict[str, int]:
    """Messages by stream whose subject has the tenant as one of its words."""
    found = {}
    js = broker.client.jetstream()
    for config in await js.streams_info():
        assert config.config.name is not None
        info = await js.stream_info(config.config.name, subjects_filter=">")
        subjects = info.state.subjects or {}
        count = sum(n for subject, n in subjects.items() if tenant in subject.split("."))
        if count:
            found[config.config.name] = count
    return found


async def test_all_of_a_tenant_goes_and_nothing_of_another(
    nats_server: EmbeddedServer,
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
    worker.signal(signal.SIGTERM)  # it writes what was used
    assert await worker.wait() == 0
    before, theirs = await kept(broker, "acme"), await kept(broker, "other")
    assert {*before} == {"STT_AUDIO", "STT_TRANSCRIPTS", "KV_stt_sessions", "KV_stt_usage"}

    counted = await erase(nats_server, "--tenant", "acme", "--dry-run")
    assert "nothing was removed" in counted
    assert await kept(broker, "acme") == before

    await erase(nats_server, "--tenant", "acme", "--conversation", "one", "--yes")
    left = await kept(broker, "acme")
    assert 0 < left["STT_TRANSCRIPTS"] < before["STT_TRANSCRIPTS"]
    assert left["KV_stt_sessions"] == 1

    await erase(nats_server, "--tenant", "acme", "--yes")
    assert await kept(broker, "acme") == {"KV_stt_usage": before["KV_stt_usage"]}
    await erase(nats_server, "--tenant", "acme", "--usage", "--yes")
    assert await kept(broker, "acme") == {}
    assert await kept(broker, "other") == theirs


async def test_open_sessions_are_named_and_ended_only_with_leave(
    nats_server: EmbeddedServer,
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
    said = await erase(nats_server, "--tenant", "acme", "--yes", status=1)
    assert "2 sessions are open" in said
    assert "acme.c.s" in said
    assert (await kept(broker, "acme"))["STT_AUDIO"]
    # The worker's slot must not go to the session that waits before its request is gone.
    said = await erase(
        nats_server, "--tenant", "acme", "--conversation", "waits", "--stop", "--yes"
    )
    assert (await kept(broker, "acme"))["STT_SESSIONS"] == 1
    speaking.cancel()
    await asyncio.wait([speaking])
    await erase(nats_server, "--tenant", "acme", "--stop", "--yes")
    await queue_empty(broker)
    found = await kept(broker, "acme")
    assert {*found} <= {"KV_stt_usage"}
    assert worker.running


async def test_whoever_goes_on_writing_is_found_out(
    nats_server: EmbeddedServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    """One that does not heed the end of its session, as an agent does."""
    speaker = Speaker(broker_settings, 90, tenant="acme", speed=2)
    await start_worker()
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4.0)
    said = await erase(nats_server, "--tenant", "acme", "--stop", "--yes", status=1)
    assert "somebody goes on writing, and will after this: sound " in said
    assert "Remove the tenant's users first" in said
    speaking.cancel()
    await asyncio.wait([speaking])
    await erase(nats_server, "--tenant", "acme", "--stop", "--yes")
    assert {*await kept(broker, "acme")} <= {"KV_stt_usage"}


async def test_an_agent_whose_session_is_erased_publishes_no_more(
    nats_server: EmbeddedServer, broker: Broker, start_worker: StartWorker, tmp_path: Path
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
    assert {*await kept(broker, "acme")} <= {"KV_stt_usage"}


async def test_use_goes_while_its_worker_runs(
    nats_server: EmbeddedServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    """The worker forgets it: what it writes from then on is what was used since."""
    worker = await start_worker()

    async def use(tenant: str, conversation: str) -> None:
        speaker = Speaker(broker_settings, 4, tenant=tenant, conversation=conversation)
        await speaker.speak()
        await closed(broker, speaker.spec)
        await queue_empty(broker)

    await use("acme", "one")
    await use("other", "one")
    await erase(nats_server, "--tenant", "acme", "--usage", "--yes")
    assert await kept(broker, "acme") == {}
    await use("acme", "two")
    await use("other", "two")
    worker.signal(signal.SIGTERM)  # it writes what is not written
    assert await worker.wait() == 0
    ((ours,), (theirs,)) = await usage_of(broker, "acme"), await usage_of(broker, "other")
    assert 1.5 < ours.captured_seconds < 3  # half a second a word
    assert 3.5 < theirs.captured_seconds < 5


async def usage_of(broker: Broker, tenant: str) -> list[DayUsage]:
    """The entries of a tenant's use, of today and of all processes."""
    js = broker.client.jetstream()
    stream = f"KV_{streams.USAGE_BUCKET}"
    state = (await js.stream_info(stream, subjects_filter=f"$KV.*.*.{tenant}.*")).state
    messages = [await js.get_last_msg(stream, subject) for subject in state.subjects or {}]
    return [DayUsage.model_validate_json(message.data or b"") for message in messages]


async def test_requests_that_nobody_can_take_and_a_dead_workers_slots_go(
    nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    for subject in ("we$ird.s", "deep.er.s.t", "c"):
        await js.publish(f"stt.session.acme.{subject}", b'{"labels":{"patient":"x"}}')
    await js.publish("stt.session.other.we$ird.s", b"{}")
    for slot, tenant in enumerate(("acme", "other", "acme-2")):
        claim = json.dumps({"id": str(slot), "tenant": tenant, "by": "gone"})
        await js.publish(f"stt.slot.deepgram.{slot}", claim.encode())
    said = await erase(nats_server, "--tenant", "acme", "--dry-run")
    assert re.search(r"bad requests +3 ", said)
    assert re.search(r"slots +1 ", said)
    await erase(nats_server, "--tenant", "acme", "--yes")
    assert await kept(ready_broker, "acme") == {}
    assert await kept(ready_broker, "other") == {"STT_SESSIONS": 1}
    assert (await js.stream_info(streams.SLOTS)).state.messages == 2
    assert "slots" not in await erase(nats_server, "--tenant", "acme", "--dry-run")


async def test_it_asks_first(nats_server: EmbeddedServer, ready_broker: Broker) -> None:
    js = ready_broker.client.jetstream()
    await js.publish("stt.audio.acme.c.s", b"sound")
    assert "--yes is needed" in await erase(nats_server, "--tenant", "acme", status=2)
    assert (await js.stream_info(streams.AUDIO)).state.messages == 1
    async with Command(
        "erase", "--tenant", "acme", terminal=True, NATS_URL=nats_server.url
    ) as command:
        await until(lambda: "--yes is needed" in command.errors, "it has no terminal to read")
        assert await command.status() == 2
    assert (await js.stream_info(streams.AUDIO)).state.messages == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tenant", "a.b"), "not valid"),
        (("--tenant", ">"), "not valid"),
        (("--tenant", "a", "--speaker", "s"), "--conversation"),
        (("--tenant", "a", "--conversation", "c", "--usage"), "whole tenant"),
        ((), "--tenant"),
    ],
)
async def test_mistakes_are_named(
    nats_server: EmbeddedServer, ready_broker: Broker, arguments: tuple[str, ...], said: str
) -> None:
    assert said in await erase(nats_server, *arguments, status=2)


async def test_without_streams_it_says_so(nats_server: EmbeddedServer) -> None:
    assert "stream not found" in await erase(nats_server, "--tenant", "a", "--yes", status=2)


@pytest.mark.process
@pytest.mark.parametrize("arguments", [("erase", "--tenant", "a", "--yes"), ("streams", "apply")])
async def test_a_server_without_jetstream_is_said(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    class Plain(EmbeddedServer):
        def store_arguments(self) -> tuple[str | Path, ...]:
            return ()

    server = Plain(tmp_path / "nats")
    server.start()
    try:
        async with Command(*arguments, NATS_URL=server.url) as command:
            assert await command.status() == 2
        assert "JetStream is not available" in command.errors
    finally:
        server.stop()
