"""`natterjack transcribe`: recordings in, transcripts out, on one machine or with an installation.

A directory keeps what is unfinished: the broker's data, the spools of the edges, and the
conversation of each recording. If a run is interrupted, in whatever way, the next one with the same
recordings goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from pydantic import SecretStr

from natterjack.broker.connection import Broker, connected
from natterjack.consume.listener import listen
from natterjack.errors import NotAllowed, UsageError, first_error
from natterjack.process.run import end_tasks
from natterjack.process.signals import stop_signals
from natterjack.process.terminal import unread
from natterjack.settings import BrokerSettings, variable
from natterjack.subjects import SessionKey, hold_subject
from natterjack.transcripts.files import encode, remove_leftovers, save
from natterjack.transcripts.transcript import Transcript

from ..lock import locked
from ..stack import Stack, run_stack
from .conversation import Conversation, NotTranscribed, Options, digest
from .files import Found, Recording, check_writable, examine, with_outputs
from .progress import Progress, duration

_WORKER_DEFAULTS = {
    # Nobody reads interims here, and they cost most of the engine's time.
    "SHERPA_INTERIM_SECONDS": "0",
    "SHERPA_CATCH_UP_RATE": "100",
    # An interrupted run may be continued for a week.
    "NATTERJACK_AUDIO_MAX_AGE_SECONDS": "604800",
}
_KEPT_S = 7 * 24 * 3600
"""How long the directory of an interrupted run is kept."""
_RIGHTS_S = 5.0
"""How long a stream may take that is only looked at."""
_COPY_BYTES = 1 << 20
_STDIN = Path("-")
_STDIN_NAME = "standard input"


async def transcribe(
    paths: Sequence[Path],
    options: Options,
    store: Path | None,
    broker: BrokerSettings | None = None,
    publisher: BrokerSettings | None = None,
) -> int:
    """Transcribe files and the files in folders; `-` is standard input. Returns the exit status.

    `broker` is that of an installation, and `publisher` the same with the user who publishes audio;
    None starts one, and a worker. `store` is the directory for
    what is unfinished; None: one below the user's, by the names of `paths`. Raises: UsageError,
    BrokerError, PartFailed.
    """
    _tidy(_state_directory())
    directory = store or _state_directory() / digest(*(path.absolute() for path in paths))
    async with contextlib.AsyncExitStack() as entered:
        progress = entered.enter_context(Progress(quiet=options.quiet))
        entered.enter_context(_ended_by_signals())
        files = await entered.enter_async_context(_standard_input(paths))
        found = _titled(await examine(files, options.track), paths, files)
        for problem in found.problems:
            progress.say(f"not transcribed: {problem}")
        wanted, skipped = _wanted(found, options, progress)
        if not wanted:
            if not skipped and not found.problems:
                progress.say(f"no recordings in {', '.join(map(str, paths))}")
            return 2 if found.problems or not skipped else 0
        check_writable(wanted)
        installation = None
        if broker is not None:  # before anything is started, so that a wrong URL is found
            installation = _variables(publisher or broker)
            await _check_rights(broker, publisher or broker, options)
        count = f"{len(wanted)} recordings" if len(wanted) > 1 else wanted[0].name
        where = "a broker and a worker of this command" if broker is None else broker.url
        progress.say(f"transcribing {count} with {where}")
        stack = Stack(
            "transcribe", directory, provider=options.provider if broker is None else None,
            defaults=_WORKER_DEFAULTS, installation=installation, announces=False,
        )  # fmt: skip

        async def work(stack: Stack) -> int:
            settings = broker or BrokerSettings.model_construct(url=stack.server.url)
            async with connected(settings, name="natterjack-transcribe", once=True) as connection:
                run = _Run(stack, connection, options, progress, removed=store is None)
                return await run.all(wanted)

        status = await run_stack(stack, work)
        if status >= 128:
            progress.say("interrupted; run the same command again to continue")
        return max(status, 1) if found.problems else status


async def _check_rights(
    reader: BrokerSettings, publisher: BrokerSettings, options: Options
) -> None:
    """Raises: UsageError if a user may not publish audio, or read transcripts; BrokerError."""
    conversation = f"rights-{secrets.token_hex(4)}"
    try:
        async with connected(publisher, name="natterjack-transcribe", once=True) as broker:
            refusals: list[NotAllowed] = []
            broker.on_refusal.add(refusals.append)
            for speaker in options.speakers:
                # Nobody listens to it. A server that refuses it says so before it answers.
                key = SessionKey(options.tenant, conversation, speaker)
                await broker.client.publish(hold_subject(key), b"")
            await broker.client.flush()
            await asyncio.sleep(0)
            if refusals:
                raise refusals[0]
        async with connected(reader, name="natterjack-transcribe", once=True) as broker:
            events = listen(
                options.tenant, conversation, since="start", until="stored", interims=None,
                broker=broker,
            )  # fmt: skip
            with contextlib.suppress(TimeoutError):  # no worker has created the stream yet
                async with asyncio.timeout(_RIGHTS_S), contextlib.aclosing(events):
                    async for _ in events:
                        pass
    except NotAllowed as error:
        raise UsageError(
            f"{error}: it takes the rights of a subscriber, and those of an edge (--edge-nkey or "
            "--edge-creds, and --edge-inbox-prefix, name another user)"
        ) from None


def _wanted(
    found: Found, options: Options, progress: Progress
) -> tuple[list[Recording], list[Recording]]:
    """Return the recordings to transcribe, and those that are transcribed already."""
    if found.others:
        progress.say(f"skipped, not a recording: {found.others_text()}")
    if options.printed:
        return found.recordings, []
    recordings = with_outputs(found.recordings, options.directory, options.formats)
    wanted: list[Recording] = []
    skipped: list[Recording] = []
    for recording in recordings:
        there = all(path.exists() for path in recording.outputs.values())
        (skipped if there and not options.overwrite else wanted).append(recording)
    for recording in skipped:
        names = ", ".join(map(str, recording.outputs.values()))
        progress.say(f"{recording.name}: skipped, since {names} is there (--overwrite)")
    return wanted, skipped


# ---- where things are -----------------------------------------------------------------------


def _state_directory() -> Path:
    """The directory for what is unfinished."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "natterjack" / "transcribe"


