"""The person of the voice demo, on a real pipe."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest

from natterjack.local.demo import bundled_recording, bundled_text
from natterjack.local.passages import FIRST, SAMPLE_RATE, SECOND, Passage, Person, audio_of
from natterjack.local.wer import normalized_words
from tests.waiting import soon

PASSAGES = [FIRST, SECOND]


@pytest.mark.parametrize("passage", PASSAGES, ids=["first", "second"])
def test_passages_are_in_the_text_that_is_read(passage: Passage) -> None:
    words = " ".join(normalized_words(passage.text))
    assert words in " ".join(normalized_words(bundled_text()))


@pytest.mark.parametrize("passage", PASSAGES, ids=["first", "second"])
def test_the_audio_of_a_passage(passage: Passage) -> None:
    audio = audio_of(passage, bundled_recording())
    seconds = sum(end - start for start, end in passage.stretches)
    assert len(audio) == pytest.approx(2 * SAMPLE_RATE * seconds, abs=8)
    assert any(audio)


async def test_a_person_is_silent_speaks_and_is_silent_again(tmp_path: Path) -> None:
    source, sink = os.pipe()
    person = Person(io.FileIO(sink, "w"))
    said = bytes(range(1, 251)) * 40  # less than a pipe holds
    running = asyncio.create_task(person.run())
    with io.FileIO(source) as reader:
        received = await soon(asyncio.to_thread(reader.read, 2), 30)
        person.say(said)
        while said not in received:
            received += await soon(asyncio.to_thread(reader.read, 4096), 30)
        while not received.endswith(b"\0" * 100):
            received += await soon(asyncio.to_thread(reader.read, 4096), 30)
        person.leave()
        await soon(running, 30)
        while data := reader.read():
            received += data
    assert received.strip(b"\0") == said
    assert len(received) % 2 == 0


async def test_a_person_to_whom_nobody_listens_ends() -> None:
    source, sink = os.pipe()
    os.close(source)
    await soon(Person(io.FileIO(sink, "w")).run(), 30)


async def test_a_full_pipe_does_not_keep_a_person_from_leaving() -> None:
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    with io.FileIO(source), io.FileIO(sink, "w", closefd=False) as full:
        while full.write(bytes(4096)):
            pass
        person = Person(io.FileIO(sink, "w"))
        person.leave()
        await soon(person.run(), 30)
