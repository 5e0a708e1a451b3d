"""The stream as the worker uses it: bounds, finalize, cancelling, closing, the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from natterjack.local.wer import word_error_rate
from natterjack.plugin.errors import Dropped, Unavailable
from natterjack.plugin.provider import Final
from tests.waiting import bound, soon, until
from worker.providers.sherpa import SherpaProvider
from worker.providers.sherpa.stream import MAX_PENDING_BYTES, SherpaStream

from .speech import PART_REFERENCE, PART_SECONDS, Take, chunks, feed, request, seconds, take_of

pytestmark = pytest.mark.engine


async def opened(provider: SherpaProvider, **options: float) -> SherpaStream:
    stream = await provider.open(request(options=options))
    assert isinstance(stream, SherpaStream)
    return stream


async def collect(stream: SherpaStream, take: Take) -> None:
    async for event in stream:
        take.events.append(event)


async def test_send_waits_if_nobody_iterates(provider: SherpaProvider, part: bytes) -> None:
    stream = await opened(provider)
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        for chunk in chunks(part):
            await stream.send(chunk)
            sent += len(chunk)
        await stream.finish()

    sending = asyncio.create_task(send_all())
    await asyncio.sleep(0.2)  # more may not be taken
    assert sent <= MAX_PENDING_BYTES + 2_560
    take = Take()
    await collect(stream, take)
    await sending
    assert sent == len(part)
    assert word_error_rate(PART_REFERENCE, take.text) < 0.15
    await stream.close()


async def test_finalize_makes_final_what_was_sent(provider: SherpaProvider, speech: bytes) -> None:
    stream = await opened(provider)
    take = Take()
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(stream, take))
        for chunk in chunks(seconds(0, 6, speech)):  # in the middle of a turn
            await stream.send(chunk)
        await until(lambda: take.interims and take.interims[-1].end > 5.5, "all is heard")
        asked = time.monotonic()
        await stream.finalize()
        final = await until(lambda: take.finals and take.finals[-1].text and take.finals[-1], "it")
        assert time.monotonic() - asked < bound(2)
        assert 5.9 < final.end <= 6.0
        assert take.turns[-1].event == "started"  # the turn goes on
        await stream.finalize()  # nothing is left
        for chunk in chunks(seconds(6, 10, speech)):
            await stream.send(chunk)
        await stream.finalize()  # applies to what came before it, not to what follows
        for chunk in chunks(seconds(10, PART_SECONDS, speech)):
            await stream.send(chunk)
        await stream.finish()
    ends = [final.end for final in take.finals]
    assert any(9.9 < end <= 10.0 for end in ends)
    assert all(a.end == b.start for a, b in zip(take.finals, take.finals[1:], strict=False))
    assert word_error_rate(PART_REFERENCE, take.text) < 0.2
    await stream.close()


async def test_finalize_in_silence_spares_the_pre_roll(provider: SherpaProvider) -> None:
    stream = await opened(provider)
    await stream.send(bytes(32_000))
    await stream.finalize()
    event = await anext(stream)
    assert isinstance(event, Final)
    assert event.text == ""
    assert 0.4 < event.end <= 0.5
    await stream.close()


async def test_many_finalizes_give_no_invented_words(
    provider: SherpaProvider, speech: bytes
) -> None:
    """Pieces down to one window are decoded or left out; none breaks the engine."""
    stream = await opened(provider, interim_seconds=0)
    take = Take()
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(stream, take))
        for index, chunk in enumerate(chunks(seconds(0, 8, speech), 1024)):
            await stream.send(chunk)
            if index % 7 == 0 or index % 11 == 0:
                await stream.finalize()
        await stream.finish()
    assert all(a.end == b.start for a, b in zip(take.finals, take.finals[1:], strict=False))
    assert take.finals[-1].end == 8
    await stream.close()


async def test_cancelled_iteration_loses_nothing(
    provider: SherpaProvider, part: bytes, part_take: Take
) -> None:
    stream = await opened(provider, interim_seconds=0)
    take = Take()
    cancelled = 0
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(stream, part))
        while True:
            try:
                take.events.append(await asyncio.wait_for(anext(stream), 0.01))
            except TimeoutError:
                cancelled += 1
            except StopAsyncIteration:
                break
    assert cancelled
    assert take.finals == part_take.finals
    await stream.close()


async def test_cancelled_send_leaves_the_stream_usable(
    provider: SherpaProvider, speech: bytes
) -> None:
    stream = await opened(provider, interim_seconds=0)
    for chunk in chunks(speech[:MAX_PENDING_BYTES]):
        await stream.send(chunk)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.send(bytes(2_560)), 0.05)
    await stream.finish()
    take = Take()
    await collect(stream, take)
    assert take.finals[-1].end == 4.0
    await stream.close()


async def test_closing_while_decoding(provider: SherpaProvider, speech: bytes) -> None:
    stream = await opened(provider)
    take = Take()
    sending = asyncio.create_task(feed(stream, speech))
    collecting = asyncio.create_task(collect(stream, take))
    await until(lambda: take.interims, "it is speaking")
    started, used = time.monotonic(), time.process_time()
    await stream.close()
    with pytest.raises(Dropped, match="closed"):
        await collecting
    with pytest.raises(Dropped, match="closed"):
        await sending
    assert min(time.monotonic() - started, time.process_time() - used) < bound(0.25)
    heard = len(take.events)
    await stream.close()
    with pytest.raises(Dropped):
        await anext(stream)
    with pytest.raises(Dropped):
        await stream.finalize()
    assert len(take.events) == heard
    again = await take_of(provider, seconds(0, 5, speech))
    assert "best of times" in again.text.lower()


async def test_closing_an_unused_or_finished_stream(provider: SherpaProvider) -> None:
    unused = await opened(provider)
    await unused.close()
    finished = await opened(provider)
    await feed(finished, bytes(32_000))
    take = Take()
    await collect(finished, take)
    await finished.close()
    await collect(finished, take)  # it has ended well, and closing does not change that
    assert take.finals[-1].end == 1.0


async def test_send_after_finish(provider: SherpaProvider) -> None:
    stream = await opened(provider)
    await stream.finish()
    with pytest.raises(RuntimeError, match="after finish"):
        await stream.send(bytes(2))
    await stream.close()


async def test_a_broken_engine_ends_the_stream(provider: SherpaProvider, speech: bytes) -> None:
    stream = await opened(provider)
    vars(stream._transcriber)["_decoder"] = None  # what breaks does not matter, only that it does
    sending = asyncio.create_task(feed(stream, speech))
    with pytest.raises(Unavailable, match="the engine failed") as caught:
        await collect(stream, Take())
    assert caught.value.cause == "server_error"
    assert isinstance(caught.value.__cause__, AttributeError)
    with pytest.raises(Unavailable):
        await soon(sending, 1)
    await stream.close()


async def test_the_event_loop_is_never_blocked(provider: SherpaProvider, part: bytes) -> None:
    """Only this process's CPU time counts, because other load on the machine delays the loop."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before, used = time.monotonic(), time.process_time()
            await asyncio.sleep(0.01)  # the interval of the measurement
            held = time.monotonic() - before - 0.01
            longest = max(longest, min(held, time.process_time() - used))

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(take_of(provider, part) for _ in range(2)))
    watching.cancel()
    assert longest < bound(0.25)