def _tidy(directory: Path) -> None:
    """Remove what interrupted runs have left a week ago."""
    for path in directory.glob("*/lock"):
        with contextlib.suppress(OSError, UsageError):
            if time.time() - path.stat().st_mtime > _KEPT_S:
                with locked(path.parent):
                    shutil.rmtree(path.parent)


@contextlib.asynccontextmanager
async def _standard_input(paths: Sequence[Path]) -> AsyncIterator[list[Path]]:
    """Provide `paths` with a copy of standard input in place of `-`, since ffmpeg has to seek.

    Raises: UsageError.
    """
    if _STDIN not in paths:
        yield list(paths)
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is a terminal; pipe a recording into it")
    with tempfile.TemporaryDirectory(prefix="natterjack-transcribe-") as directory:
        copy = Path(directory) / "stdin"
        await _copy(sys.stdin.buffer, copy)
        yield [copy if path == _STDIN else path for path in paths]


def _titled(found: Found, paths: Sequence[Path], files: Sequence[Path]) -> Found:
    """Return what was found with the name of standard input in place of that of its copy."""
    if list(paths) == list(files):
        return found
    copy = files[list(paths).index(_STDIN)]
    return Found(
        [replace(r, title=_STDIN_NAME) if r.path == copy else r for r in found.recordings],
        [problem.replace(str(copy), _STDIN_NAME) for problem in found.problems],
        found.others,
    )


