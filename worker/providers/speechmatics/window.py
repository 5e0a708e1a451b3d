"""Limits of one stream to Speechmatics: frames in flight, and the wait before a retry.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from natterjack.plugin.errors import ProviderError, Unavailable


class Window:
    """Frames that are sent but not acknowledged.

    Speechmatics docs, "AudioAdded": the server reads at its own pace and acknowledges what it has
    read. A client that keeps sending fills the TCP buffers and may be disconnected.
    """

    def __init__(self, max_seconds: float, max_frames: int) -> None:
        self._max_seconds = max_seconds
        self._max_frames = max_frames
        self._ends: list[float] = []
        """End of each unacknowledged frame, in seconds of audio."""
        self.frames = 0
        """Number of frames sent on this connection; the server numbers them from 1."""
        self.seconds = 0.0
        """Seconds of audio sent on this connection."""
        self.acknowledged = 0.0
        """Seconds of audio that the server has read."""

    @property
    def open(self) -> bool:
        """Whether another frame may be sent."""
        return (
            len(self._ends) < self._max_frames
            and self.seconds - self.acknowledged < self._max_seconds
        )

    def sent(self, seconds: float) -> None:
        """Count a frame that is sent."""
        self.frames += 1
        self.seconds += seconds
        self._ends.append(self.seconds)

    def added(self, seq_no: int) -> bool:
        """Record that frames up to `seq_no` were read. Returns False if that frame was not sent."""
        if seq_no > self.frames:
            return False
        read = len(self._ends) - (self.frames - seq_no)
        if read > 0:
            self.acknowledged = self._ends[read - 1]
            del self._ends[:read]
        return True


class Patience:
    """The wait of a session before a retry after a full quota or a server error.

    Speechmatics docs, "Error handling": wait at least 5 to 10 s; a session of ours that has ended
    may count against the quota for a while. Times are in seconds of any one clock.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def failed(self, session_id: str, error: ProviderError, now: float) -> None:
        """Record that a stream of the session failed, or could not be opened."""
        self._until = {name: until for name, until in self._until.items() if until > now}
        if isinstance(error, Unavailable) and error.cause in ("rate_limit", "server_error"):
            self._until[session_id] = now + self._seconds

    def wait(self, session_id: str, now: float) -> float:
        """Seconds to wait before the session's next attempt."""
        return max(0.0, self._until.get(session_id, now) - now)
