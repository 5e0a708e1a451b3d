"""The newest error in the log of this process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class LastError(logging.Handler):
    """Keeps the text of the newest error that was logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a log record."""
        try:
            self.text = record.getMessage()[:500]
        except (TypeError, ValueError):  # its arguments do not fit
            self.text = str(record.msg)[:500]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what is logged in the block."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
