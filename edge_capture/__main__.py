"""The `natterjack-edge` command.

Exit status: 0 everything is published and acknowledged; 1 it is not, some of it is known to be
untranscribed, the end of a session cannot be read, the source failed, or with `--wait` the session
did not end as closed; 2 an error in the command line, the source or (with `--once`) the broker, or
another agent captures the key; 130 a second Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

from natterjack.errors import NatterjackError, UsageError
from natterjack.process.run import run_loop
from natterjack.process.sd_notify import notify_systemd
from natterjack.settings import BrokerSettings, LogSettings, load
from natterjack.subjects import SessionKey
from natterjack.telemetry import log as logs
from natterjack.telemetry import tracing
from natterjack.telemetry.log import fields

from .agent import Agent, RunOptions
from .delivery.chain import Chain, announce
from .display import restore_terminal
from .errors import SourceError
from .session import (
    file_start,
    make_keys,
    make_leftover,
    make_sessions,
    published_format,
    resume_sessions,
)
from .settings import (
    DeliverySettings,
    EdgeSettings,
    MicrophoneSettings,
    ProgressSettings,
    PublishSettings,
    RequestSettings,
    SpoolSettings,
    StdinSettings,
    add_command_flags,
    check_variables,
)
from .sources import DEVICE_THREADS, Source
from .spool import Origin, Spool, SpooledBacklog, find_resumable
from .stop_signals import stopped_by_signals
from .succession import clock_text

log = logging.getLogger("edge_capture")

_END_SECONDS = 10.0
"""Time beyond the finish time for closing the source, the connection and the spool."""

_EXAMPLES = """\
examples:
  natterjack-edge file meeting.flac --tenant acme --language en
  natterjack-edge file call.wav --split-channels agent,caller --speed max --wait
  ffmpeg -i rtsp://camera/1 -f s16le -ar 16000 -ac 1 - | natterjack-edge stdin
  natterjack-edge mic --device headset --provider deepgram,sherpa --keyterm natterjack
  natterjack-edge mic --spool /var/lib/natterjack --resume
  natterjack-edge send --spool /var/lib/natterjack
  natterjack-edge devices

Most settings are also environment variables, named in brackets; a flag takes precedence.
Ctrl-C ends the session cleanly; a second Ctrl-C aborts.

exit status:
  0    everything is published and acknowledged
  1    some chunks are not acknowledged, some audio is known to be untranscribed, the end of a
       session cannot be read, the source failed, a request ended the session, another agent took
       over its key, or with --wait it did not end as closed
  2    an error in the command line, the settings, the source or the spool, another agent captures
       the key, or with --once NATS cannot be reached
  130  aborted by a second Ctrl-C
