"""Reports of the level of a source's audio, and of the findings about it."""

from __future__ import annotations

import logging
from typing import NamedTuple

from natterjack.telemetry.log import fields

from ..input.measure import Level
from ..input.watch import Finding, Watch
from ..sources import Block, Source
from ..succession import clock_text

log = logging.getLogger(__name__)


class Heard(NamedTuple):
    """A finding that has begun or ended, and the channel with it."""

    channel: int | None
    """Number of the channel, from 0, if each is a session; else None."""
    finding: Finding


class InputReport:
    """Watches the blocks of one source, and logs a line when a finding begins and when it ends.

    If each channel is a session, each is watched alone.
    """

    def __init__(self, source: Source, *, split: bool) -> None:
        self._source = source
        self._rate = source.format.sample_rate
        self._watches: dict[int | None, Watch]
        if split:
            mono = source.format._replace(channels=1)
            self._watches = {channel: Watch(mono) for channel in range(source.format.channels)}
        else:
            self._watches = {None: Watch(source.format)}

    def feed(self, block: Block) -> list[Heard]:
        """Watch a block. To be called with each one, in order. Returns what begins and ends."""
        heard = []
        for channel, watch in self._watches.items():
            samples = block.samples
            if channel is not None:
                samples = samples[:, channel : channel + 1]
            for finding in watch.feed(samples, block.lost_frames, block.invalid):
                heard.append(self._log(Heard(channel, finding)))
        return heard

    def finish(self) -> list[Heard]:
        """Return what can be said about a source with only little audio. To be called at its end,
        before that of its sessions."""
        return [
            self._log(Heard(channel, finding))
            for channel, watch in self._watches.items()
            for finding in watch.finish()
        ]

    def level(self, channel: int | None = None) -> Level | None:
        """Return the level over the last 10 s of audio; None before the first second.

        It is that of channel number `channel` if each is a session and it is given, else that of
        the loudest one.
        """
        if channel in self._watches:
            return self._watches[channel].level
        levels = [level for watch in self._watches.values() if (level := watch.level) is not None]
        return max(levels, key=lambda level: level.rms_dbfs, default=None)

    def findings(self, channel: int | None = None) -> list[Finding]:
        """Return the findings in force, those of channel number `channel` alone if it is given."""
        return [
            finding
            for number, watch in self._watches.items()
            for finding in watch.findings
            if channel is None or number in (None, channel)
        ]

    def _log(self, heard: Heard) -> Heard:
        channel, finding = heard
        log.log(
            logging.WARNING if finding.began else logging.INFO,
            "%s: %s",
            self._source.name if channel is None else f"{self._source.name}, channel {channel + 1}",
            finding.text,
            extra=fields(code=finding.code, since=clock_text(finding.frame / self._rate)),
        )
        return heard
