from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from typing import Any

import pytest

from edge_capture import session_status
from edge_capture.chunks import Chunk
from edge_capture.delivery import chain as chain_module
from edge_capture.delivery import publisher as publisher_module
from edge_capture.delivery.backlog import AHEAD_CHUNKS, Backlog
from edge_capture.delivery.chain import Chain
from edge_capture.delivery.publisher import Publisher
from edge_capture.session_status import SessionStatus
from edge_capture.succession import Stopped, Untranscribed
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.events import StatusState
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject
from tests.edge_capture.program import only_recording
from tests.edge_capture.samples import FRAMES, chunk
from tests.edge_capture.test_faults import say, status_event
from tests.faults.proxy import NatsProxy
from tests.freezing import freeze
from tests.limited import LimitedServer
from tests.waiting import soon, until

SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)


def publisher_with(window_chunks: int) -> Publisher:
    """Return a publisher for a source that can wait."""
    backlog = Backlog(SPEC, max_seconds=1, ahead_chunks=AHEAD_CHUNKS)
    return Publisher(backlog, window_chunks=window_chunks)


async def test_the_window_is_kept_while_the_broker_is_down(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    publisher = publisher_with(8)
    running = asyncio.create_task(publisher.run(ready_broker))
    for index in range(5):
        publisher.offer(chunk(index))
    await until(lambda: publisher.acknowledged == 5, "five are stored")
    nats_server.kill()
    await until(lambda: not ready_broker.connected, "the connection is lost")
    offered = 5
    while True:  # until the publisher is full
        try:
            await asyncio.wait_for(publisher.wait_for_room(), 1)
        except TimeoutError:
            break
        publisher.offer(chunk(offered))
        offered += 1
        assert publisher.in_flight <= 8
    assert publisher.unacknowledged <= 8 + 16
    nats_server.start()
    publisher.offer(chunk(offered, end=True))
    await soon(running, 20)
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert len(recording.headers) == offered + 1
    assert publisher.acknowledged == publisher.published == offered + 1


async def test_beyond_the_buffer_the_oldest_audio_is_dropped(
    ready_broker: Broker, nats_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    nats_server.kill()
    await until(lambda: not ready_broker.connected, "the connection is lost")
    publisher = Publisher(Backlog(SPEC, max_seconds=2), window_chunks=4)
    running = asyncio.create_task(publisher.run(ready_broker))
    for index in range(60):
        publisher.offer(chunk(index))
        await asyncio.sleep(0)
    assert publisher.unacknowledged == 20
    assert publisher.dropped_frames == 40 * FRAMES
    publisher.offer(Chunk(60 * FRAMES, 0, b"", True))
    nats_server.start()
    await soon(running, 20)
    recording = await only_recording(ready_broker)
    assert [header.seq for header in recording.headers] == list(range(21))
    assert [header.pos for header in recording.headers] == [i * FRAMES for i in range(40, 61)]
    assert recording.headers[-1].end
    assert sum("oldest audio is dropped" in record.message for record in caplog.records) == 1
    assert any("4.0 s of audio were dropped" in record.message for record in caplog.records)


async def test_chunks_wait_while_the_servers_limit_is_too_low(
    limited_server: LimitedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher_module, "_LIMIT_S", 0.5)
    publisher = publisher_with(8)
    async with connected(BrokerSettings(url=limited_server.url), name="edge") as broker:
        await streams.ensure(broker, StreamSettings())
        running = asyncio.create_task(publisher.run(broker))
        publisher.offer(chunk(0))
        await until(lambda: publisher.acknowledged == 1, "one is stored")
        await limited_server.reload(1024)
        for index in range(1, 6):
            publisher.offer(chunk(index, end=index == 5))
        await until(
            lambda: "exceed the server's max_payload of 1024" in caplog.text, "it is logged"
        )
        reconnects = broker.reconnects
        await until(lambda: broker.reconnects > reconnects, "it asks for the limit")
        assert publisher.in_flight + len(publisher.backlog) == 5
        await limited_server.reload(65_536)
        await soon(running, 30)
        (await only_recording(broker)).check_whole()
    assert caplog.text.count("exceed the server's max_payload") == 1


async def test_a_request_that_is_too_large_does_not_stop_the_audio(
    limited_server: LimitedServer, caplog: pytest.LogCaptureFixture
) -> None:
    spec = SPEC.model_copy(update={"keyterms": ["toad" * 10] * 2000})
    backlog = Backlog(spec, max_seconds=1, ahead_chunks=AHEAD_CHUNKS)
    publisher = Publisher(backlog, window_chunks=8)
    async with connected(BrokerSettings(url=limited_server.url), name="edge") as broker:
        await streams.ensure(broker, StreamSettings())
        running = asyncio.create_task(publisher.run(broker))
        publisher.offer(chunk(0, end=True))
        await until(lambda: publisher.acknowledged == 1, "the audio is stored")
        await until(lambda: "session request of" in caplog.text, "it is logged")
        assert not publisher.opened
        assert publisher.problem is not None
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


async def test_a_subscriber_that_does_not_reply_is_noticed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a subscriber in place of the stream, the server does not report "no responders"."""
    monkeypatch.setattr(publisher_module, "_OVERDUE_S", 0.5)
    received: list[bytes] = []

    async def listen(message: object) -> None:
        received.append(b"")

    await broker.client.subscribe(audio_subject(SPEC.key), cb=listen)
    publisher = publisher_with(4)
    running = asyncio.create_task(publisher.run(broker))
    for index in range(4):
        publisher.offer(chunk(index))
    await until(lambda: publisher.problem is not None, "it is noticed")
    await until(lambda: publisher.resent >= 2, "the oldest is tried again", 20)
    await until(lambda: len(received) == 4 + publisher.resent, "all of it has come")
    running.cancel()
    await asyncio.wait([running])


async def test_a_publisher_continues_on_another_connection(
    ready_broker: Broker, broker_settings: BrokerSettings, nats_server: EmbeddedServer
) -> None:
    """nats-py closes a connection for good on some errors, such as expired credentials."""
    publisher = publisher_with(8)
    async with connected(broker_settings, name="first", once=True) as first:
        running = asyncio.create_task(publisher.run(first))
        publisher.offer(chunk(0))
        await until(lambda: publisher.acknowledged == 1, "the first is stored")
        freeze(nats_server.pid)
        for index in range(1, 7):
            publisher.offer(chunk(index))
        await until(lambda: publisher.in_flight == 6, "six are on their way")
        await first.client.close()
        await soon(running, 5)
    os.kill(nats_server.pid, signal.SIGCONT)
    async with connected(broker_settings, name="second", once=True) as second:
        publisher.offer(chunk(7, end=True))
        await soon(publisher.run(second), 20)
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert len(recording.headers) == 8


async def test_a_publisher_can_be_cancelled_while_it_waits(ready_broker: Broker) -> None:
    publisher = publisher_with(4)
    running = asyncio.create_task(publisher.run(ready_broker))
    await until(lambda: publisher.opened, "the request is stored")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert not ready_broker.on_reconnect


@pytest.mark.parametrize("often", [False, True])
async def test_a_missed_closing_event_is_found_in_the_stream(
    often: bool, ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by an edge that captures, and whose connection never fails."""
    monkeypatch.setattr(session_status, "_REFRESH_S" if often else "_QUIET_S", 0.2)
    status = SessionStatus(SPEC)
    await status.subscribe(ready_broker)
    if often:
        status.poll()
    ended = asyncio.create_task(status.wait_ended())
    await ready_broker.client.flush()
    await status.unsubscribe()
    await say(ready_broker, status_event(SPEC, 3, "closed"))
    assert await soon(ended, 20) is not None
    assert (status.state, status.worker) == ("closed", "worker-1")


async def test_an_earlier_sessions_end_is_asked_for_until_the_stream_answers(
    broker: Broker, nats_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a stream that has no leader for a moment: the session is not sent as one that goes
    on."""

    async def make_stream() -> None:
        await streams.ensure(broker, StreamSettings())
        await say(broker, status_event(SPEC, 3, "closed"))

    status = SessionStatus(SPEC)
    async with NatsProxy(nats_server.port) as proxy:
        asked = f"$JS.API.DIRECT.GET.{streams.TRANSCRIPTS}.>"
        proxy.before(asked, make_stream, n=2)  # the first answer is that there is no stream
        async with connected(BrokerSettings(url=proxy.url), name="edge", once=True) as edge:
            await status.subscribe(edge)
            assert await soon(status.has_ended(requested=False), 20)
    assert status.closing
    assert "does not say" not in caplog.text


@pytest.mark.parametrize(
    ("opened_s", "state", "requested", "has_ended"),
    [
        (1, "closed", True, True),
        (1, "closed", False, False),
        (-1, "closed", True, False),
        (None, "closed", True, False),
        (1, "streaming", True, False),
    ],
    ids=["later", "not requested", "earlier", "unknown", "not ended"],
)
async def test_an_earlier_session_has_ended_if_a_later_one_has_run(
    opened_s: float | None,
    state: StatusState,
    requested: bool,
    has_ended: bool,
    ready_broker: Broker,
) -> None:
    """No event of it was ever received. `opened_s` is when the other one was requested."""
    other: dict[str, Any] = {"session_id": "another-session"}
    if state == "closed":
        opened = None if opened_s is None else SPEC.opened_at + timedelta(seconds=opened_s)
        other["request"] = {} if opened is None else {"opened_at": opened.isoformat()}
    await say(ready_broker, status_event(SPEC, 3, state).model_copy(update=other))
    status = SessionStatus(SPEC)
    await status.subscribe(ready_broker)
    assert await soon(status.has_ended(requested=requested), 20) == has_ended
    assert status.end is None


async def test_an_earlier_session_is_sent_although_the_stream_does_not_answer(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_status, "_RETRIES_S", (0.01, 0.01))
    status = SessionStatus(SPEC)
    await status.subscribe(broker)
    assert not await soon(status.has_ended(requested=True), 20)
    assert caplog.text.count("the stream does not say whether the session has ended") == 1


async def test_a_successor_starts_within_reach_of_the_audio_although_an_end_is_unknown() -> None:
    """That session may have started days ago. A worker would take the audio for forged."""
    publisher = publisher_with(4)
    chain = Chain(publisher, live=True)
    publisher.offer(chunk(0)._replace(pos=48 * 3600 * SPEC.sample_rate))
    await chain._after(None)
    assert chain.spec.continues == SPEC.session_id
    newest = publisher.offered_position
    assert newest is not None
    assert newest - chain.spec.start_position == 12 * 3600 * SPEC.sample_rate


async def test_audio_that_nothing_transcribes_is_logged_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chain_module, "_REMIND_S", 0.01)
    publisher = publisher_with(4)
    chain = Chain(publisher, live=True)
    chain.outcome = Untranscribed(None)
    reminding = asyncio.create_task(chain.remind())
    await until(lambda: caplog.text.count("the rest is not transcribed") > 2, "it is logged")
    publisher.offer(chunk(0, end=True))
    await soon(reminding, 20)
    chain.outcome = Stopped()
    await soon(chain.remind(), 20)