async def _copy(source: IO[bytes], path: Path) -> None:
    """Copy a pipe to a file. Cancel-safe. Raises: UsageError."""
    loop = asyncio.get_running_loop()
    copied: asyncio.Future[OSError | None] = loop.create_future()

    def copy() -> None:
        error = None
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
        except OSError as problem:
            error = problem
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, error)

    def end(error: OSError | None) -> None:
        if not copied.done():
            copied.set_result(error)

    # A thread that may wait for the writer for ever, and must not keep the process.
    threading.Thread(target=copy, daemon=True).start()
    if (error := await copied) is not None:
        raise UsageError(f"standard input: {error.strerror}")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP end the process in good order."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in stop_signals()[1:]}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _variables(broker: BrokerSettings) -> dict[str, str]:
    """The environment variables from which another program gets the same settings."""
    values = {
        variable(BrokerSettings, name): getattr(broker, name)
        for name in BrokerSettings.model_fields
    }
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }


# ---- the run --------------------------------------------------------------------------------


class _Run:
    """One run, with a broker that is there."""

    def __init__(
        self, stack: Stack, broker: Broker, options: Options, progress: Progress, *, removed: bool
    ) -> None:
        """`removed`: the directory is ours, and is removed at the end."""
        self._stack = stack
        self._broker = broker
        self._options = options
        self._progress = progress
        self._removed = removed
        self._failed = 0

    async def all(self, recordings: Sequence[Recording]) -> int:
        """Transcribe all recordings and return the exit status. Raises: PartFailed."""
        places = asyncio.Semaphore(self._options.jobs or _cores())

        async def one(recording: Recording) -> None:
            async with places:
                await self._one(recording)

        async def every() -> None:
            async with asyncio.TaskGroup() as tasks:
                for recording in recordings:
                    tasks.create_task(one(recording), name=recording.name)

        working = asyncio.create_task(every(), name="recordings")
        failing = asyncio.create_task(self._stack.failure(), name="failure")
        try:
            await asyncio.wait({working, failing}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                raise failing.result()
            await working
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            await end_tasks({working, failing})
        self._clean_up()
        return 1 if self._failed else 0

    def _clean_up(self) -> None:
        """Remove what would continue this run; of a directory that the user named, no more."""
        if self._removed:
            self._stack.discard()
        for name in ("recordings", "spool"):
            shutil.rmtree(self._stack.directory / name, ignore_errors=True)

    async def _one(self, recording: Recording) -> None:
        """Transcribe a recording, and say what came of it."""
        began = time.monotonic()
        if recording.tracks > 1:
            self._progress.say(
                f"{recording.name} has {recording.tracks} audio tracks; the first one is "
                "transcribed, --track chooses another"
            )
        row = self._progress.begin(recording.name, recording.seconds)
        conversation = Conversation(
            self._stack, self._broker, self._options, self._progress, recording, row
        )
        try:
            transcript, problem = await conversation.run()
            written = self._write(recording, transcript)
        except (NotTranscribed, OSError) as error:
            if isinstance(error, OSError) and unread(error):
                raise
            self._failed += 1
            self._progress.say(f"{recording.name}: not transcribed: {error}")
            return
        finally:
            self._progress.end(row)
        took = f"{duration(conversation.seconds)} in {duration(time.monotonic() - began)}"
        self._progress.say(f"{recording.name}: {took}{written}")
        if problem is not None:
            self._failed += 1
            self._progress.say(f"{recording.name}: incomplete: {problem}")

    def _write(self, recording: Recording, transcript: Transcript) -> str:
        """Write the transcript, and return the end of a line that says where it is."""
        if not recording.outputs:
            print(encode(transcript, self._options.formats[0]), end="", flush=True)
            return ""
        written = []
        for form, path in recording.outputs.items():
            if self._options.overwrite or not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(path.parent)
                save(encode(transcript, form), path)
                written.append(str(path))
        return f" -> {', '.join(written)}"


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
