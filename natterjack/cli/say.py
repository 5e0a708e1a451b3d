"""`natterjack say`: speak text from the command line or standard input."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from natterjack.broker.connection import connected
from natterjack.errors import NatterjackError, UsageError, VoiceEnded, VoiceError, ungrouped
from natterjack.process.signals import receiving, stop_signals
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.speaking.opening import speak
from natterjack.speaking.session import Speaking
from natterjack.subjects import SessionKey
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent

_TENANT, _SPEAKER = "default", "assistant"
_TO = f"{_TENANT}.say.{_SPEAKER}"
_WAITING_LINES = 16
"""Lines of standard input that are read ahead."""
_NOTICE_S = 3.0
"""When a person is told what is waited for."""
_REASONS = {
    "no_player": "nothing plays the speech of {key}: is `natterjack-edge play` running?",
    "turn": "the speaker of --interrupt-on began to talk",
    "request": "a control request interrupted it",
    "superseded": "a newer session uses {key}",
}


class NotSpoken(VoiceError):
    """Some text was not spoken to its end."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `say`."""
    command = commands.add_parser(
        "say",
        help="speak text",
        description="Speak text, and wait until it was played. Without TEXT, each line of standard "
        "input is spoken as soon as it comes. It is played by whoever plays the key, for example "
        "`natterjack-edge play --conversation say`. Ctrl-C stops the speech, and so do SIGTERM "
        "and a terminal that is closed.",
        epilog="Exit status: 0 all of it was played; 1 some was not: it was interrupted, nothing "
        "plays it, no worker took the session, the session failed, or there was no text; 2 wrong "
        "usage, no connection to NATS, or the server refused; 130 stopped by Ctrl-C, 143 by "
        "SIGTERM, 129 by a terminal that was closed.",
    )
    command.add_argument("text", nargs="*", metavar="TEXT", help="text to speak, as one utterance")
    command.add_argument(
        "--to",
        default=_TO,
        metavar="KEY",
        help="key of the voice session, TENANT.CONVERSATION.SPEAKER; or a conversation of the "
        f"tenant {_TENANT}, whose speaker {_SPEAKER} speaks [default {_TO}]",
    )
    command.add_argument(
        "--voice",
        help="voice provider, such as hibari; several separated by commas are tried in order; by "
        "default the worker's (WORKER_VOICE)",
    )
    command.add_argument(
        "--model", help="one of the provider's voices, by the name that it gives it"
    )
    command.add_argument("--language", help="language tag, such as en-US")
    command.add_argument(
        "--sample-rate",
        type=int,
        default=24_000,
        help="rate of the speech, in hertz [default 24000]",
    )
    command.add_argument(
        "--interrupt-on",
        metavar="KEY",
        help="key of a transcription session of the same tenant, whose speaker interrupts the "
        "speech",
    )
    command.add_argument(
        "--wait",
        type=float,
        default=30,
        metavar="SECONDS",
        help="how long a worker may take to claim the session [default 30]",
    )
    add_flags(command, BrokerSettings, "nats-")


