"""Sessions that end while their edge still captures, and the successors that continue them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.catalog import load
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec

from ..waiting import until
from .programs import (
    Speaker,
    StartWorker,
    WorkerProcess,
    closed,
    holder,
    queue_empty,
    spoken,
    stored,
)
from .provider_table import environment
from .successors import Chain, following, new_id, request

pytestmark = pytest.mark.process

QUICK = {
    "WORKER_RECOVERY_SECONDS": "1",
    "WORKER_BREAKER_SECONDS": "0.2",
    "WORKER_BREAKER_MAX_SECONDS": "0.5",
    "WORKER_BACKOFF_SECONDS": "0.05",
    "WORKER_MAX_BACKOFF_SECONDS": "0.2",
}

QUIET_CHUNK = 42
"""A chunk between the first two phrases."""


def _pause(speaker: Speaker, before: int | None = QUIET_CHUNK) -> Callable[[int], None]:
    """Return the function that a speaker calls with each chunk; it pauses before chunk `before`."""

    def before_chunk(seq: int) -> None:
        if seq == before:
            speaker.pause()

    return before_chunk


@asynccontextmanager
async def chained(
    broker: Broker, speaker: Speaker, *, pause_at: int | None = None
) -> AsyncIterator[Chain]:
    """Speak and open successors; at the end of the block, wait for the end of the chain. The
    speaker pauses before chunk `pause_at`."""
    chain = Chain(broker, speaker)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.speak(before_chunk=_pause(speaker, pause_at)))
        tasks.create_task(chain.follow())
        yield chain


async def test_a_provider_that_is_away_for_longer_than_a_worker_waits(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """Several sessions fail, one after another, without progress."""
    await start_worker(**QUICK)
    speaker = Speaker(broker_settings, 80, successor=new_id())
    async with chained(broker, speaker) as chain:
        await spoken(speaker, 4.0)
        await emulator.set(handshake_status=503)
        emulator.drop()
        await until(lambda: len(chain.specs) >= 4, "three sessions have failed", 60)
        await emulator.set(handshake_status=None)
    await chain.audit()
    transcripts = await chain.transcripts()
    states = [transcript.closing[0].state for transcript in transcripts]
    assert states == ["failed"] * (len(states) - 1) + ["closed"]
    last = transcripts[-1].closing[0]
    assert (last.reason, last.continued_by) == ("end of audio", None)
    await queue_empty(broker)


@pytest.mark.parametrize("phrase_words", [8, 1000])
async def test_max_seconds_end_a_session_and_not_the_transcript(
    phrase_words: int,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """Sessions are cut off in the middle of words. With few words in a phrase, there are finals
    before; without pauses, the only finals are those at the cut."""
    await start_worker()
    speaker = Speaker(
        broker_settings, 60, phrase_words=phrase_words, successor=new_id(), max_seconds=4.2
    )
    async with chained(broker, speaker) as chain:
        pass
    accounts = await chain.audit()
    assert len(accounts) > speaker.seconds / 4.2
    for transcript in (await chain.transcripts())[:-1]:
        closing = transcript.closing[0]
        assert (closing.state, closing.reason) == ("closed", "budget")
        assert closing.detail == "max_seconds: 4.2 s of audio"


@pytest.mark.parametrize(
    "provider",
    ["deepgram-flux", "deepgram-rest", "managed", "speechmatics", "speechmatics-agent"],
)
async def test_a_session_of_any_provider_is_cut_off_between_words(
    provider: str,
    nats_server: EmbeddedServer,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The cutoff is between words for any times that providers give to words."""
    async with load(provider)() as emulator:
        worker = WorkerProcess(nats_server.url, emulator.url, **environment(provider, emulator))
        await worker.start()
        try:
            speaker = Speaker(broker_settings, 40, successor=new_id(), max_seconds=7.3)
            async with chained(ready_broker, speaker) as chain:
                pass
            transcripts = await chain.transcripts()
        finally:
            await worker.stop()
    assert len(transcripts) > 2
    texts = [final.text for transcript in transcripts for final in transcript.finals]
    words = [tones.plain(word) for text in texts for word in text.split()]
    assert tones.compare(speaker.words, words) == tones.Counts(), texts
    accounts = [transcript.closing[0].account for transcript in transcripts]
    seconds = sum(account.transcribed_seconds for account in accounts if account is not None)
    assert seconds == pytest.approx(speaker.seconds, abs=1e-3)


