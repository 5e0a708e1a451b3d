"""`natterjack demo`: speech in and captions out on one machine, and a summary of the session."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import signal
import statistics
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from natterjack.consume.captions import Captions, clock
from natterjack.consume.listener import listen
from natterjack.decoding import AnyEvent
from natterjack.errors import UsageError
from natterjack.events import FinalEvent, StatusEvent
from natterjack.process.run import end_tasks
from natterjack.process.terminal import plain
from natterjack.settings import BrokerSettings

from .page import ANY_PORT, check_page, gateway_variables, show
from .parts import Part
from .recordings.files import check
from .stack import Stack, run_stack, say
from .voice_demo import voice_demo
from .wer import word_error_rate

TENANT = "demo"
MAX_WORD_ERROR_RATE = 0.15
_NO_AUDIO = "stopped before any audio arrived"
"""Text in the log of an edge that has published nothing."""


@dataclass
class Received:
    """The events of the demo's session."""

    finals: list[FinalEvent] = field(default_factory=list)
    closing: StatusEvent | None = None
    problem: str | None = None
    """Why no provider serves the session, as its worker last said."""
    interrupted: bool = False

    def add(self, event: AnyEvent) -> None:
        if isinstance(event, FinalEvent):
            self.finals.append(event)
        elif isinstance(event, StatusEvent):
            self.closing = event if event.closing else None
            self.problem = event.reason if event.state == "recovering" else None

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self.finals)

    def latencies(self) -> list[float]:
        """Seconds between the end of each final's last word and its publication."""
        found = []
        for final in self.finals:
            ends = [word.end for word in final.words if word.end is not None]
            if final.started_at is not None and ends:
                spoken = final.started_at + timedelta(seconds=ends[-1] - final.start)
                found.append((final.published_at - spoken).total_seconds())
        return found


def bundled_recording() -> Path:
    """The recording of a human reader in the embedded engine's wheel. Raises UsageError."""
    spec = importlib.util.find_spec("moonshine_voice")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "assets" / "two_cities.wav"
        if path.is_file():
            return path
    raise UsageError("the bundled recording is missing: pip install 'natterjack[local]'")


def bundled_text() -> str:
    """The text that is read in the bundled recording."""
    return files("natterjack").joinpath("data/two_cities.txt").read_text()


async def demo(
    path: Path | None,
    *,
    microphone: bool = False,
    device: str | None = None,
    provider: str | None = None,
    directory: Path | None = None,
    voice: bool = False,
    aloud: bool = False,
    opens: bool = False,
) -> int:
    """Run the demo on a file, the microphone or the bundled recording.

    `voice`: say each turn back, on the loudspeaker if `aloud`. `opens`: open the page with the
    captions in the browser. Returns the exit status: 0 if the
    session closed and, for the bundled recording, the word error rate is below MAX_WORD_ERROR_RATE.
    """
    if aloud and not voice:
        raise UsageError("--play plays what the assistant says, which needs --voice")
    if path is not None and not microphone:
        await check(path)
    variables = gateway_variables(os.environ, None if opens else ANY_PORT)
    check_page(variables, wanted=opens)
    if variables is not None:
        variables["GATEWAY_TENANT"] = TENANT
    if voice:
        if opens:
            raise UsageError("--open shows captions, which --voice prints here")
        captured = ["mic", *([f"--device={device}"] if device else [])] if microphone else None
        if path is not None:
            captured = ["file", "--", str(path)]
        return await voice_demo(
            TENANT, bundled_recording(), captured, provider=provider, directory=directory,
            aloud=aloud,
        )  # fmt: skip
    arguments = ["mic" if microphone else "file", "--tenant", TENANT, "--speaker", "speaker"]
    if device is not None:
        arguments += [f"--device={device}"]
    source = [] if microphone else ["--", str(path or bundled_recording())]
    bundled = path is None and not microphone
    playing = (
        f"playing {plain(str(path))}" if path else "playing the bundled recording, a person reading"
    )

    async def work(stack: Stack) -> int:
        action = "listening to the microphone" if microphone else playing
        say(f"ready at {stack.server.url}; {action} (Ctrl-C ends it)")
        conversation = f"demo-{secrets.token_hex(3)}"
        if stack.page is not None:
            say(f"in a browser: {stack.page}captions/{conversation}")
            if opens:
                await show(f"{stack.page}captions/{conversation}")
        say("")
        received = Received()
        edge = await stack.edge(
            "edge", [*arguments, "--conversation", conversation, *source], reports=True
        )
        if not await _follow(stack, edge, received, conversation):
            say("stopped before any audio arrived: there is nothing to transcribe")
            return 0
        cpu = _cpu_seconds(stack.workers[0])
        status = _summary(received, cpu, bundled=bundled)
        if status:
            say(stack.keep())
        say(_next_steps(stack, conversation))
        return status

    return await run_stack(Stack("demo", directory, provider=provider, gateway=variables), work)


