"""One provider stream: live audio out, the watchdog, and the metering. The provider is a plugin."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.plugin.errors import Dropped, ProviderError, Stalled
from natterjack.plugin.provider import (
    Capabilities,
    Provider,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
)
from natterjack.spec import SessionSpec
from tests.waiting import soon
from worker.audio.convert import Converter, wire_format
from worker.metering.ledger import Ledger
from worker.metering.prices import Price
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.session.relay import Relay
from worker.settings import WorkerSettings

RATE = 16_000
FRAMES = RATE // 10
SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=RATE)
SILENCE, SPEECH = bytes(2 * FRAMES), b"\x00\x20" * FRAMES


class Tape(ProviderStream):
    """Records what it is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.finished = False

    async def send(self, audio: bytes) -> None:
        self.sent.append(audio)

    def send_nowait(self, audio: bytes) -> bool:
        self.sent.append(audio)
        return True

    async def finish(self) -> None:
        self.finished = True

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        events: tuple[ProviderEvent, ...] = ()
        for event in events:
            yield event

    async def close(self) -> None:
        pass


class Broken(Tape):
    def send_nowait(self, audio: bytes) -> bool:
        raise Dropped("tape", "it broke")


class Recorder(Provider):
    name = "tape"
    capabilities = Capabilities(encodings=("linear16",), catch_up_rate=2.0, answers_silence=True)

    def __init__(self, settings: Any = None) -> None:
        pass

    async def open(self, request: StreamRequest) -> Tape:
        return Tape()


class Case:
    """A relay to a tape, from the frame `start` on."""

    def __init__(self, tape: Tape | None = None, start: int = 0, **capabilities: Any) -> None:
        self.tape = tape or Tape()
        self.settings = WorkerSettings(provider="tape", name="w")
        provider, metrics = Recorder(), Metrics(1)
        if capabilities:
            provider.capabilities = Capabilities(encodings=("linear16",), **capabilities)
        self.ledger = Ledger("t", RATE, metrics, Tally("w"))
        self.ledger.opened("tape", Price(3.6, "USD", "audio"), start)
        source = SPEC.audio_format
        target = wire_format(source, provider.capabilities)
        self.relay = Relay(
            provider, self.tape, Converter(source, target, None), SPEC, start, self.settings,
            metrics, self.ledger,
        )  # fmt: skip
        self.now = time.monotonic()
        self.seq = 0

    def take(self, audio: bytes = SPEECH, *, later: float = 0.1) -> bool:
        """A live chunk of a tenth of a second, `later` seconds after the last one."""
        self.now += later
        self.seq += 1
        return self.relay.send_live(self.seq, FRAMES, audio, 1_000_000_000, self.now)

    async def failure(self) -> Exception:
        with pytest.raises(ProviderError) as raised:
            await soon(self.relay.wait_guard(), 5)
        return raised.value


def test_live_audio_goes_out_at_once() -> None:
    case = Case(start=RATE)
    assert case.take()
    assert case.take(SILENCE)
    assert case.tape.sent == [SPEECH, SILENCE]
    assert case.relay.timeline.position == RATE + 2 * FRAMES


def test_a_burst_is_held_to_the_catch_up_rate() -> None:
    case = Case()
    taken = 0
    while taken < 100 and case.take(later=0.0):
        taken += 1
    assert 5 <= taken <= 7  # half a second at once
    in_a_second = sum(case.take(later=0.01) for _ in range(100))
    assert 19 <= in_a_second <= 21  # two seconds of audio


def test_the_limit_is_left_to_the_sender() -> None:
    case = Case()
    case.relay.limit = 2 * FRAMES
    assert case.take()
    assert not case.take()
    assert case.relay.timeline.position == FRAMES


async def test_an_error_of_the_provider_ends_the_stream() -> None:
    case = Case(Broken())
    assert case.take()
    assert isinstance(await case.failure(), Dropped)


