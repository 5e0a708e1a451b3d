"""The stream as the worker uses it: phrases, marks, interrupting, closing, the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from natterjack.plugin.errors import Dropped, RequestRefused, Unavailable
from natterjack.plugin.voice import Interrupted, Mark, PhraseEnd, Speech, VoiceStreamEvent
from tests.waiting import bound, soon
from worker.voices.hibari import HibariVoice
from worker.voices.hibari.settings import HibariSettings
from worker.voices.hibari.stream import (
    MAX_PENDING_CHARACTERS,
    MAX_PHRASE_CHARACTERS,
    HibariStream,
)

from .conftest import request

pytestmark = pytest.mark.engine

STORY = "It was the best of times. It was the worst of times. It was the age of wisdom. " * 20


async def opened(voice: HibariVoice, **fields: object) -> HibariStream:
    stream = await voice.open(request(**fields))
    assert isinstance(stream, HibariStream)
    return stream


async def spoken(voice: HibariVoice, *phrases: str, **fields: object) -> list[VoiceStreamEvent]:
    """All events of a stream that speaks `phrases`."""
    stream = await opened(voice, **fields)
    for phrase in phrases:
        await stream.speak(phrase)
        await stream.flush()
    await stream.finish()
    events = [event async for event in stream]
    await stream.close()
    return events


def audio(events: list[VoiceStreamEvent]) -> bytes:
    return b"".join(event.audio for event in events if isinstance(event, Speech))


def kinds(events: list[VoiceStreamEvent]) -> list[type]:
    return [type(event) for event in events if not isinstance(event, Mark)]


async def test_phrases_end_in_order(voice: HibariVoice) -> None:
    events = await spoken(voice, "One. Two.", "\U0001f600", "Three.")
    assert kinds(events) == [Speech, Speech, PhraseEnd, PhraseEnd, Speech, PhraseEnd]


async def test_a_phrase_may_come_in_any_pieces(voice: HibariVoice) -> None:
    stream = await opened(voice)
    for text in ("It was the be", "st of", " times."):
        await stream.speak(text)
    await stream.flush()
    await stream.finish()
    events = [event async for event in stream]
    assert events == await spoken(voice, "It was the best of times.")
    await stream.close()


async def test_text_without_a_flush_is_spoken_at_the_end(voice: HibariVoice) -> None:
    stream = await opened(voice)
    await stream.speak("Hello.")
    await stream.finish()
    assert kinds([event async for event in stream]) == [Speech, PhraseEnd]
    await stream.close()


async def test_marks_go_on_through_the_pieces_of_a_phrase(voice: HibariVoice) -> None:
    phrase = "One two. Three four."
    events = await spoken(voice, phrase)
    marks = [event for event in events if isinstance(event, Mark)]
    assert [phrase[mark.character :].split()[0] for mark in marks] == phrase.split()
    assert [mark.seconds for mark in marks] == sorted(mark.seconds for mark in marks)
    first = next(event for event in events if isinstance(event, Speech))
    assert marks[2].seconds > len(first.audio) / 48_000 - 0.1


async def test_audio_comes_piece_by_piece(voice: HibariVoice) -> None:
    """The first sentence is returned before the last one is synthesized."""
    stream = await opened(voice)
    await stream.speak(STORY)
    await stream.flush()
    used = time.process_time()
    while not isinstance(await anext(stream), Speech):
        pass
    first = time.process_time() - used
    while not isinstance(await anext(stream), PhraseEnd):
        pass
    assert (time.process_time() - used) > 5 * first
    await stream.close()


async def test_interrupting_drops_all_text_at_once(voice: HibariVoice) -> None:
    stream = await opened(voice)
    for phrase in (STORY, STORY, STORY):
        await stream.speak(phrase)
        await stream.flush()
    await stream.speak("not complete")
    assert isinstance(await anext(stream), Mark)
    await stream.interrupt(0.1)
    assert await anext(stream) == Interrupted()
    await stream.speak("Hello.")
    await stream.flush()
    await stream.finish()
    after = [event async for event in stream]
    assert after == await spoken(voice, "Hello.")
    await stream.close()


async def test_an_interrupt_wakes_the_iteration(voice: HibariVoice) -> None:
    stream = await opened(voice)
    for _ in range(2):  # nothing was being spoken; then a piece is under way
        taking = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await stream.interrupt()
        assert await soon(taking, 10) == Interrupted()
        await stream.speak(STORY)
        await stream.flush()
    await stream.close()


async def test_configure_changes_the_speed_of_what_follows(voice: HibariVoice) -> None:
    stream = await opened(voice, options={"speed": 1.5})
    lengths = []
    for speed in (1.5, 0.75):
        await stream.configure({"speed": speed})
        await stream.speak("Hello there.")
        await stream.flush()
        size = 0
        while not isinstance(event := await anext(stream), PhraseEnd):
            size += len(event.audio) if isinstance(event, Speech) else 0
        lengths.append(size)
    assert lengths[1] > 1.5 * lengths[0]
    with pytest.raises(RequestRefused, match="'speed'"):
        await stream.configure({"speed": 9})
    await stream.close()


async def test_speak_waits_while_much_is_pending(voice: HibariVoice) -> None:
    stream = await opened(voice)
    long = "word " * (MAX_PENDING_CHARACTERS // 10)
    for _ in range(2):
        await stream.speak(long)
        await stream.flush()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.speak("more"), 0.05)
    await anext(stream)  # the first phrase has begun
    await stream.speak("more")
    await stream.flush()
    await stream.close()


async def test_a_phrase_without_an_end_is_refused(voice: HibariVoice) -> None:
    stream = await opened(voice)
    await stream.speak("x" * MAX_PHRASE_CHARACTERS)
    with pytest.raises(RequestRefused, match="100000 characters"):
        await stream.speak("x")
    with pytest.raises(RequestRefused, match="100000 characters"):
        await stream.speak("x" * 1_000_000)
    await stream.close()


async def test_cancelled_iteration_loses_nothing(voice: HibariVoice) -> None:
    stream = await opened(voice)
    await stream.speak(STORY[:400])
    await stream.flush()
    await stream.finish()
    events: list[VoiceStreamEvent] = []
    cancelled = 0
    while True:
        try:
            events.append(await asyncio.wait_for(anext(stream), 0.001))
        except TimeoutError:
            cancelled += 1
        except StopAsyncIteration:
            break
    assert cancelled
    assert audio(events) == audio(await spoken(voice, STORY[:400]))
    await stream.close()


async def test_closing_while_speaking(voice: HibariVoice) -> None:
    stream = await opened(voice)
    await stream.speak(STORY)
    await stream.flush()
    await anext(stream)
    taking = asyncio.create_task(collected(stream))
    await asyncio.sleep(0)
    started, used = time.monotonic(), time.process_time()
    await stream.close()
    with pytest.raises(Dropped, match="closed"):
        await taking
    assert min(time.monotonic() - started, time.process_time() - used) < bound(0.25)
    await stream.close()
    for call in (stream.speak("x"), stream.flush(), stream.interrupt(), stream.finish()):
        with pytest.raises(Dropped):
            await call
    assert kinds(await spoken(voice, "Again.")) == [Speech, PhraseEnd]


async def collected(stream: HibariStream) -> list[VoiceStreamEvent]:
    return [event async for event in stream]


async def test_speak_after_finish(voice: HibariVoice) -> None:
    stream = await opened(voice)
    await stream.finish()
    with pytest.raises(RuntimeError, match="after finish"):
        await stream.speak("x")
    assert await collected(stream) == []
    await stream.close()


async def test_a_broken_engine_ends_the_stream(voice: HibariVoice) -> None:
    stream = await opened(voice)
    vars(stream)["_engine"] = None  # what breaks does not matter, only that it does
    await stream.speak("Hello.")
    await stream.flush()
    with pytest.raises(Unavailable, match="the engine failed") as caught:
        await anext(stream)
    assert caught.value.cause == "server_error"
    assert isinstance(caught.value.__cause__, AttributeError)
    await stream.close()


async def test_closing_the_voice_ends_its_streams(engine: None) -> None:
    voice = HibariVoice(HibariSettings(threads=1))
    streams = [await opened(voice) for _ in range(3)]
    for stream in streams:
        await stream.speak(STORY)
        await stream.flush()
    takings = [asyncio.create_task(collected(stream)) for stream in streams]
    await asyncio.sleep(0)
    await voice.close()
    for taking in takings:
        with pytest.raises(Dropped):
            await soon(taking, 10)
    with pytest.raises(Unavailable, match="closed"):
        await voice.open(request())
    for stream in streams:
        await stream.close()
    await voice.close()


async def test_the_event_loop_is_never_blocked(voice: HibariVoice) -> None:
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
    await asyncio.gather(*(spoken(voice, STORY) for _ in range(2)))
    watching.cancel()
    assert longest < bound(0.25)
