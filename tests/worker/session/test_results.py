"""Receiving a provider's events: publishing, what chain and ledger learn from them, the drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from natterjack.plugin.errors import Dropped, ProviderError, RemoteProtocolError, RequestRefused
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
    Usage,
)
from tests.waiting import soon
from worker.audio.convert import Converter
from worker.audio.feed import Gap
from worker.drain import HandOver
from worker.errors import LeaseLost
from worker.joint import Joint
from worker.metering.prices import Price
from worker.providers.breaker import BreakerState
from worker.session.intake import Parked
from worker.session.relay import Relay
from worker.session.results import Results, decisive

from .parts import RATE, Case, Line, install_providers


class Script(Line):
    """A stream with these events. An exception is raised."""

    def __init__(self, *events: ProviderEvent | ProviderError) -> None:
        super().__init__()
        self.events = events

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        for event in self.events:
            if isinstance(event, ProviderError):
                raise event
            yield event


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install_providers(monkeypatch)


class Stream:
    """An open stream of a session, on which ten seconds of audio were sent."""

    def __init__(
        self,
        case: Case,
        *events: ProviderEvent | ProviderError,
        captured_ns: int = 0,
        arrived: float = 0.0,
        live: bool = True,
    ) -> None:
        self.case = case
        progress, ledger = case.progress, case.progress.ledger
        ledger.opened("one", Price(3.6, "USD", "audio"), 0)
        audio = case.spec.audio_format
        self.relay = progress.relay = Relay(
            case.providers.get("one"), Script(*events), Converter(audio, audio), case.spec, 0,
            case.settings, case.metrics, ledger,
        )  # fmt: skip
        self.relay.timeline.advance(10 * RATE, arrived, captured_ns)
        self.results = Results(
            self.relay, progress, case.lease, case.admission.chain, case.drain, case.metrics,
            case.spec.key, log_transcripts=False, live=live,
        )  # fmt: skip

    async def run(self) -> list[str]:
        """Receive every event. Returns the kinds of the durable events."""
        await self.results.run()
        return [event.type for event in self.case.outlet.events]


async def test_transcripts_are_published_in_order() -> None:
    case = await Case().start()
    stream = Stream(
        case, Interim("to", 0, 1), Turn("started", 0), Final("toad", 0, 2), Turn("ended", 2)
    )
    assert await stream.run() == ["turn", "final", "turn"]
    assert [event.text for event in case.outlet.interims] == ["to"]
    assert case.progress.final == 2 * RATE
    assert case.lease.checkpoint.position == 2 * RATE


async def test_a_gap_is_stored_before_the_final_behind_it() -> None:
    case = await Case().start()
    case.progress.account_builder.gap(Gap(0, RATE // 2, "missing"))
    await Stream(case, Final("toad", 0, 2)).run()
    before, after = case.store.writes[-2:]
    assert (before.position, before.gaps_until) == (0, 0.5)
    assert after.position == 2 * RATE


async def test_the_first_answer_ends_the_outage_for_a_successor_too() -> None:
    """Silence may follow, with no final that moves the checkpoint."""
    case = await Case().start()
    case.lease.checkpoint.failing_since = datetime.now(UTC)
    await Stream(case, Notice("hello", "hello"), Notice("hello", "hello")).run()
    assert [each.failing_since for each in case.store.writes[1:]] == [None]


async def test_the_first_answer_closes_the_breaker() -> None:
    case = await Case(breaker_failures=1).start()
    case.open_breaker("one")
    stream = Stream(case, Notice("hello", "hello"))
    await stream.run()
    assert stream.relay.answered
    assert case.providers.breaker("one").state is BreakerState.CLOSED


async def test_a_later_answer_says_nothing_about_a_refused_account() -> None:
    case = await Case().start()
    stream = Stream(case, Notice("hello", "hello"), Final("toad", 0, 1))
    stream.relay.answered = True
    case.open_breaker("one", RequestRefused("one", "credit", "no credit"))
    await stream.run()
    assert case.providers.breaker("one").state is BreakerState.OPEN


async def test_nothing_is_published_under_a_lost_lease() -> None:
    case = await Case().start()
    case.store.bucket.revision += 1  # another holder has written
    case.lease.mark_unconfirmed()
    with pytest.raises(LeaseLost):
        await Stream(case, Final("toad", 0, 2)).run()
    assert case.outlet.events == []


async def test_an_error_of_the_stream_is_raised_after_its_events() -> None:
    case = await Case().start()
    with pytest.raises(Dropped):
        await Stream(case, Final("toad", 0, 2), Dropped("one", "it broke")).run()
    assert case.progress.final == 2 * RATE


async def test_what_can_be_read_of_an_unreadable_final_is_new() -> None:
    case = await Case().start()
    words = (ProviderWord("toad", 0.5, 1.0), ProviderWord("road", 2.5, 3.0))
    fault = RemoteProtocolError("one", "?", readable=Final("toad road", 0, 4, words))
    with pytest.raises(RemoteProtocolError) as caught:
        await Stream(case, Final("toad", 0, 2, words[:1]), fault).run()
    assert caught.value.readable == Final("road", 2.0, 4.0, words[1:])


@pytest.mark.parametrize(("text", "lost"), [("and", True), ("", False)])
async def test_an_unreadable_message_after_which_text_is_not_final(text: str, lost: bool) -> None:
    case = await Case().start()
    stream = Stream(case, Final("toad", 0, 2), Interim(text, 2, 4), Notice("malformed", "?"))
    if lost:
        with pytest.raises(RemoteProtocolError, match="may have been the last final"):
            await stream.run()
    else:
        await stream.run()
    assert stream.results.heard is lost


@pytest.mark.parametrize("cut_off", [False, True])
async def test_a_turn_event_makes_no_text_final(cut_off: bool) -> None:
    case = await Case().start()
    ended = Interim("and", 2, 4), Notice("malformed", "?"), Turn("ended", 4)
    stream = Stream(case, Final("toad", 0, 2), *ended)
    stream.relay.joint = Joint(10.0) if cut_off else None
    with pytest.raises(RemoteProtocolError, match="may have been the last final"):
        await stream.run()


async def test_text_is_pending_until_another_transcript_comes() -> None:
    case = await Case().start()
    stream = Stream(case, Interim("and", 2, 4))
    await stream.run()
    assert stream.results.pending
    stream = Stream(case, Interim("and", 2, 4), Interim("", 2, 5))
    await stream.run()
    assert not stream.results.pending


@pytest.mark.parametrize("finishing", [False, True])
async def test_a_draining_session_is_handed_over_after_a_final(finishing: bool) -> None:
    case = await Case().start()
    stream = Stream(case, Final("toad", 0, 2))
    stream.relay.finishing = finishing
    case.drain.request(0.0)
    await stream.run()
    guard = asyncio.create_task(stream.relay.wait_guard())
    if finishing:  # the session ends by itself in a moment
        done, _ = await asyncio.wait({guard}, timeout=0.3)
        assert not done
        guard.cancel()
    else:
        with pytest.raises(HandOver):
            await soon(guard, 5)


async def test_an_interim_does_not_hand_a_session_over() -> None:
    case = await Case().start()
    stream = Stream(case, Interim("to", 0, 1))
    case.drain.request(0.0)
    await stream.run()
    guard = asyncio.create_task(stream.relay.wait_guard())
    done, _ = await asyncio.wait({guard}, timeout=0.3)
    assert not done
    guard.cancel()


@pytest.mark.parametrize(
    ("usage", "published"),
    [
        (Usage(audio_seconds=5.0), []),
        (Usage(credits_remaining_seconds=60.0), [(60.0, False)]),
        (Usage(low=True), [(None, True)]),
    ],
)
async def test_what_is_left_is_published(
    usage: Usage, published: list[tuple[float | None, bool]]
) -> None:
    case = await Case().start()
    await Stream(case, usage).run()
    events = case.outlet.events
    assert [(event.credits_remaining_seconds, event.low) for event in events] == published


async def test_the_count_of_the_provider_is_billed() -> None:
    case = await Case().start()
    stream = Stream(case, Usage(audio_seconds=5.0))
    await stream.run()
    stream.relay.count_last()
    assert case.progress.ledger.usage()["one"].billed_seconds == 5.0


@pytest.mark.parametrize(
    ("captured_ago", "arrived_ago", "late"),
    [(10, 3600, False), (100, 0, True), (None, 0, False), (None, 60, True)],
)
async def test_late_speech_is_counted_by_its_capture(
    captured_ago: float | None, arrived_ago: float, late: bool
) -> None:
    """Ten seconds of audio were captured from `captured_ago` on. Seven are speech."""
    case = await Case().start()
    words = tuple(ProviderWord(w, s, e, None, None) for w, s, e in (("to", 2, 4), ("ad", 5, 9)))
    stream = Stream(
        case, Final("to ad", 0, 10, words), Final("", 10, 10),
        captured_ns=0 if captured_ago is None else time.time_ns() - round(captured_ago * 1e9),
        arrived=time.monotonic() - arrived_ago,
    )  # fmt: skip
    await stream.run()

    def counted(name: str) -> float | None:
        return case.metrics.registry.get_sample_value(
            f"natterjack_{name}_total", {"provider": "one"}
        )

    assert counted("speech_seconds") == pytest.approx(7)
    assert counted("speech_late_seconds") == pytest.approx(7 if late else 0)
    long_ago = time.time_ns() - 10**15
    await Stream(case, Final("again", 0, 9), captured_ns=long_ago, live=False).run()
    assert counted("speech_seconds") == pytest.approx(7), "a repeated session counts once"


async def test_notices_are_counted() -> None:
    case = await Case().start()
    await Stream(case, Notice("slow", "it is slow"), Notice("slow", "it is slow")).run()
    labels = {"provider": "one", "code": "slow"}
    name = "natterjack_provider_notices_total"
    assert case.metrics.registry.get_sample_value(name, labels) == 2


async def test_an_event_restarts_the_watchdog() -> None:
    case = await Case().start()
    stream = Stream(case, Notice("hello", "hello"))
    stream.relay.handling = True
    await stream.run()
    assert not stream.relay.handling


@pytest.mark.parametrize(
    ("errors", "index"),
    [
        ([Dropped("one", "it broke"), LeaseLost("lost")], 1),
        ([Parked(), Dropped("one", "it broke")], 1),
        ([Dropped("one", "it broke"), HandOver()], 1),
        ([Dropped("one", "it broke"), RequestRefused("one", "auth", "no key")], 1),
        ([Dropped("one", "first"), Dropped("one", "second"), KeyError()], 0),
        ([KeyError("a defect")], 0),
    ],
)
def test_the_decisive_error(errors: list[Any], index: int) -> None:
    nested = BaseExceptionGroup("", [BaseExceptionGroup("", errors)])
    if len({type(error) for error in errors}) == len(errors):
        assert decisive(nested) is errors[index]
    assert type(decisive(nested)) is type(errors[index])
