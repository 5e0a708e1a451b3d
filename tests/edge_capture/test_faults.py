"""The program while the broker fails, a stream is full, or a signal arrives."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import APIError

from edge_capture import session_status
from edge_capture.session_status import SessionStatus
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO, SESSIONS, TRANSCRIPTS, ensure
from natterjack.control import stop_reason
from natterjack.events import FinalEvent, StatusEvent, StatusState
from natterjack.settings import StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import transcript_subject
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import only_recording, recordings, requests, tone
from tests.freezing import freeze
from tests.nats_server import NatsServer
from tests.waiting import soon, until

pytestmark = pytest.mark.process


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """10 s of noise, in which all chunks differ."""
    path = tmp_path / "speech.wav"
    noise = np.random.default_rng(1).integers(-9000, 9000, 160_000, np.int16)
    soundfile.write(path, noise, 16000)
    return path


async def chunks(broker: Broker) -> int:
    return (await broker.client.jetstream().stream_info(AUDIO)).state.messages


async def some_chunks(broker: Broker) -> None:
    async def some() -> bool:
        return await chunks(broker) > 5

    await until(some, "some chunks are stored")


async def test_a_killed_broker_loses_and_duplicates_nothing(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    edge = start_edge("file", speech, "--speed", "5")
    await some_chunks(ready_broker)
    nats_server.kill()
    await edge.says("NATS connection lost")
    nats_server.start()
    await edge.says("NATS connection is back")
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert (recording.samples == soundfile.read(speech, dtype="int16")[0]).all()


async def test_a_broker_that_freezes_and_dies_stores_all_in_order(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, tmp_path: Path
) -> None:
    """Chunks still in the process must not overtake those lost on the way."""
    noise = np.random.default_rng(1).integers(-9000, 9000, (48_000 * 120, 2), np.int16)
    soundfile.write(tmp_path / "long.wav", noise, 48000)
    edge = start_edge(
        "file", tmp_path / "long.wav", "--split-channels", "a,b", "--speed", "20",
        "--publish-sample-rate", "48000", "--window-chunks", "10000",
    )  # fmt: skip
    await some_chunks(ready_broker)
    freeze(nats_server.pid)
    await edge.says("no acknowledgement for 5 s")
    nats_server.kill()
    nats_server.start()
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    for speaker, recording in (await recordings(ready_broker)).items():
        recording.check_whole()
        assert (recording.samples == noise[:, "ab".index(speaker)]).all()


async def test_a_broker_that_starts_late(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--speed", "max", "--window-chunks", "20")
    await edge.says("no NATS at nats://")
    assert "Traceback" not in edge.stderr
    nats_server.start()
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    (await only_recording(ready_broker)).check_whole()


async def test_with_once_a_missing_broker_ends_the_program(
    nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--once")
    assert await edge.exit_code() == 2
    assert edge.stderr.startswith("natterjack-edge: no NATS at nats://")
    assert edge.stderr.count("\n") == 1


async def test_streams_that_a_worker_creates_later(
    broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    edge = start_edge("file", speech, "--speed", "max")
    await edge.says("waiting for a worker to create the streams")
    await ensure(broker, StreamSettings())
    assert await edge.exit_code() == 0, edge.stderr
    assert edge.stderr.count("waiting for a worker to create the streams") == 1
    (await only_recording(broker)).check_whole()


async def test_a_full_stream_is_logged_once_and_retried(
    ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    js = ready_broker.client.jetstream()
    await js.delete_stream(AUDIO)
    full = StreamConfig(
        name=AUDIO, subjects=["stt.audio.>"], max_msgs=10, discard=DiscardPolicy.NEW
    )
    await js.add_stream(full)
    edge = start_edge("file", speech, "--speed", "max", "--window-chunks", "16")
    await edge.says("maximum messages exceeded")
    full.max_msgs = -1
    await js.update_stream(full)
    assert await edge.exit_code() == 0, edge.stderr
    assert edge.stderr.count("maximum messages exceeded") == 1
    assert edge.stderr.count("the broker accepts data again") == 1
    assert '"chunks": 126' in edge.stderr
    (await only_recording(ready_broker)).check_whole()


async def test_a_full_queue_is_logged_once_and_retried(
    ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    js = ready_broker.client.jetstream()
    await js.publish("stt.session.t.c.other", b"{}")
    queue = await js.stream_info(SESSIONS)
    await js.update_stream(queue.config.evolve(max_bytes=queue.state.bytes))
    edge = start_edge("file", speech, "--speed", "max")
    await edge.says("refused by the broker: maximum bytes exceeded")

    async def all_stored() -> bool:
        return await chunks(ready_broker) == 126

    await until(all_stored, "the audio is stored nevertheless")
    await js.update_stream(queue.config)
    assert await edge.exit_code() == 0, edge.stderr
    assert edge.stderr.count("maximum bytes exceeded") == 1
    assert (await js.stream_info(SESSIONS)).state.messages == 2


async def test_chunks_beyond_the_servers_limit(
    tmp_path: Path, start_edge: StartEdge, speech: Path
) -> None:
    (tmp_path / "nats.conf").write_text("max_payload: 2048\n")
    server = NatsServer(tmp_path / "small", extra_arguments=("-c", str(tmp_path / "nats.conf")))
    server.start()
    try:
        edge = start_edge(
            "file", speech, "--speed", "100", "--finish-seconds", "0.2", "--nats-url", server.url
        )
        await edge.says(
            "a chunk of 2560 bytes and its headers exceed the server's max_payload of 2048"
        )
        edge.interrupt()
        assert await edge.exit_code() == 1
        assert " chunks are unacknowledged" in edge.stderr
    finally:
        server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_session_cleanly(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, number: signal.Signals
) -> None:
    edge = start_edge("file", speech)
    await some_chunks(ready_broker)
    edge.process.send_signal(number)
    assert await edge.exit_code() == 0
    assert "everything is published and acknowledged" in edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert 0.4 < recording.seconds < 10, "it was not ended by the signal"


async def test_a_second_signal_aborts(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    edge = start_edge("file", speech)
    await some_chunks(ready_broker)
    nats_server.kill()
    await edge.says("NATS connection lost")
    edge.interrupt()
    await edge.says("stopping; signal again to abort")
    edge.interrupt()
    assert await edge.exit_code() == 130


async def test_unacknowledged_chunks_are_counted(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    edge = start_edge("file", speech, "--finish-seconds", "0.3", "--speed", "2")
    await some_chunks(ready_broker)
    nats_server.kill()
    await edge.says("NATS connection lost")
    edge.interrupt()
    assert await edge.exit_code() == 1
    assert " chunks are unacknowledged" in edge.stderr
    assert "Traceback" not in edge.stderr


async def test_stopped_without_ever_being_connected(
    nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--finish-seconds", "0.3", "--window-chunks", "4")
    await edge.says("no NATS at")
    edge.interrupt()
    assert await edge.exit_code() == 1
    assert "and so is the session request" in edge.stderr


def status_event(spec: SessionSpec, sequence: int, state: StatusState) -> StatusEvent:
    return StatusEvent(
        session_id=spec.session_id, tenant=spec.tenant, conversation=spec.conversation,
        speaker=spec.speaker, epoch=1, published_at=datetime.now(UTC), sequence=sequence,
        state=state, worker="worker-1", reason="no credit" if state == "failed" else None,
    )  # fmt: skip


def final_event(spec: SessionSpec, sequence: int, text: str) -> FinalEvent:
    return FinalEvent(
        session_id=spec.session_id, tenant=spec.tenant, conversation=spec.conversation,
        speaker=spec.speaker, epoch=1, published_at=datetime.now(UTC), sequence=sequence,
        segment=sequence - 1, text=text, start=sequence - 1, end=sequence - 0.1,
        started_at=spec.opened_at, provider="none",
    )  # fmt: skip


async def say(broker: Broker, event: FinalEvent | StatusEvent) -> None:
    subject = transcript_subject(event.key, event.type)
    await broker.client.jetstream().publish(subject, event.encode())


@pytest.mark.parametrize(("state", "code"), [("closed", 0), ("failed", 1)])
async def test_waits_for_the_sessions_end(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, state: StatusState, code: int
) -> None:
    edge = start_edge("file", speech, "--speed", "max", "--wait")

    async def all_stored() -> bool:
        return await chunks(ready_broker) == 126

    await until(all_stored, "all is stored")
    (spec,) = await requests(ready_broker)
    stranger = spec.model_copy(update={"session_id": "another-session"})
    await say(ready_broker, status_event(stranger, 0, "closed"))
    await say(ready_broker, status_event(spec, 0, "streaming"))
    await edge.says("session streaming")
    assert edge.process.poll() is None
    await say(ready_broker, final_event(stranger, 1, "not this"))
    await say(ready_broker, final_event(spec, 1, "Hello\x1b[2J there."))
    await say(ready_broker, final_event(spec, 2, "Good-bye."))
    assert "Hello" not in edge.stdout
    await say(ready_broker, status_event(spec, 3, state))
    assert await edge.exit_code() == code
    assert f"session {state}" in edge.stderr
    session, text, *_ = edge.stdout.splitlines()
    assert session == f"{spec.key} {spec.session_id}"
    assert text == "Hello [2J there. Good-bye."
    assert ("no credit" in edge.stderr) == (state == "failed")


async def test_nothing_more_is_published_of_a_session_that_a_request_ended(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    edge = start_edge("file", speech, "--speed", "0.2", "--spool", spool)
    await some_chunks(ready_broker)
    (spec,) = await requests(ready_broker)
    event = status_event(spec, 0, "closed").model_copy(update={"reason": stop_reason("erased")})
    await say(ready_broker, event)
    assert await edge.exit_code() == 1, edge.stderr
    assert "the session was ended by a request: nothing more of it is published" in edge.stderr
    assert "unacknowledged" not in edge.stderr
    before = await chunks(ready_broker)
    assert before < 126
    assert not any(path.is_dir() for path in spool.iterdir())


async def test_a_session_that_a_request_ended_while_the_connection_was_down(
    ready_broker: Broker,
) -> None:
    spec = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)
    event = status_event(spec, 0, "closed").model_copy(update={"reason": stop_reason("erased")})
    await say(ready_broker, event)
    status = SessionStatus(spec)
    await status.subscribe(ready_broker)
    stopped = asyncio.create_task(status.wait_ended())
    await ready_broker.client.flush()
    assert not status.closing
    ready_broker.client.abort()
    await soon(stopped, 10)


async def test_a_request_ended_the_session_although_its_event_is_erased(
    ready_broker: Broker,
) -> None:
    """`natterjack erase --stop` removes it at once, before a busy edge has looked for it."""
    spec = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)
    status = SessionStatus(spec)
    event = status_event(spec, 0, "closed").model_copy(update={"reason": stop_reason("erased")})
    await status.subscribe(ready_broker)
    await say(ready_broker, event)
    await until(lambda: status.closing, "it was heard")
    await ready_broker.client.jetstream().purge_stream(TRANSCRIPTS)
    assert await soon(status.wait_ended(), 10) == event


async def test_a_request_ends_the_session_after_a_refused_event(
    ready_broker: Broker,
) -> None:
    spec = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)
    status = SessionStatus(spec)
    await status.subscribe(ready_broker)
    stopped = asyncio.create_task(status.wait_ended())
    unheard = status_event(spec, 7, "failed")
    js = ready_broker.client.jetstream()
    with pytest.raises(APIError):
        await js.publish(
            transcript_subject(spec.key, "status"), unheard.encode(),
            headers={"Nats-Expected-Last-Subject-Sequence": "999"},
        )  # fmt: skip
    await until(lambda: status.closing, "the session counts as ended")
    await ready_broker.client.flush()
    assert not stopped.done()
    later = {"epoch": 2, "reason": stop_reason("erased")}
    await say(ready_broker, status_event(spec, 1, "closed").model_copy(update=later))
    await soon(stopped, 10)


async def test_an_end_is_known_although_a_later_session_has_the_newest_event(
    ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream gives no older event than the newest of the key to this user."""
    monkeypatch.setattr(session_status, "_RETRIES_S", (0.01, 0.01))
    spec = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)
    later = spec.model_copy(update={"session_id": "a-later-session"})
    for heard in ("streaming", "closed"):
        status = SessionStatus(spec)
        await status.subscribe(ready_broker)
        ended = asyncio.create_task(status.wait_ended())
        status.received(status_event(spec, 3, heard).encode())
        await say(ready_broker, status_event(later, 0, "assigned"))
        status.poll()
        event = await soon(ended, 20)
        assert (event is None) == (heard == "streaming")
        await status.unsubscribe()


