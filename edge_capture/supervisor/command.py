"""The command `natterjack-edge run`."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable

from natterjack.process.sd_notify import notify_systemd
from natterjack.settings import load

from ..config.models import MicrophoneTable
from ..errors import SteeringError
from ..fleet.reporter import Reporter
from ..progress.display import restore_terminal
from ..progress.sources import show_sources
from ..settings import ConversationSettings, FleetSettings, ProgressSettings
from ..stop_signals import stopped_by_signals
from .supervisor import Supervisor

log = logging.getLogger(__name__)

_END_SECONDS = 10.0
"""Time beyond the finish time for closing the sources, the connection and the spool."""


async def run_config(flags: argparse.Namespace, use_devices: Callable[[], None]) -> int:
    """Run the agent that `--config` describes. Returns the exit status. Raises: UsageError.

    `use_devices` is called before audio devices are used.
    """
    fleet = load(FleetSettings, flags)
    conversation = load(ConversationSettings, flags)
    tenant = conversation.tenant if "tenant" in conversation.model_fields_set else None
    supervisor = Supervisor(flags.config, agent=fleet.agent, tenant=tenant, once=flags.once)
    supervisor.reporter = Reporter(supervisor, fleet)
    if flags.check_config:
        names = ", ".join(supervisor.config.names)
        print(f"{flags.config}: agent {supervisor.agent}, tenant {supervisor.tenant}: {names}")
        return 0
    if any(isinstance(each, MicrophoneTable) for each in supervisor.config.sources):
        use_devices()
    hang_up = asyncio.Event()
    try:
        with stopped_by_signals(restore_terminal, reload=hang_up.set) as stop:
            async with asyncio.TaskGroup() as tasks:
                stop_seconds = supervisor.finish_seconds + _END_SECONDS
                side = [
                    tasks.create_task(
                        notify_systemd(stop, stop_seconds, status=supervisor.status),
                        name="systemd",
                    ),
                    tasks.create_task(_reload_after(hang_up, supervisor), name="reload"),
                ]
                # On a terminal, captions are in place of the table.
                captions = any(each.captions for each in supervisor.config.sources)
                if not (captions or load(ProgressSettings, flags).quiet):
                    side.append(tasks.create_task(show_sources(supervisor), name="display"))
                code = await supervisor.run(stop)
                for task in side:
                    task.cancel()
            return code
    finally:
        if supervisor.keep is not None:
            supervisor.keep.close()
        if supervisor.spool is not None:
            await supervisor.spool.close()


async def _reload_after(hang_up: asyncio.Event, supervisor: Supervisor) -> None:
    """Reload whenever the process gets SIGHUP, until cancelled."""
    while True:
        await hang_up.wait()
        hang_up.clear()
        try:
            await supervisor.reload()
        except SteeringError:
            pass  # it is logged
        except Exception:  # a task boundary: the capture goes on, whatever is in the file
            log.exception("not reloaded")
