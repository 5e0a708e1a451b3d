"""Bounds of one stream to Speechmatics: frames on their way, and tries that must wait.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from natterjack.plugin.errors import ProviderError, Unavailable


class Window:
    """Frames sent and not acknowledged.

    Speechmatics docs, "AudioAdded": the server reads no faster than it likes, and acknowledges
    what it has read; who sends on regardless fills the buffers of TCP, and may be cut off.
    """

    def __init__(self, max_seconds: float, max_frames: int) -> None:
        self._max_seconds = max_seconds
        self._max_frames = max_frames
        self._ends: list[float] = []
        """Where each unacknowledged frame ends, in seconds of audio."""
        self.frames = 0
        """Sent on this connection: they are numbered from 1, and no number goes out."""
        self.seconds = 0.0
        """Sent on this connection."""
        self.acknowledged = 0.0
        """Seconds that the server has read."""

    @property
    def open(self) -> bool:
        """Whether another frame may be sent."""
        return (
            len(self._ends) < self._max_frames
            and self.seconds - self.acknowledged < self._max_seconds
        )

    def sent(self, seconds: float) -> None:
        """A frame goes out."""
        self.frames += 1
        self.seconds += seconds
        self._ends.append(self.seconds)

    def added(self, seq_no: int) -> bool:
        """Frames up to `seq_no` were read: one acknowledgement stands for all before it. False:
        no such frame was sent."""
        if seq_no > self.frames:
            return False
        read = len(self._ends) - (self.frames - seq_no)
        if read > 0:
            self.acknowledged = self._ends[read - 1]
            del self._ends[:read]
        return True


class Patience:
    """When a session may try again after a full quota or an error of the server.

    Speechmatics docs, "Error handling": wait at least 5 to 10 s then; a quota may be held by our
    own dead session for a while. Times are of any one clock, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def failed(self, session_id: str, error: ProviderError, now: float) -> None:
        """A stream of the session ended so, or could not be opened."""
        self._until = {name: until for name, until in self._until.items() if until > now}
        if isinstance(error, Unavailable) and error.cause in ("rate_limit", "server_error"):
            self._until[session_id] = now + self._seconds

    def wait(self, session_id: str, now: float) -> float:
        """Seconds to wait before the session's next try."""
        return max(0.0, self._until.get(session_id, now) - now)
