"""One run of `natterjack-edge play`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

from natterjack.broker.connection import Broker, connect
from natterjack.broker.login.attempts import Attempts
from natterjack.errors import NatterjackError, UsageError, first_error
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from ..errors import KeyTaken, OutputError, OutputLost
from ..options.playing import FILE_RATE, PlaySettings
from ..settings import ConversationSettings
from .display import show_playback
from .outputs import Output
from .player import Player
from .playout import PlayOptions

log = logging.getLogger(__name__)


def open_player(conversation: str | None, tenant: str, settings: PlaySettings) -> Player:
    """Open the output and make its player. Raises: UsageError, OutputError."""
    if not conversation:
        raise UsageError("the conversation to play is not named: --conversation NAME")
    key = SessionKey.checked(tenant, conversation, settings.speaker)
    options = PlayOptions(settings.volume, settings.buffer_ms / 1000, settings.max_age_seconds)
    return Player(key, _open_output(settings), options)


def _open_output(settings: PlaySettings) -> Output:
    if settings.file is None:
        from .outputs.loudspeaker import Loudspeaker

        return Loudspeaker(settings)
    from .outputs.paced import StdoutOutput, WavOutput

    rate = settings.sample_rate or FILE_RATE
    if str(settings.file) != "-":
        return WavOutput(settings.file, rate)
    if sys.stdout.isatty():
        raise OutputError("raw audio is not for a terminal: redirect standard output")
    return StdoutOutput(sys.stdout.fileno(), rate)


class PlayRun:
    """Plays one key until a signal, or until nobody reads the output."""

    def __init__(self, player: Player, broker: BrokerSettings, *, once: bool, shown: bool) -> None:
        """`shown`: show on a terminal what is played."""
        self.player = player
        self.broker: Broker | None = None
        self.attempts = Attempts()
        self._settings = broker
        self._once = once
        self._shown = shown
        self._outage = False

    async def run(self, stop: asyncio.Event) -> int:
        """Return the exit status. Raises: BrokerError, UsageError; KeyTaken."""
        player, code = self.player, 0
        if self._once:
            self.broker = await self._connect()
        async with asyncio.TaskGroup() as tasks:
            playing = tasks.create_task(self._play(), name="play")
            serving = tasks.create_task(self._serve(), name="serve")
            showing = [tasks.create_task(show_playback(self))] if self._shown else []
            ends = [
                playing,
                tasks.create_task(stop.wait()),
                tasks.create_task(player.holds.taken.wait()),
            ]
            await asyncio.wait((*ends, serving), return_when=asyncio.FIRST_COMPLETED)
            player.stop()
            if playing.done():
                code = int(playing.result())
            await end_tasks((*ends, serving, *showing))
        if self.broker is not None:
            await self.broker.close()
        code |= self._report_taken()
        log.info("stopped playing", extra=fields(**player.summary()))
        return code

    async def beside(self, agent: Coroutine[Any, Any, int], stop: asyncio.Event) -> int:
        """Play while `agent` captures, which goes on if playing fails. Returns the exit status.

        Raises: what `agent` raises.
        """
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            playing = tasks.create_task(self._run_or_log(ended), name="player")
            stopping = tasks.create_task(_set_after(stop, ended))
            code = await agent
            ended.set()
            stopping.cancel()
        return code | playing.result()

    async def _run_or_log(self, stop: asyncio.Event) -> int:
        code = 1
        try:
            code = await self.run(stop)
        except* NatterjackError as group:
            log.error("nothing is played: %s", first_error(group))
        return code

    async def _play(self) -> bool:
        """Play to the end. Returns whether the output failed."""
        try:
            await self.player.play()
        except OutputLost as error:
            log.error("%s", error)
            return True
        log.info("nobody reads %s any more", self.player.output.name)
        return False

    async def _connect(self) -> Broker:
        return await connect(
            self._settings,
            name="natterjack-edge",
            once=self._once,
            echo=False,  # so that it does not answer itself
            attempts=self.attempts,
        )

    async def _serve(self) -> None:
        """Connect and play what is received, until cancelled or another agent has the key."""
        while not self.player.holds.taken.is_set():
            # nats-py closes a connection permanently on some errors, such as expired credentials.
            if self.broker is None or self.broker.client.is_closed:
                self.broker = await self._connect()
                self._outage = self.attempts.failures.total() > 0
            await self.player.run(self.broker, outage=self._outage)

    def _report_taken(self) -> int:
        """Log that another agent has the key, and return 1, or 0 if none has. Raises KeyTaken if
        this one has never had it."""
        lost = self.player.holds.lost
        if lost is None:
            return 0
        words = lost.describe(datetime.now().astimezone(), "played")
        if not lost.published:
            raise KeyTaken(words)
        log.error("%s", words)
        return 1


async def _set_after(first: asyncio.Event, second: asyncio.Event) -> None:
    await first.wait()
    second.set()


def make_run(
    key: ConversationSettings,
    play: PlaySettings,
    broker: BrokerSettings,
    *,
    once: bool = False,
    shown: bool = False,
) -> PlayRun:
    """Open the output. To be called in the event loop. Raises: UsageError, OutputError."""
    player = open_player(key.conversation, key.tenant, play)
    return PlayRun(player, broker, once=once, shown=shown)
