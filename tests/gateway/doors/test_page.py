"""The programs of the page on clients, run as they stand there but for the address."""

from __future__ import annotations

import asyncio
import sys
import wave
from pathlib import Path

import pytest

from docs.generate import ROOT
from natterjack.emulators import tones
from tests.docs.pages import blocks
from tests.waiting import within

from .house import RATE, House, Speech

pytestmark = [pytest.mark.process, pytest.mark.slow]

PAGE = ROOT / "docs" / "how-to" / "connect-a-client.md"
PROGRAMS = blocks(PAGE.read_text(), "python")


def test_the_page_has_programs() -> None:
    assert len(PROGRAMS) == 3


@pytest.mark.parametrize("program", PROGRAMS, ids=["deepgram", "speechmatics", "openai"])
async def test_a_program_prints_each_word_once(house: House, tmp_path: Path, program: str) -> None:
    speech = Speech(20)
    with wave.open(str(tmp_path / "call.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(speech.audio)
    await house.start("deepgram")
    (tmp_path / "program.py").write_text(
        program.replace("127.0.0.1:8080", f"127.0.0.1:{house.gateway.port}")
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "program.py", cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with within(90):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    speech.check(tones.words_of(output.decode()))
