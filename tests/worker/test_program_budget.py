"""A tenant's budget, kept by worker processes together."""

from __future__ import annotations

import asyncio

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.events import StatusEvent, UsageEvent
from natterjack.fleet.budgets import Used, read_usage
from natterjack.settings import BrokerSettings
from worker.metering.tally import today

from ..emulators.deepgram import DeepgramEmulator
from ..waiting import until
from .programs import Speaker, StartWorker, Transcript, closed

SECONDS, SPEED, SESSIONS = 45.0, 2.0, 3
OVERSHOOT = 3.0
"""Of each session, in seconds: twice what docs/explanation/metering.md says, for slow machines."""


def the_end(transcript: Transcript) -> StatusEvent:
    (closing,) = transcript.closing
    return closing


async def test_sessions_of_a_tenant_end_when_its_day_is_used_up(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    js = ready_broker.client.jetstream()
    key = streams.bucket_subject(streams.BUDGETS_BUCKET, "tenant.acme")
    await js.publish(key, str(SECONDS).encode())
    # Two slots each: the four sessions are on both.
    for _ in range(2):
        await start_worker(WORKER_MAX_SESSIONS="2")

    def speaker(tenant: str, conversation: str, words: int, language: str) -> Speaker:
        return Speaker(
            broker_settings, words, speed=SPEED, tenant=tenant, conversation=conversation,
            language=language,
        )  # fmt: skip

    acme = [speaker("acme", f"c{n}", 120, "en-US") for n in range(SESSIONS)]
    other = speaker("other", "c", 60, "en-GB")
    speaking = [asyncio.create_task(one.speak()) for one in (*acme, other)]
    try:
        transcripts = [await closed(ready_broker, one.spec, 60) for one in acme]
        day = today()
        sent = 0.0
        for one, transcript in zip(acme, transcripts, strict=True):
            end = the_end(transcript)
            assert (end.state, end.reason) == ("closed", "budget")
            assert end.detail is not None
            assert end.detail.startswith("tenant acme has used ")
            assert end.detail.endswith(f" of {SECONDS:g} s of {day}")
            warnings = [e for e in transcript.events if isinstance(e, UsageEvent) and e.low]
            left = [warning.credits_remaining_seconds or 0.0 for warning in warnings]
            assert 1 <= len(left) <= 2
            assert all(0 <= seconds <= 0.2 * SECONDS for seconds in left)
            # What was sent was transcribed, and nothing else.
            assert end.account is not None
            assert transcript.heard == one.words[: len(transcript.heard)]
            assert len(transcript.heard) > 5
            assert end.account.transcribed_seconds == pytest.approx(
                end.account.sent_seconds, abs=0.1
            )
            sent += end.account.sent_seconds
        assert SECONDS <= sent <= SECONDS + SESSIONS * SPEED * OVERSHOOT
        heard = [e.audio_seconds for e in emulator.log if e.query["language"] == ["en-US"]]
        assert sum(heard) == pytest.approx(sent, abs=0.2)

        # Who comes now is ended before a provider is dialled.
        dialled = len(emulator.log)
        late = speaker("acme", "late", 10, "en-US")
        await late.speak()
        transcript = await closed(ready_broker, late.spec)
        assert transcript.states == ["assigned", "closed"]
        assert (the_end(transcript).reason, transcript.heard) == ("budget", [])
        assert len(emulator.log) == dialled

        # A neighbour goes on.
        transcript = await closed(ready_broker, other.spec, 60)
        transcript.audit(other)
        assert the_end(transcript).reason == "end of audio"
    finally:
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)

    # The invoice is what the provider heard.
    store = StreamStore(ready_broker, f"KV_{streams.USAGE_BUCKET}")
    await store.start()

    async def written() -> bool:
        usages = await read_usage(store, day)
        billed = {tenant: Used.of(usages[tenant], "USD").seconds for tenant in usages}
        return abs(billed.get("acme", 0) - sent) < 0.01 and "other" in billed

    await until(written, "all use is written", 20)


async def test_a_worker_that_has_just_started_dials_nobody_for_a_tenant_without_budget(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    """Its session waits in the queue already, and what was used is known to the bucket alone."""
    js = ready_broker.client.jetstream()
    budget = streams.bucket_subject(streams.BUDGETS_BUCKET, "default")
    await js.publish(budget, b'{"cost_per_day": 5}')
    usage = streams.bucket_subject(streams.USAGE_BUCKET, f"{today()}.acme.gone")
    await js.publish(usage, b'{"providers": {"deepgram": {"sent_seconds": 9, "cost": 6}}}')
    speaker = Speaker(broker_settings, 10, speed=20, tenant="acme")
    await speaker.speak()
    await start_worker()
    end = the_end(await closed(ready_broker, speaker.spec))
    assert (end.state, end.reason) == ("closed", "budget")
    assert end.detail == f"tenant acme has used 6 of 5 USD of {today()}"
    assert emulator.log == []
    # A higher budget lets the next one in at once.
    await js.publish(budget, b'{"cost_per_day": 50}')
    second = Speaker(broker_settings, 10, speed=20, tenant="acme", conversation="second")
    await second.speak()
    (await closed(ready_broker, second.spec)).audit(second)
