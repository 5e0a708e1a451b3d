"""Words lost when a provider drops its connections or goes mute.

The words are tones (natterjack/emulators/tones.py) that the emulators recognize. In the middle of
the speech every connection is aborted once, or stays mute until its end; connections that
are opened later work. The benchmark counts the words in finals.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from natterjack.broker.connection import connected
from natterjack.emulators import tones
from natterjack.events import FinalEvent, StatusEvent
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.table import table
from natterjack.settings import BrokerSettings
from tests.emulators.process import RemoteEmulator, emulator_process
from tests.faults.choir import Choir
from tests.faults.fleet import PHRASE
from tests.waiting import until
from tests.worker.programs import WorkerProcess

from .peer_venvs import NotInstalled, installed
from .processes import program

OURS: Final = "natterjack"
FAULTS: Final = ("none", "drop", "mute")
_SECONDS_A_WORD: Final = 0.41
_SPREAD_S: Final = 4.0
"""Delay of the last speaker after the first: about a phrase, so that the fault hits each at a
different point of its phrase."""
_TAIL_S: Final = 4.0
"""Silence after the words, long enough for any endpointing."""
_CLOSE_S: Final = 120.0
_CONCURRENT: Final = 4


@dataclass
class Loss:
    """Result for one service and fault; `skipped` says why it was not measured."""

    peer: str
    service: str
    fault: str
    spoken: int = 0
    lost: int = 0
    doubled: int = 0
    others: int = 0
    """Words out of order or never spoken."""
    broken: int = 0
    """Sessions in which the peer raised an error."""
    unended: int = 0
    """Sessions that did not end in time after the speech."""
    versions: dict[str, str] = field(default_factory=dict)
    skipped: str = ""

    def count(self, words: Sequence[str], received: Iterable[str]) -> None:
        found = tones.compare(words, received)
        self.spoken += len(words)
        self.lost += found.lost
        self.doubled += found.doubled
        self.others += found.out_of_order + found.invented


async def measure_losses(
    services: Sequence[tuple[str, str]],
    seconds: float = 24,
    speakers: int = 16,
    *,
    faults: Sequence[str] = FAULTS,
    ours: bool = True,
    verbose: bool = False,
) -> list[Loss]:
    """Measure each service of each peer, and natterjack if `ours` is true.

    Several measurements run concurrently, because delays do not matter and the load is small.
    """
    room = asyncio.Semaphore(_CONCURRENT)
    pairs = list(services)
    if ours:
        pairs = [*((OURS, service) for service in dict.fromkeys(s for _, s in services)), *pairs]
    for peer in {peer for peer, _ in pairs} - {OURS}:
        with contextlib.suppress(NotInstalled):  # its rows report the reason
            await installed(peer)

    async def measured(peer: str, service: str, fault: str) -> Loss:
        async with room:
            try:
                if peer == OURS:
                    return await ours_lost(service, fault, seconds, speakers)
                python = await installed(peer)
                return await peer_lost(python, peer, service, fault, seconds, speakers, verbose)
            except NotInstalled as error:
                return Loss(peer, service, fault, skipped=str(error))
            except (RuntimeError, TimeoutError, AssertionError) as error:
                why = f"failed: {str(error)[:200] or type(error).__name__}"
                return Loss(peer, service, fault, skipped=why)

    wanted = [(*pair, fault) for pair in pairs for fault in faults]
    return await asyncio.gather(*(measured(*which) for which in wanted))


async def _cause(emulator: RemoteEmulator, fault: str, seconds: float, speakers: int) -> None:
    """Cause the fault once a session has `seconds` of audio."""

    async def spoken() -> bool:
        await asyncio.sleep(0.1)  # reading the long log is expensive
        return any(entry["audio_seconds"] >= seconds for entry in await emulator.log())

    await until(spoken, f"{seconds} s of audio were sent", seconds + 60)
    if fault == "drop":
        dropped = await emulator.drop()
        if dropped < speakers:
            raise RuntimeError(f"only {dropped} connections were open")
    elif fault == "mute":
        await emulator.set(mute_after_seconds=0, connections=speakers)


async def peer_lost(
    python: Path, peer: str, service: str, fault: str, seconds: float, speakers: int, verbose: bool
) -> Loss:
    words = tones.sequence(round(seconds / _SECONDS_A_WORD))
    loss = Loss(peer, service, fault)
    with tempfile.NamedTemporaryFile(suffix=".pcm") as speech:
        speech.write(tones.encode(words, tail_seconds=_TAIL_S, **PHRASE))
        speech.flush()
        async with (
            emulator_process(service) as emulator,
            program(
                *("-m", f"bench.peer_{peer}", "--service", service, "--url", emulator.url),
                *("--sessions", str(speakers), "--speech", speech.name),
                *("--spread", str(_SPREAD_S)),
                python=str(python),
                quiet=not verbose,
            ) as subject,
        ):
            loss.versions = (await subject.read_json())["versions"]
            await subject.ask("open")
            if fault != "none":
                # The first speaker is ahead of the last one by the spread.
                await _cause(emulator, fault, (seconds + _SPREAD_S) / 2, speakers)

            async def given() -> bool:
                await asyncio.sleep(0.1)
                return bool((await subject.ask("stats"))["given"])

            await until(given, "all audio was sent", seconds + _SPREAD_S + _TAIL_S + 60)
            reply = await subject.ask("finish")
    for finals in reply["finals"]:
        loss.count(words, (word for text in finals for word in tones.words_of(text)))
    loss.broken, loss.unended = sum(map(bool, reply["errors"])), reply["unended"]
    return loss


async def ours_lost(service: str, fault: str, seconds: float, speakers: int) -> Loss:
    """Measure natterjack, with a worker and a broker."""
    loss = Loss(OURS, service, fault)
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory), tied=True)
        server.start()  # in the main thread, as it is tied
        try:
            async with (
                emulator_process(service) as emulator,
                connected(BrokerSettings(url=server.url), name="bench") as broker,
            ):
                worker = WorkerProcess(
                    server.url,
                    emulator.url,
                    WORKER_PROVIDER=service,
                    WORKER_MAX_SESSIONS=str(speakers),
                    DEEPGRAM_CATCH_UP_RATE="1.25",  # the default, which the tests change
                    SPEECHMATICS_API_KEY="a-bench-key",
                    SPEECHMATICS_URL=f"{emulator.url}/v2",
                )
                await worker.start()
                try:
                    async with Choir(broker, "bench", speakers, seconds) as choir:
                        if fault != "none":
                            middle = (seconds + _SPREAD_S) / 2
                            await _cause(emulator, fault, middle, speakers)
                        await choir.published()
                        await until(lambda: _all_closed(choir), "all closed", _CLOSE_S)
                finally:
                    await worker.stop()
        finally:
            await asyncio.to_thread(server.stop)
    for voice in choir.voices:
        finals = [event for _, event in voice.received if isinstance(event, FinalEvent)]
        finals.sort(key=lambda final: final.sequence)
        loss.count(choir.words, (word.text for final in finals for word in final.words))
    return loss


def _all_closed(choir: Choir) -> bool:
    return all(
        any(isinstance(event, StatusEvent) and event.closing for _, event in voice.received)
        for voice in choir.voices
    )


def print_losses(losses: Sequence[Loss]) -> None:
    lines = [["", "fault", "spoken", "lost", "doubled", "others", ""]]
    for loss in losses:
        name = f"{loss.peer} {loss.service}"
        if loss.skipped:
            lines.append([name, loss.fault, *[""] * 4, f"not measured: {loss.skipped}"])
            continue
        notes = [f"{loss.broken} sessions broke"] if loss.broken else []
        notes += [f"{loss.unended} sessions did not end"] if loss.unended else []
        counts = [str(n) for n in (loss.spoken, loss.lost, loss.doubled, loss.others)]
        lines.append([name, loss.fault, *counts, ", ".join(notes)])
    print(*table(lines, right=range(1, 6)), sep="\n")
