"""Log lines about findings in the audio of a source."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from natterjack.telemetry.log import fields

from .input.watch import Finding, Watch
from .sources import Block, Source
from .succession import clock_text

log = logging.getLogger(__name__)


class InputReport:
    """Watches the blocks of one source, and logs a line when a finding begins and when it ends."""

    def __init__(self, source: Source, *, split: bool) -> None:
        self._name = source.name
        self._rate = source.format.sample_rate
        self._watch = Watch(source.format, split=split)

    def feed(self, block: Block) -> None:
        """Watch a block. To be called with each one, in order."""
        self._log(self._watch.feed(block.samples, block.lost_frames, block.invalid))

    def finish(self) -> None:
        """Log what can be said about a source with only little audio. To be called at its end."""
        self._log(self._watch.finish())

    def _log(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            log.log(
                logging.WARNING if finding.began else logging.INFO,
                "%s: %s",
                self._name,
                finding.text,
                extra=fields(code=finding.code, since=clock_text(finding.frame / self._rate)),
            )
