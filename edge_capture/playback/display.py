"""Progress of playback for people: a live line on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from natterjack.process.terminal import plain, rewritable, size

from ..progress.display import Connecting, connection_text, logging_above
from ..sources.boot_clock import boot_time
from ..succession import clock_text
from .player import Player

_REFRESH_S = 0.25
_WORDS = {
    "playing": "playing", "starved": "waiting for more speech", "idle": "silent",
    "interrupted": "interrupted",
}  # fmt: skip


class Run(Connecting, Protocol):
    """The parts of a run that are displayed."""

    @property
    def player(self) -> Player:
        """The player of the run."""


def state_text(run: Run, now: float) -> str:
    """Describe what is played, or what prevents it."""
    player = run.player
    if player.output.waiting_for:
        return f"waiting for {player.output.waiting_for}"
    heard = player.playout.heard(now)
    state = _WORDS[heard.state] if heard else "nothing has been said"
    problem = connection_text(run)
    return f"{state} ({problem})" if problem else state


def line(run: Run, now: float) -> str:
    """Return the line."""
    player = run.player
    played = clock_text(float(player.playout.totals["played_seconds"]))
    return f"{player.key} on {player.output.name}: {state_text(run, now)}, {played} played"


async def show_playback(run: Run) -> None:
    """Show the line on standard error if that is a terminal, until cancelled or until it is closed.

    Elsewhere the log has the sessions.
    """
    if not rewritable(sys.stderr):
        return
    terminal, console = sys.stderr, Console(stderr=True)
    live = Live(console=console, auto_refresh=False, transient=True)
    # Playback goes on without its terminal.
    with contextlib.suppress(OSError), live, logging_above():
        while True:
            console.size = size(terminal)
            live.update(Text(plain(line(run, boot_time())), no_wrap=True), refresh=True)
            await asyncio.sleep(_REFRESH_S)
