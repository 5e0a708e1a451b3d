"""The check of a source: it opens, and what it hears for some seconds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from natterjack.doctor.finding import Finding, failed, ok, one_line, skipped, warning
from natterjack.errors import NatterjackError

from ..errors import SourceError, SourceLost
from ..input.measure import Level
from ..input.watch import DEAD
from ..progress.input_report import Heard, InputReport
from ..sources import DEVICE_THREADS, Source

_OPEN_S = 8.0
"""How long a source may take to open, and to deliver what it is listened to for."""
_CURES = {
    DEAD: "switch the microphone on, plug it in, or unmute it in the mixer (`alsamixer`)",
}

MICROPHONE_CURE = (
    "name one that `natterjack-edge devices` lists; another program may be using it already"
)


class NotListenedTo(NatterjackError):
    """A source can be opened, but not without taking its audio from the agent."""


@dataclass(frozen=True)
class Input:
    """A source to check."""

    name: str
    """Its name in the table."""
    open: Callable[[], Awaitable[Source]]
    """Open it. Called in an event loop of its own."""
    split: bool = False
    """Whether each channel becomes a session."""
    cure: str = "correct its table in the file, or what it reads"
    """The advice to give if it cannot be opened."""


class Listened(NamedTuple):
    """The result of listening to a source."""

    name: str
    text: str
    """The format, for people."""
    level: Level | None
    """None if there was no audio."""
    findings: tuple[Heard, ...] = ()


def judged(check: str, heard: Listened) -> list[Finding]:
    """Judge what was heard. Pure."""
    text = f"{heard.name}, {heard.text}"
    if heard.level is None:
        return [failed(check, f"{text}: it delivers no audio", "look at what feeds it")]
    text += f": {heard.level.rms_dbfs:.0f} dBFS, peak {heard.level.peak_dbfs:.0f} dBFS"
    text += f" over {heard.level.seconds:.0f} s"
    if heard.level.correlation is not None:
        text += f", correlation of its channels {heard.level.correlation:.2f}"
    if not heard.findings:
        return [ok(check, text)]
    found = []
    for channel, finding in heard.findings:
        judge = failed if finding.code == DEAD else warning
        where = "" if channel is None else f"channel {channel + 1}: "
        problem = f"{text}; {where}{finding.code}: {finding.text}"
        found.append(judge(check, problem, _CURES.get(finding.code, "")))
    return found


async def examine(source: Input, seconds: float) -> list[Finding]:
    """Open a source and listen for so many seconds. It ends in bounded time, also if a device
    does not respond: then a thread of this process is left in its libraries."""
    check = f"input {source.name}".rstrip()
    result: concurrent.futures.Future[Listened] = concurrent.futures.Future()

    def work() -> None:
        try:
            result.set_result(asyncio.run(_listen(source, seconds)))
        except Exception as error:  # noqa: BLE001 - passed on to the awaiting task
            result.set_exception(error)

    thread = threading.Thread(target=work, name=f"{DEVICE_THREADS} check", daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(2 * _OPEN_S + seconds):
            heard = await asyncio.shield(asyncio.wrap_future(result))
    except TimeoutError:
        cure = "unplug it and plug it in again, or restart the sound server"
        return [failed(check, "the device does not respond", cure)]
    except NotListenedTo as error:
        return [skipped(check, one_line(error))]
    except (SourceError, SourceLost) as error:
        return [failed(check, one_line(error), source.cure)]
    except NatterjackError as error:
        return [failed(check, one_line(error), "correct the setting")]
    return judged(check, heard)


async def _listen(source: Input, seconds: float) -> Listened:
    """Measure a source. Raises: SourceError, SourceLost."""
    async with asyncio.timeout(_OPEN_S):
        opened = await source.open()
    try:
        kind = opened.format
        heard = InputReport(opened, split=source.split)
        findings: list[Heard] = []
        frames = 0
        with contextlib.suppress(TimeoutError):  # it delivers less than that
            async with asyncio.timeout(seconds + _OPEN_S):
                async for block in opened.blocks():
                    findings += heard.feed(block)
                    frames += len(block.samples)
                    if frames >= seconds * kind.sample_rate:
                        break
        findings += heard.finish()
        text = f"{kind.sample_rate} Hz, {kind.channels} channel{'s' if kind.channels > 1 else ''}"
        began = tuple(each for each in findings if each.finding.began)
        return Listened(opened.name, text, heard.level(), began)
    finally:
        opened.close()