async def test_audio_that_stays_away_and_comes_back(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """As that of a laptop that slept. The successor's own time without audio counts."""
    await start_worker(WORKER_IDLE_SECONDS="1", WORKER_PARK_SECONDS="0.5")
    speaker = Speaker(broker_settings, 40, successor=new_id())
    async with chained(broker, speaker, pause_at=QUIET_CHUNK) as chain:
        await until(lambda: len(chain.specs) >= 3, "two sessions were idle", 60)
        speaker.go_on()
    await chain.audit()
    first, second = (await chain.transcripts())[:2]
    assert [t.closing[0].reason for t in (first, second)] == ["idle: no audio for 1 s"] * 2
    assert second.words == []


@pytest.mark.parametrize("pause_at", [50, 53])
async def test_audio_that_stays_away_in_speech_for_good(
    pause_at: int, start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """As that of an edge that died. The session keeps its last word: no successor may ever come."""
    await start_worker(WORKER_IDLE_SECONDS="1", WORKER_PARK_SECONDS="0.5")
    speaker = Speaker(broker_settings, 40, successor=new_id())
    speaking = asyncio.create_task(speaker.speak(before_chunk=_pause(speaker, pause_at)))
    transcript = await closed(broker, speaker.spec)
    speaking.cancel()
    closing = transcript.closing[0]
    assert closing.reason == "idle: no audio for 1 s"
    assert closing.continued_by == speaker.spec.successor
    assert closing.audio_position is not None
    assert closing.account is not None
    end = closing.audio_position / speaker.spec.sample_rate
    assert closing.account.captured_seconds == closing.account.transcribed_seconds == end
    whole = [place.word for place in speaker.places if place.end <= end]
    assert len(whole) > 8
    assert transcript.words[: len(whole)] == whole


async def test_a_tenants_budget_that_is_raised(
    start_worker: StartWorker, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    js = ready_broker.client.jetstream()
    budget = streams.bucket_subject(streams.BUDGETS_BUCKET, "tenant.acme")
    await js.publish(budget, b"6")
    await start_worker()
    speaker = Speaker(broker_settings, 60, tenant="acme", successor=new_id())
    async with chained(ready_broker, speaker) as chain:
        await until(lambda: len(chain.specs) >= 3, "two sessions have ended", 60)
        await js.publish(budget, b"1000")
    await chain.audit()
    first, second = (await chain.transcripts())[:2]
    assert (first.closing[0].reason, second.closing[0].reason) == ("budget", "budget")
    assert second.states == ["assigned", "closed"], "no provider is dialed"


async def test_the_worker_of_a_successor_is_killed(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The next one resumes from the successor's checkpoint, and not from where it started."""
    workers = [await start_worker(**QUICK), await start_worker(**QUICK)]
    speaker = Speaker(broker_settings, 100, speed=3, successor=new_id())
    async with chained(broker, speaker) as chain:
        await spoken(speaker, 3.0)
        await emulator.set(handshake_status=503)
        emulator.drop()
        await until(lambda: len(chain.specs) >= 2, "the first session has failed", 60)
        await emulator.set(handshake_status=None)

        async def has_words() -> bool:
            return len((await stored(broker, chain.specs[-1])).finals) >= 2

        await until(has_words, "the successor has finals", 30)
        (await holder(workers)).signal(signal.SIGKILL)
    await chain.audit()
    last = (await chain.transcripts())[-1]
    assert {event.epoch for event in last.events} == {1, 2}
    resumed = emulator.log[-1].words[0]
    assert resumed.word != speaker.words[len((await chain.transcripts())[0].words)]


async def test_the_worker_that_closes_a_session_is_killed_before_its_ack(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """The successor waits in the queue until another worker has acknowledged the old request."""
    worker = await start_worker(WORKER_IDLE_SECONDS="1", WORKER_PARK_SECONDS="0.5")
    speaker = Speaker(broker_settings, 30, successor=new_id())
    async with chained(broker, speaker, pause_at=QUIET_CHUNK) as chain:
        chain.before_request = lambda _: worker.signal(signal.SIGKILL)
        await until(lambda: len(chain.specs) == 2, "the session was idle", 60)
        chain.before_request = lambda _: None
        await start_worker()
        speaker.go_on()
    await chain.audit()
    await queue_empty(broker)


async def test_a_successor_that_is_requested_before_its_session_has_ended(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """It starts where the finals of that session end, although it was asked to start before."""
    await start_worker(WORKER_IDLE_SECONDS="1", WORKER_PARK_SECONDS="0.5")
    speaker = Speaker(broker_settings, 40, successor=new_id())
    speaking = asyncio.create_task(speaker.speak(before_chunk=_pause(speaker)))
    await spoken(speaker, 2.0)
    early = speaker.spec.model_copy(
        update={
            "session_id": speaker.spec.successor, "successor": None,
            "continues": speaker.spec.session_id, "audio_of": speaker.spec.session_id,
            "start_position": speaker.spec.sample_rate,
        }
    )  # fmt: skip
    await request(broker, early)
    first = await closed(broker, speaker.spec)
    speaker.go_on()
    await speaking
    second = await closed(broker, early)
    assert first.words
    assert second.words
    assert first.words + second.words == speaker.words
    position, account = first.closing[0].audio_position, second.closing[0].account
    assert position is not None
    assert account is not None
    assert account.transcribed_seconds == pytest.approx(
        speaker.seconds - position / speaker.spec.sample_rate, abs=1e-3
    )
    await queue_empty(broker)


async def test_the_audio_of_a_successor_has_expired_in_part(
    start_worker: StartWorker, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    """The audio that is gone is a gap of the successor, from its first frame on."""
    worker = await start_worker(WORKER_IDLE_SECONDS="1", WORKER_HOLE_SECONDS="0.5")
    speaker = Speaker(broker_settings, 60, successor=new_id())
    speaking = asyncio.create_task(speaker.speak(before_chunk=_pause(speaker)))
    first = await closed(ready_broker, speaker.spec)
    await queue_empty(ready_broker)
    worker.signal(signal.SIGTERM)
    await worker.wait()
    speaker.go_on()
    await speaking
    js = ready_broker.client.jetstream()
    before = (await js.stream_info(streams.AUDIO)).state.messages
    await js.purge_stream(streams.AUDIO, keep=before - 100)
    await start_worker(WORKER_HOLE_SECONDS="0.5")
    spec = following(speaker.spec, first.closing[0])
    await request(ready_broker, spec)
    account = (await closed(ready_broker, spec)).closing[0].account
    assert account is not None
    start, kept = spec.start_position / spec.sample_rate, 100 * 0.08
    (gap,) = account.gaps
    assert (gap.start, gap.end) == pytest.approx((start, kept), abs=1e-3)
    assert gap.cause == "missing"
    assert account.transcribed_seconds == pytest.approx(speaker.seconds - kept, abs=1e-3)


async def test_a_stop_request_has_no_successor(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 40, successor=new_id())
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 3.0)

    async def stopped() -> bool:
        try:
            await broker.client.request(f"stt.control.{speaker.spec.key}", b'{"command":"stop"}', 1)
        except Exception:  # noqa: BLE001 - no worker has the session yet
            return False
        return True

    await until(stopped, "the session is stopped")
    closing = (await closed(broker, speaker.spec)).closing[0]
    assert closing.reason == "stopped: by request"
    assert closing.audio_position is not None
    assert closing.continued_by is None
    speaking.cancel()


ODD_REQUESTS: dict[str, tuple[dict[str, object], str]] = {
    "session-no-such-audio": ({"audio_of": "no-such-session"}, "idle: no audio for 1 s"),
    "session-no-such-predecessor": ({"continues": "no-such-session"}, "end of audio"),
    "session-far": ({"start_position": 2**53 - 1}, "end of audio"),
    "session-mulaw": (
        {"continues": None, "start_position": 0, "encoding": "mulaw"},
        "end of audio",
    ),
    "session-stereo": ({"continues": None, "start_position": 0, "channels": 2}, "end of audio"),
    "session-too-far": ({"start_position": 2**53}, "bad request: start_position"),
    "session-itself": ({"continues": "session-itself"}, "bad request: "),
}
"""Differences from a successor's request, by session, and the reason why the session ends."""


async def test_odd_requests_end_and_hurt_no_other_session(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker(WORKER_IDLE_SECONDS="1", WORKER_HOLE_SECONDS="0.2")
    speakers = {
        name: Speaker(broker_settings, 12, speed=6, conversation=name) for name in ODD_REQUESTS
    }
    await asyncio.gather(*(speaker.speak() for speaker in speakers.values()))
    for session_id, speaker in speakers.items():
        first = await closed(broker, speaker.spec)
        first.audit(speaker)
        fields = speaker.spec.model_dump(mode="json") | {
            "session_id": session_id, "continues": speaker.spec.session_id,
            "audio_of": speaker.spec.session_id, "start_position": first.closing[0].audio_position,
        } | ODD_REQUESTS[session_id][0]  # fmt: skip
        await broker.client.jetstream().publish(
            f"stt.session.{speaker.spec.key}", json.dumps(fields).encode()
        )
    other = Speaker(broker_settings, 12, conversation="other")
    await other.speak()
    (await closed(broker, other.spec)).audit(other)
    for session_id, (_, reason) in ODD_REQUESTS.items():
        strange = speakers[session_id].spec.model_copy(update={"session_id": session_id})
        closing = (await closed(broker, strange)).closing[0]
        assert (closing.reason or "").startswith(reason), session_id
        bad = reason.startswith("bad request")
        assert (closing.audio_position is None) is bad, "an edge must not try a bad request again"
    await queue_empty(broker)


async def test_a_start_that_the_audio_has_not_reached_is_not_waited_for_long(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """Although audio goes on arriving."""
    await start_worker(WORKER_IDLE_SECONDS="1")
    speaker = Speaker(broker_settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 1.0)
    far = speaker.spec.model_copy(
        update={"session_id": "far-ahead", "start_position": 2**40, "conversation": "other"}
    )
    await request(broker, far)
    # The audio has the key of the far session, too.
    far_speaker = Speaker(broker_settings, 60, speed=2, conversation="other")
    far_speaker.spec = far
    far_speaking = asyncio.create_task(far_speaker.speak())
    closing = (await closed(broker, far)).closing[0]
    assert closing.reason == f"idle: no audio for 1 s from the session's first frame on, {2**40}"
    far_speaking.cancel()
    await speaking
    (await closed(broker, speaker.spec)).audit(speaker)


async def test_the_successors_of_the_edge_in_the_manual(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    page = Path("docs/how-to/write-an-edge.md").read_text()
    _, code = (part.partition("```")[0] for part in page.split("```python\n")[1:])
    manual: dict[str, Any] = {}
    exec(compile(code, "write-an-edge.md", "exec"), manual)
    await start_worker(**QUICK)
    speaker = Speaker(broker_settings, 80, successor=new_id())
    fields = speaker.spec.model_dump(mode="json", exclude_none=True)
    chain = Chain(broker, speaker)
    js = broker.client.jetstream()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.speak())
        tasks.create_task(manual["continue_sessions"](js, str(speaker.spec.key), fields))
        await spoken(speaker, 4.0)
        await emulator.set(handshake_status=503)
        emulator.drop()
        await closed(broker, speaker.spec)
        await emulator.set(handshake_status=None)
    while (closing := (await closed(broker, chain.specs[-1], 60)).closing[0]).continued_by:
        after = await stored(broker, chain.specs[-1].model_copy(
            update={"session_id": closing.continued_by}
        ))  # fmt: skip
        assert after.closing[0].request is not None
        chain.specs.append(SessionSpec.model_validate(after.closing[0].request))
    await chain.audit()
