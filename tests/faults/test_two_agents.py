"""Words of two agents on one key, transcribed by a worker."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.emulators import pcm, tones
from natterjack.events import StatusEvent
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey

from ..edge_capture.conftest import StartEdge
from ..edge_capture.program import Edge
from ..freezing import freeze
from ..waiting import until
from ..worker.programs import StartWorker, Transcript, closed, queue_empty, stored
from .audit import audit

pytestmark = pytest.mark.process

WORDS = tones.sequence(40)
HOW = {"phrase_words": 8, "pause_seconds": 0.8}
ROOM = ("--tenant", "acme", "--conversation", "room", "--speed", "2")


def write_words(path: Path) -> Path:
    """Write a WAV file, or raw audio."""
    audio = tones.encode(WORDS, 16_000, tail_seconds=0.5, **HOW)  # type: ignore[arg-type]
    if path.suffix == ".wav":
        soundfile.write(path, pcm.to_samples(audio, "linear16"), 16_000)
    else:
        path.write_bytes(audio)
    return path


async def spec_of(edge: Edge) -> SessionSpec:
    await until(lambda: "\n" in edge.stdout, "the agent names its session")
    key, session_id = edge.stdout.split()[:2]
    return SessionSpec(session_id=session_id, **SessionKey.parse(key)._asdict())


async def transcribed(broker: Broker, edge: Edge, words: int) -> None:
    spec = await spec_of(edge)

    async def look() -> bool:
        return len((await stored(broker, spec)).words) >= words

    await until(look, f"{words} words are transcribed", 60)


def check(transcript: Transcript) -> None:
    found = audit(transcript.events, WORDS, tones.places(WORDS, **HOW))  # type: ignore[arg-type]
    assert found.clean, f"{found}\n{transcript.describe()}"


async def test_a_refused_agent_does_not_disturb_the_other_one(
    ready_broker: Broker, start_worker: StartWorker, start_edge: StartEdge, tmp_path: Path
) -> None:
    await start_worker()
    speech = write_words(tmp_path / "words.wav")
    first = start_edge("file", speech, *ROOM)
    await transcribed(ready_broker, first, 8)
    second = start_edge("file", speech, *ROOM)
    assert await second.exit_code() == 3, second.stderr
    assert await first.exit_code(60) == 0, first.stderr
    check(await closed(ready_broker, await spec_of(first), 60))
    await queue_empty(ready_broker)
    assert not (await stored(ready_broker, await spec_of(second))).events


@pytest.mark.parametrize("live", [False, True])
async def test_an_agent_that_takes_over_loses_no_word(
    ready_broker: Broker,
    start_worker: StartWorker,
    start_edge: StartEdge,
    tmp_path: Path,
    live: bool,
) -> None:
    """The first one is frozen, wakes up, and ends; what it said before is transcribed too. It does
    not open another session when it learns that its own has ended."""
    await start_worker()
    speech = write_words(tmp_path / "words.wav")
    if live:
        with write_words(tmp_path / "words.raw").open("rb") as raw:
            first = start_edge("stdin", "--live", *ROOM, stdin=raw)
    else:
        first = start_edge("file", speech, *ROOM)
    await transcribed(ready_broker, first, 8)
    freeze(first.process.pid)
    second = start_edge("file", speech, *ROOM)
    await transcribed(ready_broker, second, 8)
    first.process.send_signal(signal.SIGCONT)
    assert await first.exit_code() == 1, first.stderr
    assert "which took over when this agent did not answer" in first.stderr
    assert await second.exit_code(60) == 0, second.stderr
    check(await closed(ready_broker, await spec_of(second), 60))
    before = await closed(ready_broker, await spec_of(first))
    (end,) = before.closing
    assert isinstance(end, StatusEvent)
    assert (end.reason or "").startswith("superseded")
    assert before.words == [tones.plain(word) for word in WORDS[: len(before.words)]]
    assert len(before.words) >= 8
    assert first.stdout.count("\n") == 1
    await queue_empty(ready_broker)
