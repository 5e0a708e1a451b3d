"""A tenant's budget, enforced by several worker processes together."""

from __future__ import annotations

import asyncio

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import StatusEvent, UsageEvent
from natterjack.fleet.budgets import Used, read_usage
from natterjack.settings import BrokerSettings
from worker.metering.tally import today

from ..waiting import until
from .programs import Speaker, StartWorker, Transcript, closed

pytestmark = pytest.mark.process

SECONDS, SPEED, SESSIONS = 45.0, 2.0, 3
OVERSHOOT = 3.0
"""Overshoot per session in seconds, twice the figure in docs/explanation/metering.md."""


def closing_event(transcript: Transcript) -> StatusEvent:
    (closing,) = transcript.closing
    return closing


async def test_sessions_end_when_the_tenants_daily_budget_is_exhausted(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    js = ready_broker.client.jetstream()
    key = streams.bucket_subject(streams.BUDGETS_BUCKET, "tenant.acme")
    await js.publish(key, str(SECONDS).encode())
    # With two slots each, both workers hold sessions.
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
            end = closing_event(transcript)
            assert (end.state, end.reason) == ("closed", "budget")
            assert end.detail is not None
            assert end.detail.startswith("tenant acme has used ")
            assert end.detail.endswith(f" of {SECONDS:g} s of {day}")
            warnings = [e for e in transcript.events if isinstance(e, UsageEvent) and e.low]
            left = [warning.credits_remaining_seconds or 0.0 for warning in warnings]
            assert 1 <= len(left) <= 2
            assert all(0 <= seconds <= 0.2 * SECONDS for seconds in left)
            # Exactly the audio sent was transcribed.
            assert end.account is not None
            assert transcript.words == one.words[: len(transcript.words)]
            assert len(transcript.words) > 5
            assert end.account.transcribed_seconds == pytest.approx(
                end.account.sent_seconds, abs=0.1
            )
            sent += end.account.sent_seconds
        assert SECONDS <= sent <= SECONDS + SESSIONS * SPEED * OVERSHOOT
        received = [e.audio_seconds for e in emulator.log if e.query["language"] == ["en-US"]]
        assert sum(received) == pytest.approx(sent, abs=0.2)

        # A new session ends before a provider is dialed.
        dialed = len(emulator.log)
        late = speaker("acme", "late", 10, "en-US")
        await late.speak()
        transcript = await closed(ready_broker, late.spec)
        assert transcript.states == ["assigned", "closed"]
        assert (closing_event(transcript).reason, transcript.words) == ("budget", [])
        assert len(emulator.log) == dialed

        # A session of another tenant continues.
        transcript = await closed(ready_broker, other.spec, 60)
        transcript.audit(other)
        assert closing_event(transcript).reason == "end of audio"
    finally:
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)

    # The invoice equals the audio that the provider received.
    store = StreamStore(ready_broker, f"KV_{streams.USAGE_BUCKET}")
    await store.start()

    async def written() -> bool:
        usages = await read_usage(store, day)
        billed = {tenant: Used.of(usages[tenant], "USD").seconds for tenant in usages}
        return abs(billed.get("acme", 0) - sent) < 0.01 and "other" in billed

    await until(written, "all use is written", 20)


async def test_a_new_worker_does_not_dial_for_an_exhausted_budget(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    """The session is already in the queue, and only the bucket has the tenant's use."""
    js = ready_broker.client.jetstream()
    budget = streams.bucket_subject(streams.BUDGETS_BUCKET, "default")
    await js.publish(budget, b'{"cost_per_day": 5}')
    usage = streams.bucket_subject(streams.USAGE_BUCKET, f"{today()}.acme.gone")
    await js.publish(usage, b'{"providers": {"deepgram": {"sent_seconds": 9, "cost": 6}}}')
    speaker = Speaker(broker_settings, 10, speed=20, tenant="acme")
    await speaker.speak()
    await start_worker()
    end = closing_event(await closed(ready_broker, speaker.spec))
    assert (end.state, end.reason) == ("closed", "budget")
    assert end.detail == f"tenant acme has used 6 of 5 USD of {today()}"
    assert emulator.log == []
    # A higher budget lets the next one in at once.
    await js.publish(budget, b'{"cost_per_day": 50}')
    second = Speaker(broker_settings, 10, speed=20, tenant="acme", conversation="second")
    await second.speak()
    (await closed(ready_broker, second.spec)).audit(second)
