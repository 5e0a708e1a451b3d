"""`natterjack demo --voice`: what a person says is said back, until the person talks again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from natterjack.broker.connection import Broker, connected
from natterjack.consume.captions import Captions
from natterjack.consume.listener import listen
from natterjack.errors import BadEvent, NatterjackError, UsageError, ungrouped
from natterjack.process.terminal import plain
from natterjack.settings import BrokerSettings
from natterjack.speaking.opening import speak
from natterjack.speaking.session import Speaking
from natterjack.subjects import SessionKey, played_subject
from natterjack.voice.spec import parse_played

from . import passages
from .dialogue import Dialogue, too_different, words_understood
from .parts import Part
from .stack import Stack, run_stack, say

PERSON, ASSISTANT, LISTENER = "person", "assistant", "listener"
_RATE = 24_000
_STEP_S = 60.0
"""How long a step of the demo may take."""
_INTERRUPT_AFTER_S = 2.0
"""How much of the answer is played before the second question begins."""


class NotHeard(NatterjackError):
    """A step of the demo did not come about."""


async def voice_demo(
    tenant: str,
    recording: Path,
    captured: list[str] | None,
    *,
    provider: str | None,
    directory: Path | None,
    aloud: bool,
) -> int:
    """Run the demo and return its exit status: 0 if all was understood, said back and played.

    `captured` are the arguments of the edge that captures the person; None: two passages of
    `recording`, of which the second interrupts the answer to the first. `aloud`: play on the
    loudspeaker, and not into a WAV file. Raises: PartFailed, UsageError.
    """
    if captured is None and os.name != "posix":
        raise UsageError("--voice needs --mic or a file on this system")
    with _pipe() as (reader, writer):

        async def work(stack: Stack) -> int:
            reader.close()  # the keeper has it
            conversation = f"demo-{secrets.token_hex(3)}"
            wav = None if aloud else stack.directory / f"natterjack-{conversation}.wav"
            settings = BrokerSettings.model_construct(url=stack.server.url)
            async with connected(settings, name="natterjack-demo") as broker:
                key = SessionKey(tenant, conversation, PERSON)
                status = await _VoiceDemo(stack, broker, key, wav).run(recording, captured, writer)
            if status:
                say(stack.keep())
            elif wav is not None and wav.exists():
                say(f"played       {_moved(wav) if directory is None else wav}")
            say(_NEXT_STEPS)
            return status

        stack = Stack("demo", directory, provider=provider, speaks=True, source=reader.fileno())
        return await run_stack(stack, work)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """A pipe: its readable and its writable end."""
    source, sink = os.pipe()
    with io.FileIO(source, "r") as reader, io.FileIO(sink, "w") as writer:
        yield reader, writer


class _VoiceDemo:
    """One conversation on a stack."""

    def __init__(self, stack: Stack, broker: Broker, person: SessionKey, wav: Path | None) -> None:
        self._stack = stack
        self._broker = broker
        self._person = person
        self._assistant = person._replace(speaker=ASSISTANT)
        self._wav = wav
        self._captions = Captions(names="speaker", clocks=False, states=False)
        self._dialogue = Dialogue()
        self._replay = Dialogue()
        """The transcript of the WAV file."""
        self._changed = asyncio.Event()
        self._tasks: asyncio.TaskGroup

    async def run(self, recording: Path, captured: list[str] | None, sink: io.RawIOBase) -> int:
        """Run the conversation, print its account, and return the exit status. Raises: PartFailed,
        UsageError, NotHeard."""
        with ungrouped(BaseException), self._captions:
            async with asyncio.TaskGroup() as self._tasks:
                await self._run(recording, captured, sink)
        say("")
        return self._account([passages.FIRST, passages.SECOND] if captured is None else [])

    async def _run(self, recording: Path, captured: list[str] | None, sink: io.RawIOBase) -> None:
        reports = await self._broker.client.listen(played_subject(self._assistant), self._reported)
        watching = [
            self._tasks.create_task(self._transcripts(), name="transcripts"),
            self._tasks.create_task(self._failure(), name="failure"),
        ]
        self._captions.line("loading the engine and the voice ...")
        player = await self._start_player()
        async with speak(
            *self._assistant, sample_rate=_RATE, interrupt_on=str(self._person),
            broker=self._broker,
        ) as speaking:  # fmt: skip
            events = self._tasks.create_task(self._speech(speaking), name="speech")
            await self._until("the voice could speak", lambda: self._dialogue.can_speak)
            if captured is None:
                await self._act(speaking, recording, sink)
            else:
                await self._converse(speaking, captured)
            await speaking.close()
            await events
        player.signal(signal.SIGINT)
        await player.wait()
        if self._wav is not None and self._dialogue.heard:
            self._captions.line("the recognizer listens to what was played ...")
            await self._listen_to(self._wav)
        await reports.end()
        for task in watching:
            task.cancel()

    # ---- what happens --------------------------------------------------------------------------

    async def _act(self, speaking: Speaking, recording: Path, sink: io.RawIOBase) -> None:
        """Have two passages read: the second when the answer to the first is being played."""
        person, dialogue = passages.Person(sink), self._dialogue
        self._tasks.create_task(person.run(), name="person")
        rate = f"--sample-rate={passages.SAMPLE_RATE}"
        edge = await self._edge(PERSON, ["stdin", "--raw", rate, *_key(self._person)], piped=True)
        await self._until("the engine could hear", lambda: dialogue.can_hear)
        for number, passage in enumerate((passages.FIRST, passages.SECOND)):
            if number:
                await self._until("the answer was played", self._answer_is_played)
                self._captions.line("(the person reads on while the assistant speaks)")
            else:
                self._captions.line("(a person reads, from the bundled recording)")
            dialogue.began_talking_at = time.time() + passages.LEAD_S
            person.say(passages.audio_of(passage, recording))
            await self._until("what the person read was heard", lambda: dialogue.unanswered)
            await self._answer(speaking)
        await self._until(
            "the answers were played", lambda: all(answer.end for answer in dialogue.answers)
        )
        person.leave()
        await edge.wait()
        await self._until("the session closed", lambda: dialogue.closing)

    def _answer_is_played(self) -> bool:
        (answer,) = self._dialogue.answers
        return self._dialogue.played >= _INTERRUPT_AFTER_S or answer.end is not None

    async def _converse(self, speaking: Speaking, captured: list[str]) -> None:
        """Say each turn back, until the source ends."""
        self._captions.line("(the assistant says back what it hears; Ctrl-C ends it)")
        command, *rest = captured
        edge = await self._edge(PERSON, [command, *_key(self._person), *rest])

        def interrupt() -> None:
            self._captions.line("ending the session; Ctrl-C again ends everything at once")
            edge.signal(signal.SIGINT)

        self._stack.on_interrupt = interrupt
        try:
            answering = self._tasks.create_task(self._answer_turns(speaking), name="answer")
            answering.add_done_callback(lambda _: self._notify())
            await edge.wait()
            await self._until("the session closed", answering.done)
        finally:
            self._stack.on_interrupt = None

    async def _answer_turns(self, speaking: Speaking) -> None:
        dialogue, closed = self._dialogue, False
        while not closed:
            await self._until("a turn", lambda: dialogue.unanswered or dialogue.closing, None)
            closed = dialogue.closing is not None
            await self._answer(speaking)

    async def _answer(self, speaking: Speaking) -> None:
        while (answer := self._dialogue.answer()) is not None:
            await speaking.say(answer.turn.text)

    async def _listen_to(self, wav: Path) -> None:
        """Have the recognizer transcribe what was played."""
        key = self._person._replace(speaker=LISTENER)
        await self._edge(LISTENER, ["file", "--speed=max", *_key(key), "--", str(wav)])
        await self._until("what was played was transcribed", lambda: self._replay.closing)

    def _account(self, questions: list[passages.Passage]) -> int:
        """Print what happened, and return the exit status."""
        problems = self._dialogue.problems([question.text for question in questions])
        for line in self._dialogue.summary():
            say(line)
        played = self._dialogue.heard
        if self._wav is not None and played:
            heard = " ".join(turn.text for turn in self._replay.turns)
            understood, words = words_understood(played, heard)
            say(f"understood   {understood} of {words} played words, by the recognizer")
            if too_different(played, heard):
                problems.append(f"what was played is not what was said: {heard!r}")
        for problem in problems:
            say(f"problem      {plain(problem)}")
        return 1 if problems else 0

    # ---- parts ---------------------------------------------------------------------------------

    async def _start_player(self) -> Part:
        where = [] if self._wav is None else ["--file", str(self._wav)]
        player = await self._edge("player", ["play", *_key(self._assistant), *where])
        await player.logged("ready to play")
        return player

    async def _edge(self, name: str, arguments: list[str], *, piped: bool = False) -> Part:
        """Start an edge, which must not fail."""
        part = await self._stack.edge(name, arguments, piped=piped)

        async def check() -> None:
            if await part.wait():
                raise await part.failure()

        self._tasks.create_task(check(), name=name)
        return part

    # ---- what is seen --------------------------------------------------------------------------

    async def _failure(self) -> None:
        raise await self._stack.failure()

    async def _transcripts(self) -> None:
        """Follow what the recognizer hears, of the person and of what was played."""
        tenant, conversation, _ = self._person
        source = listen(tenant, conversation, since="start", broker=self._broker)
        async with contextlib.aclosing(source):
            async for event in source:
                if event.speaker == LISTENER:
                    self._replay.add(event)
                else:
                    self._captions.show(event)
                    self._dialogue.add(event)
                self._notify()

    async def _speech(self, speaking: Speaking) -> None:
        """Follow what the assistant says, until the voice session has ended."""
        async for event in speaking:
            self._captions.show(event)
            self._dialogue.add_speech(event)
            self._notify()

    def _reported(self, _subject: bytes, _reply: bytes, _raw: bytes | None, data: bytes) -> None:
        with contextlib.suppress(BadEvent):
            self._dialogue.add_played(parse_played(data), _RATE, time.time())
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed.clear()

    async def _until(
        self, what: str, condition: Callable[[], object], seconds: float | None = _STEP_S
    ) -> None:
        """Wait until the condition holds. Raises NotHeard after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            problem = self._dialogue.problem
            why = f": {problem}" if problem else ""
            raise NotHeard(f"{seconds:g} s passed before {what}{why}") from None


def _key(key: SessionKey) -> list[str]:
    """The arguments of an edge that name a key."""
    return [f"--{name}={token}" for name, token in key._asdict().items()]


def _moved(wav: Path) -> Path:
    """Move the file out of the directory that is removed at the end, and return where it is."""
    return Path(shutil.move(wav, tempfile.gettempdir()))


_NEXT_STEPS = """
try next     natterjack demo --voice --play          the same, on your loudspeaker
             natterjack demo --voice --mic --play    says back what you say; use a headset
             natterjack up                           then, in three other terminals:
             natterjack-edge play --conversation say
             natterjack say 'Good morning.'
             natterjack tail --voice                 captions of every session, and speech"""
