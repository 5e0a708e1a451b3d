"""`natterjack demo --voice`, as a user runs it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from natterjack.local import passages
from natterjack.local.demo import bundled_recording
from natterjack.local.dialogue import too_different

from .endings import Run

pytestmark = [pytest.mark.process, pytest.mark.engine, pytest.mark.slow]


async def test_questions_are_said_back_and_the_second_interrupts(tmp_path: Path) -> None:
    run = Run(tmp_path, "natterjack", "demo", "--voice", terminal=False)
    try:
        await run.says("try next")
        assert await run.ended() == 0, run.text
        await run.alone()
        said = run.text
    finally:
        await run.clean_up()
    assert "Traceback" not in said
    first, second = re.findall(r"^person: (.*)$", said, re.MULTILINE)
    assert not too_different(passages.FIRST.text, first)
    assert not too_different(passages.SECOND.text, second)
    heard, again = re.findall(r"^assistant says: (.*)$", said, re.MULTILINE)
    cut = re.fullmatch(r"(.+) \[interrupted \(turn\); not heard: (.+)\]", heard)
    assert cut is not None, heard
    assert f"{cut[1]} {cut[2]}" == first, "each word was heard or was not"
    assert again == second
    assert re.search(r"interrupted +after \d+ of \d+ words\n +the player was silent \d+ ms", said)
    assert re.search(r"understood +\d+ of \d+ played words", said)
    (name,) = run.files()
    path = re.search(rf"played +(.*/{re.escape(name)})", said)
    assert path is not None, said
    speech = soundfile.info(path[1])
    assert 3 < speech.duration < 30


async def test_a_file_is_said_back(tmp_path: Path) -> None:
    audio = np.frombuffer(passages.audio_of(passages.SECOND, bundled_recording()), "<i2")
    soundfile.write(tmp_path / "-x.wav", audio, passages.SAMPLE_RATE)
    arguments = ("demo", "--voice", "--store", "store", "--", "-x.wav")
    run = Run(tmp_path, "natterjack", *arguments, terminal=False)
    try:
        assert await run.ended() == 0, run.text
        said = run.text
    finally:
        await run.clean_up()
    (heard,) = re.findall(r"^person: (.*)$", said, re.MULTILINE)
    assert not too_different(passages.SECOND.text, heard)
    assert re.findall(r"^assistant says: (.*)$", said, re.MULTILINE) == [heard]
    assert re.search(r"answered +1 turns", said)
    assert re.search(r"played +store/natterjack-demo-\w+\.wav", said)
    assert run.files() == []
