"""Worker processes: complete sessions through a real broker and a provider emulator."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import pytest
import soundfile
import soxr

from natterjack.audio import AUDIO_SEQ
from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import InterimEvent, StatusEvent
from natterjack.local.demo import MAX_WORD_ERROR_RATE, bundled_recording, bundled_text
from natterjack.local.wer import word_error_rate
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject
from tests.nats_server import NatsServer

from ..waiting import bound, until
from .programs import (
    RATE,
    UNDISTURBED,
    Speaker,
    StartWorker,
    WorkerProcess,
    closed,
    holder,
    live_events,
    queue_empty,
    spoken,
    stored,
)

pytestmark = pytest.mark.process

# ---- sessions without faults ----------------------------------------------------------------


@pytest.mark.interpreter
async def test_a_session_from_request_to_closing_event(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    worker = await start_worker(**UNDISTURBED)
    speaker = Speaker(broker_settings, 40, language="en-US")
    async with live_events(broker, speaker.spec) as live:
        await speaker.speak()
        transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
    account = transcript.closing[0].account
    assert account is not None
    assert account.captured_seconds == pytest.approx(speaker.seconds, abs=0.01)
    assert account.received_seconds == account.captured_seconds
    assert account.transcribed_seconds == account.captured_seconds
    assert account.sent_seconds == account.captured_seconds
    assert account.gaps == []
    assert account.bad_chunks == {}
    interims = [event for event in live if isinstance(event, InterimEvent)]
    assert interims
    assert all(
        final.latency is not None and final.latency < bound(5) for final in transcript.finals
    )
    assert all(final.started_at is not None for final in transcript.finals)
    await queue_empty(broker)

    async def counted() -> bool:
        status, metrics = await worker.get("/metrics")
        assert status == 200
        return 'natterjack_sessions_ended_total{outcome="closed"} 1.0' in metrics

    await until(counted, "the session's end is counted")
    _, metrics = await worker.get("/metrics")
    assert 'natterjack_session_accounts_total{complete="true"} 1.0' in metrics
    assert 'natterjack_speech_seconds_total{provider="deepgram"} 0.0' not in metrics


async def test_sessions_do_not_mix(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speakers = [Speaker(broker_settings, 10 + n, conversation=f"c{n}", speed=6) for n in range(8)]
    await asyncio.gather(*(speaker.speak() for speaker in speakers))
    for speaker in speakers:
        (await closed(broker, speaker.spec)).audit(speaker)


async def test_audio_published_before_any_worker_starts_is_transcribed(
    start_worker: StartWorker, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    speaker = Speaker(broker_settings, 20, speed=50)
    await speaker.speak()
    await start_worker()
    (await closed(ready_broker, speaker.spec)).audit(speaker)


async def test_no_more_sessions_than_slots(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    first = await start_worker(WORKER_MAX_SESSIONS="2", **UNDISTURBED)
    speakers = [Speaker(broker_settings, 12, conversation=f"c{n}", speed=6) for n in range(5)]
    speaking = asyncio.gather(*(speaker.speak() for speaker in speakers))
    for speaker in speakers:
        (await closed(broker, speaker.spec)).audit(speaker)
    await speaking
    _, metrics = await first.get("/metrics")
    assert "natterjack_session_slots 2.0" in metrics
    # Never more than two sessions at once.
    held = most = 0
    for entry in first.log:
        held += (entry["message"] == "session waiting") - (entry["message"] == "session closed")
        most = max(most, held)
    assert most == 2


# ---- killed and frozen processes ------------------------------------------------------------


async def test_sigkill_of_a_worker_in_mid_speech(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 7.0)
    (await holder(workers)).signal(signal.SIGKILL)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states.count("assigned") == 2
    assert {event.epoch for event in transcript.events} == {1, 2}


async def test_sigkill_of_a_worker_in_the_middle_of_a_flac_session(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """The second worker begins with any chunk; positions and words are those of raw audio."""
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 60, speed=2, encoding="flac")
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 7.0)
    (await holder(workers)).signal(signal.SIGKILL)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states.count("assigned") == 2
    closing = transcript.events[-1]
    assert isinstance(closing, StatusEvent)
    assert closing.account is not None
    assert closing.account.captured_seconds == pytest.approx(speaker.seconds)
    assert not closing.account.gaps


async def test_sigkill_and_restart_of_the_broker(
    nats_server: NatsServer,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    for seconds in (6.0, 12.0):
        await spoken(speaker, seconds)
        nats_server.kill()
        nats_server.start()
    await speaking
    (await closed(broker, speaker.spec, 60)).audit(speaker)


@pytest.mark.interpreter
async def test_sigterm_hands_the_session_over(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    workers = [await start_worker(**UNDISTURBED), await start_worker(**UNDISTURBED)]
    speaker = Speaker(broker_settings, 50, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 5.0)
    old = await holder(workers)
    old.signal(signal.SIGTERM)
    assert await old.wait() == 0
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert "handed_over" in transcript.states
    assert transcript.states.count("assigned") == 2
    # The queue delivered the session to the next worker at once, before the lease ran out.
    at = {
        event.epoch: event.published_at
        for event in reversed(transcript.events)
        if isinstance(event, StatusEvent) and event.state in ("handed_over", "assigned")
    }
    left = next(
        e.published_at
        for e in transcript.events
        if isinstance(e, StatusEvent) and e.state == "handed_over"
    )
    assert (at[2] - left).total_seconds() < 30 < float(UNDISTURBED["NATTERJACK_LEASE_SECONDS"])


async def test_a_frozen_worker_is_fenced_when_it_wakes(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 70, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 5.0)
    zombie = await holder(workers)
    zombie.freeze()
    other = next(worker for worker in workers if worker is not zombie)
    await until(lambda: other.find("session streaming"), "the other worker has it", 20)
    zombie.signal(signal.SIGCONT)
    await until(lambda: zombie.find("session lost"), "the zombie noticed", 20)
    await speaking
    (await closed(broker, speaker.spec, 60)).audit(speaker)


async def test_real_speech_survives_a_killed_worker(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """With the embedded engine and the bundled recording, no passage is missing or repeated."""
    workers = [await start_worker(WORKER_PROVIDER="sherpa") for _ in range(2)]
    speaker = Speaker(broker_settings, 1, speed=3)
    samples, rate = soundfile.read(bundled_recording(), dtype="int16")
    samples, said = samples[: 24 * rate], bundled_text().partition(", we were all going")[0]
    speaker.pcm = soxr.resample(samples, rate, RATE).tobytes()
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 12.0)
    (await holder(workers)).signal(signal.SIGKILL)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    text = " ".join(final.text for final in transcript.finals)
    assert word_error_rate(said, text) < MAX_WORD_ERROR_RATE, text
    assert transcript.states.count("assigned") == 2
    assert all(final.times_estimated for final in transcript.finals)
    assert all(word.confidence is None for final in transcript.finals for word in final.words)


# ---- provider faults ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "cause"),
    [
        ({"drop_mid_word": 5, "connections": 2}, "dropped"),
        ({"close_after_seconds": 4.0, "close_code": 1011, "connections": 1}, "dropped"),
        ({"mute_after_seconds": 4.0, "connections": 1}, "mute"),
        ({"handshake_status": 503, "handshakes": 3}, "server_error"),
        ({"handshake_status": 429, "handshakes": 2}, "rate_limit"),
        ({"handshake_drop": True, "handshakes": 2}, "connect"),
        ({"drop_before_summary": True, "connections": 1}, "dropped"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_provider_faults_cost_no_word(
    faults: dict[str, float],
    cause: str,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_MUTE_SECONDS="2")
    await emulator.set(**faults)
    speaker = Speaker(broker_settings, 30, speed=3)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries.get(cause, 0) >= 1, account
    assert transcript.states.count("recovering") == sum(account.recoveries.values())


async def test_a_provider_that_stops_reading(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_SEND_BLOCKED_SECONDS="1", DEEPGRAM_CATCH_UP_RATE="1000")
    await emulator.set(stop_reading_after_seconds=3.0, connections=1)
    speaker = Speaker(broker_settings, 400, speed=1000)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    account = transcript.closing[0].account
    assert account is not None
    assert set(account.recoveries) & {"send_blocked", "mute"}


async def test_nonsense_from_the_provider_is_counted_and_skipped(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    worker = await start_worker(**UNDISTURBED)
    await emulator.set(garbage=("all",))
    speaker = Speaker(broker_settings, 40)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
    _, metrics = await worker.get("/metrics")
    assert 'natterjack_provider_notices_total{code="malformed",provider="deepgram"}' in metrics


async def test_an_unknown_provider_is_skipped(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 10, provider=["no-such", "deepgram"])
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    alone = Speaker(broker_settings, 3, conversation="d", provider="no-such", speed=20)
    await alone.speak()
    transcript = await closed(broker, alone.spec)
    assert transcript.states == ["assigned", "failed"]
    assert "unknown provider 'no-such'" in (transcript.closing[0].reason or "")
    assert "deepgram" in (transcript.closing[0].reason or "")


# ---- edges ----------------------------------------------------------------------------------


async def test_chunks_with_bad_headers_are_counted_in_the_account(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 12)
    subject = audio_subject(speaker.spec.key)

    def forge(seq: int) -> None:
        if seq in (10, 20, 30):
            headers = {"Session-Id": speaker.spec.session_id, AUDIO_SEQ: "nonsense"}
            forging.append(
                asyncio.create_task(
                    broker.client.publish(subject, bytes([seq, 0]), headers=headers)
                )
            )

    forging: list[asyncio.Task[None]] = []
    await speaker.speak(before_chunk=forge)
    await asyncio.gather(*forging)
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    account = transcript.closing[0].account
    assert account is not None
    assert account.bad_chunks == {"headers": 3}


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ('{"session_id":"12345678","tenant":"t","conversation":"c","speaker":"s",'
         '"encoding":"mp3"}', "encoding"),
        ('{"session_id":"12345678","tenant":"x","conversation":"c","speaker":"s"}', "its subject"),
    ],
)  # fmt: skip
async def test_a_bad_request_fails_the_session(
    payload: str, text: str, start_worker: StartWorker, broker: Broker
) -> None:
    await start_worker()
    spec = SessionSpec(session_id="12345678", tenant="t", conversation="c", speaker="s")
    await broker.client.jetstream().publish(session_subject(spec.key), payload.encode())
    transcript = await closed(broker, spec)
    assert transcript.states == ["assigned", "failed"]
    assert text in (transcript.closing[0].reason or "")


async def test_a_request_without_a_session_is_dropped_and_logged(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    worker = await start_worker()
    js = broker.client.jetstream()
    await js.publish("stt.session.t.c.s", b"}{")
    await js.publish("stt.session.t.c", b"{}")
    await js.publish("stt.session.t.c.s", b"[" * 60_000)
    await js.publish("stt.session.t.c.s", b"", headers={"Status": "503"})
    forever = b'{"session_id":"12345678","tenant":"t","conversation":"c","speaker":"s",'
    await js.publish("stt.session.t.c.s", forever + b'"max_seconds":Infinity}')
    await until(
        lambda: [e["level"] for e in worker.log].count("error") == 4, "all errors are logged"
    )

    await queue_empty(broker)
    speaker = Speaker(broker_settings, 5, speed=10)
    await speaker.speak()
    (await closed(broker, speaker.spec)).audit(speaker)


async def test_audio_that_stops_without_an_end(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker(WORKER_IDLE_SECONDS="1.5", WORKER_PARK_SECONDS="0.5")
    speaker = Speaker(broker_settings, 8)
    await speaker.speak(end=False)
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    assert "idle" in (transcript.closing[0].reason or "")


async def test_a_parked_session_wakes_up(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_PARK_SECONDS="0.6")
    speaker = Speaker(broker_settings, 16)

    class Pause(Exception):
        pass

    def pause(seq: int) -> None:
        if seq == 40:
            raise Pause

    with pytest.raises(Pause):
        await speaker.speak(before_chunk=pause)
    await until(lambda: emulator.log and emulator.open_connections == 0, "parked")
    parked = len(emulator.log)
    await speaker.speak()  # repeats the chunks published before
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    assert len(emulator.log) > parked


async def test_a_newer_session_supersedes_an_abandoned_one(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker(WORKER_SUPERSEDED_SECONDS="1")
    abandoned = Speaker(broker_settings, 8)
    await abandoned.speak(end=False)
    newer = Speaker(broker_settings, 12)
    await newer.speak()
    first = await closed(broker, abandoned.spec)
    first.audit(abandoned)
    assert "superseded" in (first.closing[0].reason or "")
    (await closed(broker, newer.spec)).audit(newer)


async def test_a_superseded_session_still_waits_for_a_missing_chunk(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker(WORKER_SUPERSEDED_SECONDS="0.5", WORKER_HOLE_SECONDS="2")
    first, newer = Speaker(broker_settings, 16), Speaker(broker_settings, 8)
    first.left_out = {20}
    await first.speak(end=False)
    await newer.speak()
    transcript = await closed(broker, first.spec)
    assert "superseded" in (transcript.closing[0].reason or "")
    account = transcript.closing[0].account
    assert account is not None
    assert account.gap_seconds == {"missing": 0.08}
    lost = [place.word for place in first.places if place.start < 1.68 and place.end > 1.6]
    assert transcript.words == [word for word in first.words if word not in lost]
    (await closed(broker, newer.spec)).audit(newer)


async def test_late_audio_of_an_older_session_supersedes_nothing(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker(WORKER_SUPERSEDED_SECONDS="0.3")
    speaker = Speaker(broker_settings, 30, speed=1.5, phrase_words=6)
    subject = audio_subject(speaker.spec.key)
    late = {"Session-Id": "an-older-session", "Audio-Seq": "9", "Audio-Pos": "9", "Audio-Time": "9"}
    sending: list[asyncio.Task[None]] = []

    def disturb(seq: int) -> None:
        if seq % 10 == 5:
            publish = broker.client.publish(subject, b"\0\0", headers=late)
            sending.append(asyncio.create_task(publish))

    class Pause(Exception):
        pass

    def pause(seq: int) -> None:
        disturb(seq)
        if seq == 50:
            raise Pause

    with pytest.raises(Pause):
        await speaker.speak(before_chunk=pause)
    await asyncio.sleep(1)  # longer than a superseded session may last; nothing may happen
    await speaker.speak(before_chunk=disturb)
    await asyncio.gather(*sending)
    (await closed(broker, speaker.spec)).audit(speaker)


async def test_sessions_of_one_key_run_in_the_order_of_their_requests(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    speakers = [Speaker(broker_settings, 8 + 2 * n, speed=20) for n in range(3)]
    await start_worker()
    for speaker in speakers:
        await speaker.speak()
    at = []
    for speaker in speakers:
        transcript = await closed(broker, speaker.spec, 60)
        transcript.audit(speaker)
        at.append((transcript.events[0].published_at, transcript.closing[0].published_at))
    for (_, before), (after, _) in itertools.pairwise(at):
        assert before <= after


async def test_a_second_request_for_a_session_changes_nothing(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    workers = [await start_worker(**UNDISTURBED), await start_worker(**UNDISTURBED)]
    speaker = Speaker(broker_settings, 40, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 2.0)
    again = speaker.spec.model_dump_json().encode()
    js = broker.client.jetstream()
    await js.publish(session_subject(speaker.spec.key), again)  # without Nats-Msg-Id
    await speaking
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    assert transcript.states.count("assigned") == 1
    assert not any(worker.find("session lost") for worker in workers)

    await queue_empty(broker)


async def test_a_request_repeated_after_later_sessions_of_its_key(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speakers = [Speaker(broker_settings, 6 + n, speed=20) for n in range(3)]
    for speaker in speakers:
        await speaker.speak()
        await closed(broker, speaker.spec)
    js = broker.client.jetstream()
    again = speakers[0].spec
    await js.publish(session_subject(again.key), again.model_dump_json().encode())

    await queue_empty(broker)
    (await stored(broker, again)).audit(speakers[0])


async def test_an_abandoned_session_does_not_block_a_finished_one(
    start_worker: StartWorker, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    abandoned, newer = (Speaker(broker_settings, words, speed=40) for words in (8, 12))
    await abandoned.speak(end=False)
    await newer.speak()
    await start_worker(WORKER_SUPERSEDED_SECONDS="1")
    (await closed(ready_broker, abandoned.spec)).audit(abandoned)
    (await closed(ready_broker, newer.spec)).audit(newer)


async def test_recovery_time_does_not_include_earlier_faults(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_PARK_SECONDS="0.6", WORKER_RECOVERY_SECONDS="2")
    speaker = Speaker(broker_settings, 30, phrase_words=6)

    class Pause(Exception):
        pass

    def pause(seq: int) -> None:
        if seq == 50:
            raise Pause

    await emulator.set(handshake_status=503, handshakes=1)
    with pytest.raises(Pause):
        await speaker.speak(before_chunk=pause)
    await until(lambda: emulator.words and emulator.open_connections == 0, "parked")

    async def transcribed() -> bool:
        return bool((await stored(broker, speaker.spec)).words)

    await until(transcribed, "all but the word that the pause cuts")
    parked = time.monotonic()
    await until(
        lambda: time.monotonic() - parked > 2.5, "more than WORKER_RECOVERY_SECONDS have passed"
    )
    await emulator.set(handshake_status=503, handshakes=1)
    await speaker.speak()
    (await closed(broker, speaker.spec)).audit(speaker)


async def test_an_impossible_edge_clock_costs_no_word(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 12, clock=lambda: 10**30)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    assert all(final.started_at is None for final in transcript.finals)


async def test_max_seconds_ends_a_session(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 30, max_seconds=3)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    assert transcript.closing[0].reason == "budget"
    assert "max_seconds" in (transcript.closing[0].detail or "")
    account = transcript.closing[0].account
    assert account is not None
    assert account.sent_seconds == pytest.approx(3, abs=0.1)


# ---- the program ----------------------------------------------------------------------------


@pytest.mark.interpreter
async def test_http_endpoints(nats_server: NatsServer, start_worker: StartWorker) -> None:
    worker = await start_worker()
    for probe in ("/startupz", "/livez", "/readyz", "/healthz"):
        assert await worker.get(probe) == (200, "ok\n")
    assert await worker.get("/sessions") == (200, "[]")
    nats_server.kill()

    async def unready() -> bool:
        return (await worker.get("/readyz"))[0] == 503

    await until(unready, "not ready without NATS", 30)
    for probe in ("/startupz", "/livez", "/healthz"):
        assert await worker.get(probe) == (200, "ok\n"), "an orchestrator must not restart it"


async def test_a_worker_waiting_for_nats_is_alive_but_not_ready(
    nats_server: NatsServer, emulator: DeepgramEmulator
) -> None:
    nats_server.stop()
    worker = WorkerProcess(nats_server.url, emulator.url)
    try:
        await worker.launch()
        await until(lambda: worker.find("waiting for NATS"), "its port is open", 60)
        assert await worker.get("/startupz") == (200, "ok\n")
        assert await worker.get("/livez") == (200, "ok\n")

        async def reason() -> bool:
            return await worker.get("/readyz") == (503, "no NATS: connection refused\n")

        await until(reason, "it says why it is not ready")
        status, text = await worker.get("/metrics")
        assert status == 200
        assert "natterjack_nats_connected 0.0" in text
        assert "natterjack_worker_ready 0.0" in text
        assert await worker.get("/sessions") == (200, "[]")
        nats_server.start()

        async def ready() -> bool:
            return await worker.get("/readyz") == (200, "ok\n")

        await until(ready, "ready once NATS is running", 30)
        assert "natterjack_worker_ready 1.0" in (await worker.get("/metrics"))[1]

        async def connected() -> bool:
            return "natterjack_nats_connected 1.0" in (await worker.get("/metrics"))[1]

        await until(connected, "the connection is counted")
    finally:
        await worker.stop()


async def test_a_stalled_event_loop_is_not_alive(start_worker: StartWorker) -> None:
    worker = await start_worker()
    worker.freeze()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await worker.get("/livez")
    finally:
        worker.signal(signal.SIGCONT)
    assert await worker.get("/livez") == (200, "ok\n")


async def test_memory_streams_are_created_again(
    nats_server: NatsServer,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(NATTERJACK_AUDIO_STORAGE="memory")
    speaker = Speaker(broker_settings, 40, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 5.0)
    nats_server.kill()
    nats_server.start()
    await speaking
    (await closed(broker, speaker.spec, 60)).audit(speaker)


async def test_a_worker_whose_user_is_refused_returns_when_it_is_accepted_again(
    tmp_path: Path, emulator: DeepgramEmulator
) -> None:
    configuration = tmp_path / "nats.conf"
    users = "authorization {{ users = [{{user: worker, password: {}}}] }}"
    configuration.write_text(users.format("w"))
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(configuration)))
    server.start()
    worker = WorkerProcess(server.url, emulator.url, NATS_USER="worker", NATS_PASSWORD="w")
    try:
        await worker.start()
        configuration.write_text(users.format("another"))
        os.kill(server.pid, signal.SIGHUP)  # reloads the configuration
        await until(lambda: worker.find("Authorization Violation"), "the user is refused")
        configuration.write_text(users.format("w"))
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: worker.find("NATS connection is back"), "the connection is back")
        assert worker.running
    finally:
        await worker.stop()
        server.stop()


async def test_a_worker_logs_that_it_waits_for_the_broker(
    nats_server: NatsServer, emulator: DeepgramEmulator
) -> None:
    nats_server.kill()
    worker = WorkerProcess(nats_server.url, emulator.url)
    await worker.launch()
    try:
        await until(lambda: worker.find("no NATS at"), "the log line")
        nats_server.start()
        await until(lambda: worker.find("worker ready"), "the worker is ready", 20)
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 0
    finally:
        await worker.stop()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"WORKER_PROVIDER": "nosuch"}, "unknown provider 'nosuch': installed are"),
        ({"DEEPGRAM_API_KEY": ""}, "DEEPGRAM_API_KEY"),
        ({"WORKER_MAX_SESSIONS": "many"}, "WORKER_MAX_SESSIONS: "),
        ({"NATS_CREDS": "/no/such/file"}, "NATS_CREDS: there is no file /no/such/file"),
    ],
)
async def test_invalid_settings_print_one_line_and_exit_with_2(
    settings: dict[str, str], text: str, nats_server: NatsServer, emulator: DeepgramEmulator
) -> None:
    worker = WorkerProcess(nats_server.url, emulator.url, **settings)
    await worker.launch()
    assert await worker.wait() == 2
    assert [line for line in worker.stray_lines if text in line] == worker.stray_lines
    assert len(worker.stray_lines) == 1


async def test_two_sessions_of_one_key_are_stored_separately(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    for words in (5, 7):
        speaker = Speaker(broker_settings, words, speed=10)
        await speaker.speak()
        await closed(broker, speaker.spec)
        (await stored(broker, speaker.spec)).audit(speaker)