"""


def _speed(text: str) -> float | None:
    if text in ("0", "max"):
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = -1
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number, 0 or max")
    return speed


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    parser = argparse.ArgumentParser(
        prog="natterjack-edge",
        description="Capture audio and publish it to NATS, where workers transcribe it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("natterjack"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    speed = "playback speed, such as 2 for twice real time; 0 or max: as fast as possible"

    file = command("file", "publish an audio file: WAV, FLAC, OGG or MP3, any rate and channels")
    file.add_argument("path", type=Path, metavar="PATH", help="the file")
    file.add_argument("--speed", type=_speed, default=1.0, help=f"{speed} [default 1]")
    stdin = command("stdin", "publish standard input: raw audio or a WAV file")
    stdin.add_argument(
        "--speed", type=_speed, default=None, help=f"{speed} [default: as the audio arrives]"
    )
    mic = command("mic", "publish a microphone")
    send = command("send", "send what earlier sessions have left in the spool, and exit")
    devices = command("devices", "list the microphones")
    for each in (file, stdin, mic, send):
        each.add_argument(
            "--once", action="store_true", help="exit if the first attempt to reach NATS fails"
        )
    for each in (file, stdin, mic):
        each.add_argument(
            "--resume",
            action="store_true",
            help="continue the session that an earlier run of this source left in the spool, or "
            "start a new one if there is none",
        )
        each.add_argument(
            "--wait",
            action="store_true",
            help="wait until workers have ended the session, or the last of those that continue it",
        )
    for each in (file, stdin, mic, send, devices):
        add_command_flags(each, each.prog.rpartition(" ")[2])
    return parser


async def _open_source(flags: argparse.Namespace, channels: int | None, block_ms: int) -> Source:
    """Open the source that the command names. It has audio before anything is published."""
    if flags.command == "file":
        from .sources.file import FileSource

        return FileSource(flags.path, flags.speed, block_ms)
    if flags.command == "stdin":
        from .sources.stdin import StdinSource

        if sys.stdin is None:
            raise SourceError("standard input is closed")
        settings = load(StdinSettings, flags)
        source = StdinSource(sys.stdin.fileno(), settings, flags.speed, block_ms)
        await source.open()
        return source
    from .sources.microphone import MicrophoneSource

    return MicrophoneSource(load(MicrophoneSettings, flags), channels)


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, Source]) -> Source | None:
    """Return the source that `work` opens, or None if `stop` is set first."""
    opening = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if opening.done():
        return opening.result()
    opening.cancel()
    return None


async def _capture(flags: argparse.Namespace) -> int:
    """Run `file`, `stdin` or `mic`. Returns the exit status."""
    edge, publish = load(EdgeSettings, flags), load(PublishSettings, flags)
    request, broker = load(RequestSettings, flags), load(BrokerSettings, flags)
    keys = make_keys(edge)
    spool = _open_spool(flags)
    if flags.resume and spool is None:
        raise UsageError("--resume needs a spool: --spool DIR")
    with stopped_by_signals(restore_terminal) as stop:
        found = await asyncio.to_thread(spool.adopt) if spool else []
        channels = len(keys) if edge.split_channels is not None else None
        source = await _unless_stopped(stop, _open_source(flags, channels, publish.chunk_ms))
        if source is None:
            log.info("stopped before any audio arrived; nothing was published")
            return 0
        try:
            origin = _origin(flags, source, keys, publish)
            resumed = _find_resumable(found, origin, edge, publish) if flags.resume else []
            if resumed:
                frame = await _seek(source, resumed)
                sessions = resume_sessions(
                    resumed, source.format, source.can_wait, edge, publish, frame
                )
            else:
                sessions = make_sessions(
                    keys, source.format, source.can_wait, edge, publish, request, spool, origin
                )
            for session in sessions:
                announce(session.chain.spec)
            quiet = load(ProgressSettings, flags).quiet
            options = RunOptions(flags.once, flags.wait, quiet, edge.finish_seconds)
            leftovers = _leftovers([each for each in found if each not in resumed], edge)
            agent = Agent(source, sessions, broker, options, spool, leftovers)
            return await _run_under_systemd(agent, stop, edge.finish_seconds)
        finally:
            source.close()
            if spool:
                await spool.close()


async def _run_under_systemd(agent: Agent, stop: asyncio.Event, finish_seconds: float) -> int:
    """Run the agent and report to systemd meanwhile. Returns the exit status."""
    async with asyncio.TaskGroup() as tasks:
        notifying = tasks.create_task(
            notify_systemd(stop, finish_seconds + _END_SECONDS), name="systemd"
        )
        code = await agent.run(stop)
        notifying.cancel()
    return code


async def _send(flags: argparse.Namespace) -> int:
    """Run `send`. Returns the exit status."""
    delivery, broker = load(DeliverySettings, flags), load(BrokerSettings, flags)
    spool = _open_spool(flags)
    if spool is None:
        raise UsageError("send needs a spool: --spool DIR")
    quiet = load(ProgressSettings, flags).quiet
    options = RunOptions(flags.once, False, quiet, delivery.finish_seconds)
    code = None
    with stopped_by_signals(restore_terminal) as stop:
        try:
            # `tidy` removes the sessions that were sent, so each round finds others.
            while not (code or stop.is_set()):
                leftovers = _leftovers(await asyncio.to_thread(spool.adopt), delivery)
                if not leftovers:
                    break
                code = await Agent(None, [], broker, options, spool, leftovers).run(stop)
                await spool.tidy()
        finally:
            await spool.close()
    if code is None:
        log.info(
            "the spool has nothing to send",
            extra=fields(held_by_other_agents=spool.locked_by_others),
        )
    return code or int(bool(spool.unusable))


def _open_spool(flags: argparse.Namespace) -> Spool | None:
    settings = load(SpoolSettings, flags)
    return Spool(settings) if settings.spool else None


def _origin(
    flags: argparse.Namespace, source: Source, keys: list[SessionKey], publish: PublishSettings
) -> Origin:
    path = flags.path.resolve() if flags.command == "file" else None
    return Origin(
        command=flags.command,
        path=path and str(path).encode(errors="backslashreplace").decode(),
        size_bytes=path and path.stat().st_size,
        format=source.format,
        speakers=tuple(key.speaker for key in keys),
        chunk_ms=publish.chunk_ms,
    )


def _find_resumable(
    found: list[SpooledBacklog], origin: Origin, edge: EdgeSettings, publish: PublishSettings
) -> list[SpooledBacklog]:
    """Return the sessions among `found` to resume, and log them. Raises: UsageError."""
    published = published_format(origin.format, publish, edge.split_channels is not None)
    resumed = find_resumable(found, origin, published, edge.tenant, edge.conversation)
    for backlog in resumed:
        log.info(
            "the session has ended; sending its remaining audio"
            if backlog.ended
            else "resuming the session where it stopped",
            extra=fields(
                session=str(backlog.spec.key),
                position=clock_text(published.seconds(backlog.head.pos)),
                chunks_left=len(backlog),
            ),
        )
    if not resumed:
        log.info("the spool has no session to resume; starting a new one")
    return resumed


async def _seek(source: Source, resumed: list[SpooledBacklog]) -> int | None:
    """Move a file to the frame from which all of `resumed` continue, and return that frame.

    Returns None for live audio.
    """
    if resumed[0].origin.live:
        return None
    from .sources.file import FileSource

    assert isinstance(source, FileSource)
    frame, time_ns = file_start(resumed, source.format.sample_rate)
    await asyncio.to_thread(source.start_at, frame, time_ns)
    return frame


def _leftovers(found: list[SpooledBacklog], settings: DeliverySettings) -> list[Chain]:
    """Prepare earlier sessions to be sent, which get an end mark if they have none."""
    for backlog in found:
        backlog.end()
    return [make_leftover(backlog, settings) for backlog in found]


def _list_devices() -> int:
    from .sources.devices import list_devices

    for device in list_devices():
        mark = "*" if device.default else " "
        print(
            f"{mark} {device.index:>3}  {device.name}  ({device.host}, "
            f"{device.channels} channels, {device.sample_rate} Hz)"
        )
    return 0


def _configure_log(flags: argparse.Namespace) -> None:
    settings = load(LogSettings, flags)
    if flags.command in ("mic", "devices") and settings.log_level != "debug":
        from .sources.devices import mute_libraries

        mute_libraries()
    if load(ProgressSettings, flags).quiet and settings.log_level in ("debug", "info"):
        settings = settings.model_copy(update={"log_level": "warning"})
    logs.configure(settings)


def _run(flags: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    try:
        _configure_log(flags)
        for unknown in check_variables(flags):
            log.warning("%s", unknown)
        if flags.command == "devices":
            return _list_devices()
        with tracing.started("natterjack-edge"):
            return run_loop(_send(flags) if flags.command == "send" else _capture(flags))
    except* NatterjackError as group:
        # A task group wraps even a single error; the first one is the cause.
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"natterjack-edge: {error}", file=sys.stderr)
    return 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    flags = make_parser().parse_args(arguments)
    try:
        code = _run(flags)
    except KeyboardInterrupt:  # before the signal handlers are in place
        code = 128 + signal.SIGINT
    if any(thread.name.startswith(DEVICE_THREADS) for thread in threading.enumerate()):
        # A dead device blocks a thread inside its libraries, and they may wait for it at exit.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