def parse_to(text: str) -> SessionKey:
    """The key that `--to` names. Raises InvalidKey."""
    if "." in text:
        return SessionKey.parse(text)
    return SessionKey.checked(_TENANT, text, _SPEAKER)


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError, BrokerError, VoiceError."""
    key = parse_to(flags.to)
    if flags.wait <= 0:
        raise UsageError("--wait must be more than 0")
    text = " ".join(flags.text).strip()
    if flags.text and not text:
        raise UsageError("there is no text to speak")
    speaking = asyncio.ensure_future(_speak(flags, key, text))
    received: list[int] = []

    def stop(number: int) -> None:
        if received and number != getattr(signal, "SIGHUP", 0):  # a closed terminal may send two
            os._exit(128 + number)
        received.append(number)
        _tell("stopping the speech; Ctrl-C again ends at once")
        speaking.cancel()

    # Only the main thread receives signals.
    main = threading.current_thread() is threading.main_thread()
    with receiving(stop_signals() if main else (), stop):
        try:
            return await speaking
        except asyncio.CancelledError:
            if not received:
                raise
            return 128 + received[0]


async def _speak(flags: argparse.Namespace, key: SessionKey, text: str) -> int:
    """As `run`, without signals."""
    said = _Said()
    settings = load(BrokerSettings, flags)
    voices = [name.strip() for name in (flags.voice or "").split(",") if name.strip()]
    async with (
        connected(settings, name="natterjack-say", once=True) as broker,
        speak(
            *key, voice=voices or None, model=flags.model, language=flags.language,
            sample_rate=flags.sample_rate, interrupt_on=flags.interrupt_on,
            worker_seconds=flags.wait, broker=broker,
        ) as speaking,
    ):  # fmt: skip
        with ungrouped(NatterjackError):
            async with asyncio.TaskGroup() as tasks:
                saying = tasks.create_task(_say(speaking, said, text), name="say")
                notice = tasks.create_task(_notice(flags.wait), name="notice")
                problems, ended = await _watch(speaking, key, notice)
                saying.cancel()  # the session has ended, so nothing more can be said
    if not problems and not said.whole:
        problems = [f"before the end of the text, {ended}"]
    elif not problems and not said.any:
        problems = ["there was no text on standard input"]
    if problems:
        raise NotSpoken("; ".join(dict.fromkeys(problems)))
    return 0


async def _notice(wait: float) -> None:
    """Say what is waited for, if that takes long."""
    await asyncio.sleep(_NOTICE_S)
    _tell(
        "no worker has taken the session yet: one must run with `speak` in WORKER_KINDS, and have "
        f"a free slot (waiting for {wait:g} s, see --wait)"
    )


def _tell(text: str) -> None:
    """Print a line for people, if they can still see it."""
    with contextlib.suppress(OSError):
        print(f"natterjack say: {text}", file=sys.stderr, flush=True)


@dataclass
class _Said:
    """The progress of giving text to the session."""

    any: bool = False
    whole: bool = False
    """Whether it is all of the text."""


async def _say(speaking: Speaking, said: _Said, text: str) -> None:
    """Say the text, or the lines of standard input, and close the session."""
    with contextlib.suppress(VoiceEnded):  # its closing event says why
        if text:
            await speaking.say(text)
            said.any = True
        else:
            async with contextlib.aclosing(_lines()) as lines:
                async for line in lines:
                    if line.strip():
                        await speaking.say(line.strip())
                        said.any = True
        said.whole = True
        await speaking.close()


async def _watch(
    speaking: Speaking, key: SessionKey, notice: asyncio.Task[None]
) -> tuple[list[str], str]:
    """Read events until the session has ended; the first one ends `notice`. Returns why text was
    not spoken, and that the session has ended, with the reason."""
    problems, ended = [], "the session has ended"
    async for event in speaking:
        notice.cancel()
        if isinstance(event, UtteranceEvent) and event.event == "interrupted":
            if event.reason != "failed":  # the closing event says why
                why = _REASONS.get(event.reason or "", event.reason or "no reason given")
                why = why.format(key=key) + (f" ({event.detail})" if event.detail else "")
                problems.append(f"interrupted: {why}")
            if event.text_remaining:
                problems.append(f"not spoken: {event.text_remaining!r}")
        elif isinstance(event, UtteranceEvent) and event.event == "finished" and event.detail:
            problems.append(event.detail)
        elif isinstance(event, VoiceStatusEvent) and event.closing:
            why = ": ".join(filter(None, (event.reason, event.detail))) or "no reason given"
            ended = f"the session has {event.state}: {why}"
            if event.state == "failed" or event.text_remaining:
                problems.append(ended)
    return problems, ended


async def _lines() -> AsyncGenerator[str]:
    """The lines of standard input. A thread reads them, which ends with the process at the latest:
    a read from a terminal cannot be ended."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str] = asyncio.Queue()
    room = threading.Semaphore(_WAITING_LINES)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            for line in iter(sys.stdin.readline, ""):
                room.acquire()
                loop.call_soon_threadsafe(queue.put_nowait, line)
            loop.call_soon_threadsafe(queue.put_nowait, "")

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    threading.Thread(target=read, name="read lines", daemon=True).start()
    while line := await queue.get():
        room.release()
        yield line