def test_audio_that_stops_in_speech_is_cut_short() -> None:
    case = Case()
    assert not case.relay.cut_short
    case.take(SPEECH)
    assert case.relay.cut_short
    case.take(SILENCE)
    assert not case.relay.cut_short


async def test_the_first_failure_counts() -> None:
    case = Case()
    case.relay.fail(Dropped("tape", "first"))
    case.relay.fail(Dropped("tape", "second"))
    assert "first" in str(await case.failure())


async def test_an_alarm_without_failure_wakes_the_guard() -> None:
    case = Case()
    waiting = asyncio.create_task(case.relay.wait_guard())
    await asyncio.sleep(0)
    assert not waiting.done()
    case.relay.wake_guard()
    await soon(waiting, 5)


async def stalled(case: Case, seconds: float, **watch: Any) -> str | None:
    """The cause that the watchdog names after so long, or None."""
    case.relay.watch(case.now + seconds, **{"connected": True, **watch})
    waiting = asyncio.ensure_future(case.relay.wait_guard())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if not waiting.done():
        waiting.cancel()
        return None
    error = waiting.exception()
    assert isinstance(error, Stalled)
    return error.cause


def speak(case: Case, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        assert case.take()


async def test_a_provider_that_owes_an_answer_is_mute() -> None:
    case = Case()
    speak(case, 4)
    assert await stalled(case, case.settings.mute_seconds + 1) == "mute"


async def test_a_little_audio_needs_no_answer() -> None:
    case = Case()
    speak(case, 2)
    assert await stalled(case, case.settings.mute_seconds + 1) is None


async def test_an_answer_settles_what_was_owed() -> None:
    case = Case()
    speak(case, 4)
    case.relay.restart_watchdog()
    assert await stalled(case, case.settings.mute_seconds + 1) is None


async def test_a_provider_that_answers_speech_only_is_never_mute() -> None:
    case = Case(answers_silence=False)
    speak(case, 4)
    assert await stalled(case, case.settings.mute_seconds + 1) is None


@pytest.mark.parametrize("watch", [{"connected": False}, {"paused": 1000.0}])
async def test_time_in_which_nobody_listened_is_not_the_providers_fault(
    watch: dict[str, Any],
) -> None:
    case = Case()
    speak(case, 4)
    assert await stalled(case, case.settings.mute_seconds + 1, **watch) is None


async def test_time_in_which_an_event_is_published_is_not_the_providers_fault() -> None:
    case = Case()
    speak(case, 4)
    case.relay.handling = True
    assert await stalled(case, case.settings.mute_seconds + 1) is None


async def test_a_provider_has_to_end_a_finished_stream() -> None:
    case = Case()
    await case.relay.finish()
    assert case.tape.finished
    assert await stalled(case, case.settings.finish_seconds / 2) is None
    assert await stalled(case, case.settings.finish_seconds + 60) == "finish"


def test_the_ledger_is_brought_up_to_date() -> None:
    case = Case()
    speak(case, 2)
    case.relay.count()
    assert case.ledger.sent_seconds == pytest.approx(2.0)
    speak(case, 1)
    case.relay.count_last()
    case.relay.count_last()
    assert case.ledger.sent_seconds == pytest.approx(3.0)
    assert case.ledger.sent_until(None) == 3 * RATE


def test_what_the_provider_reports_is_billed() -> None:
    case = Case()
    speak(case, 2)
    case.tape.used_seconds = 5.0
    case.relay.count_last()
    (usage,) = case.ledger.usage().values()
    assert usage.billed_seconds == pytest.approx(5.0)


def test_a_count_a_moment_later_is_spared() -> None:
    case = Case()
    case.relay.count()
    speak(case, 2)
    case.relay.count(case.now - 60)
    assert case.ledger.sent_seconds == 0.0
    case.relay.count(case.now + 60)
    assert case.ledger.sent_seconds == pytest.approx(2.0)