async def test_an_event_that_the_stream_refuses_ends_nothing(
    ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    edge = start_edge("file", speech, "--speed", "2")
    await some_chunks(ready_broker)
    (spec,) = await requests(ready_broker)
    await say(ready_broker, status_event(spec, 0, "streaming"))
    event = status_event(spec, 1, "closed").model_copy(update={"reason": stop_reason("old")})
    live = transcript_subject(spec.key, "status")
    js = ready_broker.client.jetstream()
    with pytest.raises(APIError):  # as for a worker that has lost its lease
        await js.publish(
            live, event.encode(), headers={"Nats-Expected-Last-Subject-Sequence": "999"}
        )
    await edge.says("session closed")
    assert await edge.exit_code() == 0, edge.stderr
    assert await chunks(ready_broker) == 126


@pytest.mark.parametrize("quiet", ["--quiet", "EDGE_QUIET"])
async def test_waiting_is_ended_by_a_signal(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, quiet: str
) -> None:
    flags = [quiet] if quiet == "--quiet" else []
    environment = {} if flags else {quiet: "true"}
    edge = start_edge("file", speech, "--speed", "max", "--wait", *flags, environment=environment)

    async def all_stored() -> bool:
        return await chunks(ready_broker) == 126

    await until(all_stored, "all is stored")
    edge.interrupt()
    assert await edge.exit_code() == 1
    assert edge.stderr == ""


async def test_progress_is_logged_away_from_a_terminal(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 60, 8000), 8000)
    edge = start_edge("file", tmp_path / "a.wav")
    await edge.says('"state": "waiting for a worker"')
    edge.interrupt()
    assert await edge.exit_code() == 0
    assert '"level_dbfs": -9' in edge.stderr
