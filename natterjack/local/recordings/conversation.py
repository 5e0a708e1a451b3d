"""The transcription of one recording, which an earlier run may have begun."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from nats.js.errors import NotFoundError

from natterjack.audio import AUDIO_END
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO
from natterjack.consume.listener import listen
from natterjack.consume.markers import CaughtUp, Marker
from natterjack.decoding import AnyEvent
from natterjack.errors import NatterjackError
from natterjack.events import FinalEvent, StatusEvent
from natterjack.process.run import end_tasks
from natterjack.subjects import SessionKey, audio_subject
from natterjack.transcripts.builder import TranscriptBuilder
from natterjack.transcripts.files import save
from natterjack.transcripts.transcript import Transcript

from ..parts import Part
from ..stack import Stack
from .files import Recording
from .progress import Progress, Row

_CLAIM_S = 60.0
"""How long a worker may take to claim a session that an earlier run has left in the queue, and the
closing event to arrive after the edge has read it."""
_RESTARTS = 2
"""How often an edge is started again that was killed, as when memory was short."""
_LOST = ("missing", "bad_chunk")
"""Causes of gaps in audio that the broker no longer has."""


@dataclass(frozen=True)
class Options:
    """Options that apply to each recording."""

    formats: tuple[str, ...]
    directory: Path | None = None
    """Where transcripts go; None: beside the recordings."""
    printed: bool = False
    """They go to standard output instead."""
    overwrite: bool = False
    jobs: int | None = None
    """How many recordings are transcribed at once; None: one for each core."""
    tenant: str = "default"
    speakers: tuple[str, ...] = ("speaker",)
    """One, or one for each channel."""
    provider: str | None = None
    edge: tuple[str, ...] = ()
    """Further arguments of the edge."""
    track: int | None = None
    quiet: bool = False


class NotTranscribed(NatterjackError):
    """A recording has no transcript; the message says why."""


class Conversation:
    """The transcription of one recording, which an earlier run may have begun."""

    def __init__(
        self,
        stack: Stack,
        broker: Broker,
        options: Options,
        progress: Progress,
        recording: Recording,
        row: Row,
    ) -> None:
        self._stack = stack
        self._broker = broker
        self._options = options
        self._progress = progress
        self._recording = recording
        self._row = row
        status = recording.path.stat()
        self._id = digest(
            recording.path.absolute(), status.st_size, status.st_mtime_ns, options.tenant,
            options.speakers, options.edge, options.track, options.provider,
        )  # fmt: skip
        self._state = stack.directory / "recordings" / f"{self._id}.json"
        self._spool = stack.directory / "spool" / self._id
        self._builder = TranscriptBuilder()
        self._closings: dict[str, StatusEvent] = {}
        self._changed = asyncio.Event()
        self._caught_up = asyncio.Event()
        """Set when all stored events have been read."""

    @property
    def seconds(self) -> float:
        """Length of the audio that was transcribed."""
        accounts = [closing.account for closing in self._closings.values()]
        return max((account.captured_seconds for account in accounts if account), default=0.0)

    async def run(self) -> tuple[Transcript, str | None]:
        """Return the transcript, and why it is incomplete if it is. Raises: NotTranscribed."""
        name = self._recording.name
        earlier = self._earlier()
        if earlier is not None:
            self._progress.say(f"{name}: continuing")
            try:
                transcript, problem = await self._attempt(earlier, resumed=True)
                if problem is None:
                    return transcript, None
            except NotTranscribed as error:
                problem = str(error)
            self._progress.say(f"{name}: cannot be continued, so it is begun again: {problem}")
            shutil.rmtree(self._spool, ignore_errors=True)
        return await self._attempt(self._new(), resumed=False)

    @property
    def _resumable(self) -> bool:
        """Whether an edge can continue what another one has begun: a spool needs locks."""
        return importlib.util.find_spec("fcntl") is not None

    def _earlier(self) -> str | None:
        """The conversation of an earlier run."""
        try:
            return str(json.loads(self._state.read_text())["conversation"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _new(self) -> str:
        """Return the name of a new conversation, and note it for later runs."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", self._recording.path.stem).strip("-")[:40]
        conversation = f"{stem or 'recording'}-{secrets.token_hex(4)}"
        self._state.parent.mkdir(parents=True, exist_ok=True)
        save(json.dumps({"conversation": conversation}), self._state)
        return conversation

    async def _attempt(self, conversation: str, *, resumed: bool) -> tuple[Transcript, str | None]:
        self._builder, self._closings = TranscriptBuilder(), {}
        self._caught_up.clear()
        following = asyncio.create_task(self._follow(conversation), name="follow")
        try:
            working = asyncio.create_task(self._work(conversation, resumed), name="work")
            try:
                await asyncio.wait({working, following}, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    following.result()  # it ends only with an error
                problem = await working
            finally:
                await end_tasks({working})
        finally:
            await end_tasks({following})
        return self._result(problem)

    async def _work(self, conversation: str, resumed: bool) -> str | None:
        """Have the recording transcribed, and return what is wrong with it. Raises: NotTranscribed
        if an earlier run cannot be continued."""
        await self._caught_up.wait()
        for attempt in range(1 + _RESTARTS):
            again = resumed or attempt > 0
            if again and not (self._spool.is_dir() and any(self._spool.iterdir())):
                # The edge had sent all of the audio, or nothing.
                if self._complete or await self._audio_is_there(conversation):
                    await self._until_closed(began=False)
                    return None
                if resumed:
                    raise NotTranscribed("its audio is no longer stored")
            edge = await self._start(conversation)
            status = await edge.wait()
            if status >= 0 or not self._resumable:
                break
            self._progress.say(f"{self._recording.name}: {edge.end_text}; continuing")
        for warning in edge.messages("warning"):
            if str(self._recording.path) in warning:  # it is about the file
                self._progress.say(warning)
        await self._until_closed(began=True)
        return edge.error() if status else None

    async def _audio_is_there(self, conversation: str) -> bool:
        """Whether the broker has the end of each session's audio, as far as is known."""
        if not self._stack.workers:
            return True  # an installation may have any limits, and its users few rights
        jetstream = self._broker.client.jetstream()
        for speaker in self._options.speakers:
            key = SessionKey(self._options.tenant, conversation, speaker)
            try:
                last = await jetstream.get_last_msg(AUDIO, audio_subject(key), direct=True)
            except NotFoundError:
                return False
            if AUDIO_END not in (last.headers or {}):
                return False
        return True

    def _result(self, problem: str | None) -> tuple[Transcript, str | None]:
        """Raises: NotTranscribed if a session failed, or has not ended."""
        for closing in self._closings.values():
            if closing.state == "failed":
                raise NotTranscribed(closing.reason or "the session failed")
        if len(self._closings) < len(self._options.speakers):
            raise NotTranscribed(problem or "the session has not ended, and nobody has it")
        for closing in self._closings.values():
            gaps = closing.account.gaps if closing.account is not None else []
            lost = sum(gap.end - gap.start for gap in gaps if gap.cause in _LOST)
            if problem is None and lost:
                problem = f"{lost:.1f} s of its audio are lost"
        return self._builder.build(), problem

    async def _start(self, conversation: str) -> Part:
        """Start the edge."""
        options = self._options
        arguments = ["file", "--speed=max", "--wait", f"--tenant={options.tenant}"]
        arguments.append(f"--conversation={conversation}")
        if len(options.speakers) > 1:
            arguments.append(f"--split-channels={','.join(options.speakers)}")
        else:
            arguments.append(f"--speaker={options.speakers[0]}")
        if options.track is not None:
            arguments.append(f"--track={options.track}")
        if self._stack.workers:
            arguments.append("--catch-up-rate=0")  # the disk is the limit
        if self._resumable:
            arguments += [f"--spool={self._spool}", "--resume", "--leave-open"]
        name = self._recording.path.name.encode(errors="replace").decode()
        arguments += [f"--label=file={name}", *options.edge, "--", str(self._recording.path)]
        return await self._stack.edge(f"edge {self._id}", arguments)

    async def _until_closed(self, *, began: bool) -> None:
        """Wait until the events of the end have been read; without an edge, a worker has to claim
        the session first."""
        while not self._complete:
            self._changed.clear()
            try:
                async with asyncio.timeout(None if self._seen and not began else _CLAIM_S):
                    await self._changed.wait()
            except TimeoutError:
                return

    @property
    def _seen(self) -> bool:
        return bool(self._builder.build().sessions)

    @property
    def _complete(self) -> bool:
        return len(self._closings) >= len(self._options.speakers)

    async def _follow(self, conversation: str) -> None:
        source = listen(
            self._options.tenant, conversation, since="start", interims=None, markers=True,
            broker=self._broker,
        )  # fmt: skip
        async with contextlib.aclosing(source):
            async for event in source:
                if isinstance(event, CaughtUp):
                    self._caught_up.set()
                    self._row.first = self._row.position
                elif not isinstance(event, Marker):
                    self._add(event)

    def _add(self, event: AnyEvent) -> None:
        self._builder.add(event)
        if isinstance(event, FinalEvent):
            self._progress.reached(self._row, event.end)
        elif isinstance(event, StatusEvent) and event.closing:
            self._closings[event.session_id] = event
        self._changed.set()


def digest(*parts: object) -> str:
    """Return a name that is made from values."""
    text = "\0".join(map(str, parts)).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]
