"""The `natterjack-edge` command.

Exit status: 0 everything is published and acknowledged, or playback was stopped; 1 it is not, some
of it is known to be untranscribed, the end of a session cannot be read, the source or the output
failed, or with `--wait` the session did not end as closed; 2 an error in the command line, the
source, the output or (with `--once`) the broker; 3 another agent uses the key, which a later start
may find free; 130 a second Ctrl-C.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from natterjack.audio import AudioFormat
from natterjack.errors import NatterjackError, UsageError, first_error
from natterjack.process import without_aiohttp  # noqa: F401 - before what imports nats-py
from natterjack.process.run import run_loop
from natterjack.process.sd_notify import notify_systemd
from natterjack.process.start import flush_streams
from natterjack.process.terminal import unread
from natterjack.process.variables import report_unknown
from natterjack.settings import BrokerSettings, LogSettings, load
from natterjack.subjects import SessionKey
from natterjack.telemetry import log as logs
from natterjack.telemetry import tracing
from natterjack.telemetry.log import fields

from .agent import Agent, RunOptions
from .capture.opening import open_source, unless_stopped
from .capture.outcome import pause_before_restart
from .capture.resuming import likely_resumed, resumable, seek
from .delivery.chain import Chain, announce
from .delivery.leftovers import Leftovers
from .disk.apart import apart
from .enrollment import command as enrollment
from .errors import KeyTaken, SourceLost
from .fleet.meanwhile import Meanwhile
from .fleet.single import single_edge
from .keep.background import keep_audio
from .keep.recorder import open_keep
from .keep.settings import KeepSettings
from .options.playing import PlaySettings
from .parser import make_parser
from .progress.display import restore_terminal
from .session import make_keys, make_leftover, make_sessions, resume_sessions
from .settings import (
    CaptionSettings,
    ConversationSettings,
    DeliverySettings,
    EdgeSettings,
    ProgressSettings,
    PublishSettings,
    RequestSettings,
    SpoolSettings,
    check_variables,
)
from .sources import DEVICE_THREADS
from .spool import Origin, Spool, SpooledBacklog
from .stop_signals import stopped_by_signals

if TYPE_CHECKING:
    from .playback.run import PlayRun

log = logging.getLogger("edge_capture")

_END_SECONDS = 10.0
"""Time beyond the finish time for closing the source, the connection and the spool."""
_TAKEN = 3
"""Exit status if another agent uses the key. The units start the program again, unlike after 2."""


async def _capture(flags: argparse.Namespace) -> int:
    """Run `file`, `stdin` or `mic`. Returns the exit status."""
    edge, publish = load(EdgeSettings, flags), load(PublishSettings, flags)
    request, broker = load(RequestSettings, flags), load(BrokerSettings, flags)
    keys = make_keys(edge)
    keep = open_keep(load(KeepSettings, flags))
    spool = _open_spool(flags)
    if flags.resume and spool is None:
        raise UsageError("--resume needs a spool: --spool DIR")
    leave_open = flags.command == "file" and flags.leave_open
    if leave_open and spool is None:
        raise UsageError("--leave-open needs a spool: --spool DIR")
    started = asyncio.Event()

    async def run(stop: asyncio.Event) -> int:
        found = await apart(spool.adopt) if spool else []
        channels = len(keys) if edge.split_channels is not None else None
        held, expected = _held(found, flags, keys, edge, publish)
        leftovers = Leftovers(_leftovers([each for each in found if each not in held], edge))
        steered, reporter = single_edge(flags, keys, broker, spool)
        opening = open_source(flags, channels, publish.chunk_ms, started.set, expected)
        meanwhile = Meanwhile(broker, reporter, leftovers, spool, once=flags.once)
        source = await meanwhile.until(asyncio.create_task(unless_stopped(stop, opening)))
        started.set()
        if source is None:
            log.info("stopped before any audio arrived; nothing was published")
            return 0
        player = None
        try:
            if flags.command == "mic" and flags.play:
                player = _player_beside(flags, keys[0], broker)
            origin = _origin(flags, source.format, keys, publish)
            resumed = resumable(held, origin, edge, publish) if flags.resume else []
            if resumed:
                frame = await seek(source, resumed)
                sessions = resume_sessions(
                    resumed, source.format, source.can_wait, edge, publish, frame
                )
            else:
                sessions = make_sessions(
                    keys, source.format, source.can_wait, edge, publish, request, spool, origin
                )
            for session in sessions:
                announce(session.chain.spec)
            keep_audio(sessions, keep, can_wait=source.can_wait)
            quiet = load(ProgressSettings, flags).quiet
            shown = load(CaptionSettings, flags).captions
            options = RunOptions(flags.once, flags.wait, quiet, edge.finish_seconds, shown)
            leftovers.add(_leftovers([each for each in held if each not in resumed], edge))
            agent = Agent(source, sessions, broker, options, spool, leftovers)
            agent.reporter = reporter
            steered.begin(agent)
            running = agent.run(stop)
            if player is not None:
                running = player.beside(running, stop)
            return await running
        finally:
            source.close()
            if player is not None:
                player.player.output.close()
            if keep:
                keep.close()
            if spool:
                await spool.close()

    with stopped_by_signals(restore_terminal, at_once=leave_open) as stop:
        return await _run_under_systemd(run(stop), stop, edge.finish_seconds, started)


def _player_beside(flags: argparse.Namespace, key: SessionKey, broker: BrokerSettings) -> PlayRun:
    """Open the player of `mic --play`, on the conversation of `key`. Raises: UsageError."""
    from .playback.run import make_run

    settings = load(PlaySettings, flags)
    if settings.file == Path("-"):
        raise UsageError(
            "--play-file -: with mic, standard output has the IDs of sessions; name a file"
        )
    conversation = ConversationSettings(tenant=key.tenant, conversation=key.conversation)
    return make_run(conversation, settings, broker)


async def _run_under_systemd(
    running: Coroutine[Any, Any, int],
    stop: asyncio.Event,
    finish_seconds: float,
    started: asyncio.Event | None = None,
) -> int:
    """Run an agent or a player, and report to systemd, from `started` on. Returns the status."""

    async def notify() -> None:
        if started is not None:
            await started.wait()
        await notify_systemd(stop, finish_seconds + _END_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        notifying = tasks.create_task(notify(), name="systemd")
        try:
            code = await running
        except KeyTaken as error:
            await pause_before_restart(error, stop)
            raise
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
                leftovers = _leftovers(await apart(spool.adopt), delivery)
                if not leftovers:
                    break
                agent = Agent(None, [], broker, options, spool, Leftovers(leftovers))
                code = await agent.run(stop)
                await spool.tidy()
        finally:
            await spool.close()
    if code is None:
        log.info(
            "the spool has nothing to send",
            extra=fields(held_by_other_agents=spool.locked_by_others),
        )
    return code or int(bool(spool.unusable))


async def _play(flags: argparse.Namespace) -> int:
    """Run `play`. Returns the exit status."""
    from .playback.run import make_run

    with stopped_by_signals(restore_terminal) as stop:
        run = make_run(
            load(ConversationSettings, flags),
            load(PlaySettings, flags),
            load(BrokerSettings, flags),
            once=flags.once,
            shown=not load(ProgressSettings, flags).quiet,
        )
        try:
            return await _run_under_systemd(run.run(stop), stop, 0)
        finally:
            run.player.output.close()


def _open_spool(flags: argparse.Namespace) -> Spool | None:
    settings = load(SpoolSettings, flags)
    return Spool(settings) if settings.spool else None


def _held(
    found: list[SpooledBacklog],
    flags: argparse.Namespace,
    keys: list[SessionKey],
    edge: EdgeSettings,
    publish: PublishSettings,
) -> tuple[list[SpooledBacklog], AudioFormat | None]:
    """Return those of `found` that are not sent before the source is open, because it may resume
    them, and the format in which a microphone that is not there yet goes on with them."""
    if not flags.resume or flags.command == "file":
        return (found if flags.resume else []), None
    held = likely_resumed(
        found, lambda audio_format: _origin(flags, audio_format, keys, publish), edge, publish
    )
    goes_on = held and flags.command == "mic" and not flags.once
    return held, held[0].origin.format if goes_on else None


def _origin(
    flags: argparse.Namespace,
    audio_format: AudioFormat,
    keys: list[SessionKey],
    publish: PublishSettings,
) -> Origin:
    path = flags.path.resolve() if flags.command == "file" else None
    return Origin(
        command=flags.command,
        path=path and str(path).encode(errors="backslashreplace").decode(),
        size_bytes=path and path.stat().st_size,
        track=flags.track if path else None,
        format=audio_format,
        speakers=tuple(key.speaker for key in keys),
        chunk_ms=publish.chunk_ms,
    )


def _leftovers(found: list[SpooledBacklog], settings: DeliverySettings) -> list[Chain]:
    """Prepare earlier sessions to be sent, which get an end mark if they have none."""
    for backlog in found:
        backlog.end()
    return [make_leftover(backlog, settings) for backlog in found]


def _configure_log(flags: argparse.Namespace, *, device: bool = False) -> None:
    settings = load(LogSettings, flags)
    device |= flags.command in ("mic", "devices", "check") or (
        flags.command == "play" and load(PlaySettings, flags).file is None
    )
    mute = settings.log_level != "debug"
    if device and (mute or flags.command not in ("devices", "check")):
        from .sources.devices import separate_stderr

        separate_stderr(mute=mute)
    if load(ProgressSettings, flags).quiet and settings.log_level in ("debug", "info"):
        settings = settings.model_copy(update={"log_level": "warning"})
    logs.configure(settings)


async def _probe(flags: argparse.Namespace) -> int:
    """Run `probe`. Returns the exit status."""
    from .probe import probe_files

    return await probe_files(flags.paths, flags.track)


async def _import_and_run(flags: argparse.Namespace) -> int:
    """Run `run` or `check`. Returns the exit status."""
    if flags.command == "run":
        from .supervisor.command import run_config

        return await run_config(flags, lambda: _configure_log(flags, device=True))
    from .check.command import run

    return await run(flags)


_COMMANDS = {
    "run": _import_and_run, "check": _import_and_run, "send": _send, "play": _play, "probe": _probe,
    "enroll": enrollment.run,
}  # fmt: skip
"""The commands but for those that capture one source."""


def _run(flags: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    code = 2
    try:
        _configure_log(flags)
        # `check` has a line of its table for them.
        if flags.command != "check":
            report_unknown((), check_variables(flags))
        if flags.command == "devices":
            from .sources.listing import list_all

            return list_all()
        given = enrollment.apply(flags, os.environ)
        for name, value in given.items():
            if value:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
        with tracing.started("natterjack-edge"):
            work = _COMMANDS.get(flags.command, _capture)(flags)
            enrolled = "NATS_CREDS" in given and flags.command != "check"
            return run_loop(enrollment.kept(work, flags) if enrolled else work)
    except* NatterjackError as group:
        error = first_error(group)  # a task group wraps even a single one
        print(f"natterjack-edge: {error}", file=sys.stderr)
        if isinstance(error, KeyTaken):
            code = _TAKEN
        elif isinstance(error, SourceLost):
            code = 1  # there may be a microphone at a later start
    return code


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    flags = make_parser().parse_args(arguments)
    try:
        code = _run(flags)
    except KeyboardInterrupt:  # before the signal handlers are in place
        code = 128 + signal.SIGINT
    except OSError as error:
        if not unread(error):
            raise
        code = 0  # nobody reads standard output any more: `natterjack-edge check | head`
    if any(thread.name.startswith(DEVICE_THREADS) for thread in threading.enumerate()):
        # A dead device blocks a thread inside its libraries, and they may wait for it at exit.
        logging.shutdown()
        flush_streams()
        os._exit(code)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        flush_streams()