async def _follow(stack: Stack, edge: Part, received: Received, conversation: str) -> bool:
    """Show captions until the closing event, for 60 s at most after the edge has ended. Returns
    False if there is none, because the edge was stopped before it had any audio.

    Raises: PartFailed if a part ends before; UsageError if the edge cannot use its source.
    """
    # Not from the environment, whose NATS_* variables are for another broker.
    settings = BrokerSettings.model_construct(url=stack.server.url)

    async def show(captions: Captions) -> None:
        source = listen(TENANT, conversation, since="start", settings=settings)
        async with contextlib.aclosing(source):
            async for event in source:
                captions.show(event)
                received.add(event)
                if isinstance(event, StatusEvent) and received.problem:
                    captions.line(f"[{received.problem}]")
                if received.closing is not None:
                    return

    with Captions(names=None) as captions:

        def interrupt() -> None:
            captions.line("ending the session; Ctrl-C again ends everything at once")
            received.interrupted = True
            edge.signal(signal.SIGINT)

        stack.on_interrupt = interrupt
        try:
            return await _until_shown(stack, edge, show(captions))
        finally:
            stack.on_interrupt = None


async def _until_shown(stack: Stack, edge: Part, show: Coroutine[Any, Any, None]) -> bool:
    """Run `show` to its end, for 60 s at most after the edge has ended. Returns False at once if
    that has published nothing."""
    showing = asyncio.create_task(show, name="captions")
    edge_ended = asyncio.create_task(edge.wait(), name="edge")
    failing = asyncio.create_task(stack.failure(), name="failure")
    tasks = {showing, edge_ended, failing}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if edge_ended.done() and edge_ended.result() != 0:
            raise await edge.failure()
        if edge_ended.done() and any(_NO_AUDIO in line for line in edge.messages("info")):
            return False
        # The broker has all audio now, and the worker closes the session within its own timeouts.
        if not showing.done():
            waiting = {showing, failing}
            await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        if showing.done():
            showing.result()
        elif failing.done():
            raise failing.result()
        return True
    finally:
        await end_tasks(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)


def _cpu_seconds(part: Part) -> float | None:
    """CPU seconds that a process has used, or None where there is no /proc."""
    try:
        fields = Path(f"/proc/{part.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _summary(received: Received, cpu: float | None, *, bundled: bool) -> int:
    """Print the session's summary and return the exit status."""
    say("")
    closing = received.closing
    if closing is None:
        say(f"the session did not close: {received.problem or 'see the logs'}")
        return 1
    account = closing.account
    seconds = account.captured_seconds if account else 0.0
    say(f"session      {closing.state}: {closing.reason}; {clock(seconds)} of audio")
    say(f"words        {len(received.text.split())} in {len(received.finals)} finals")
    latencies = received.latencies()
    if latencies:
        say(
            f"latency      end of speech to final: median {statistics.median(latencies):.2f} s, "
            f"maximum {max(latencies):.2f} s"
        )
    if cpu is not None and seconds:
        say(
            f"worker CPU   {cpu:.1f} s, {cpu / seconds:.2f} s per second of audio, startup included"
        )
    if closing.state != "closed":
        return 1
    if bundled and not received.interrupted:
        rate = word_error_rate(bundled_text(), received.text)
        say(f"word errors  {rate:.1%} compared with the text that was read")
        if rate >= MAX_WORD_ERROR_RATE:
            say(f"that is above {MAX_WORD_ERROR_RATE:.0%}: the engine is not working properly")
            return 1
    return 0


def _next_steps(stack: Stack, conversation: str) -> str:
    return f"""
events       were published on stt.transcript.{TENANT}.{conversation}.speaker.> and stored in the
             stream STT_TRANSCRIPTS of {stack.server.url}, which stops with the demo

try next     natterjack demo my-recording.mp3     a file of your own
             natterjack demo --mic                your microphone
             natterjack demo --voice              says back what it hears, and can be interrupted
             DEEPGRAM_API_KEY=... natterjack demo --provider deepgram
             natterjack up                        a stack that keeps running, to develop against"""
