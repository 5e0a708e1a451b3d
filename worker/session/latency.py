"""How late one provider stream's transcripts are."""

from __future__ import annotations

import time

from natterjack.plugin.provider import Final, Interim
from worker.metrics import Metrics

from .timeline import Timeline


class Latencies:
    """Observes transcripts as they are published. Labels are looked up once a stream."""

    def __init__(self, metrics: Metrics, provider: str) -> None:
        self._interim = metrics.latency.labels("interim", provider)
        self._final = metrics.latency.labels("final", provider)
        self._first = metrics.first_interim.labels(provider)
        self._after_speech = metrics.final_delay.labels(provider)
        self._opened = time.monotonic()
        self._began = False
        self._spoken_at: float | None = None
        self._late: float | None = None

    def heard(self, timeline: Timeline, event: Interim | Final) -> None:
        """To be called before the event is published: then the timeline forgets."""
        if self._began or not event.text:
            return
        self._began = True
        start = event.words[0].start if event.words else None
        at = timeline.to_position(event.start if start is None else start)
        arrived = timeline.arrived(at + 1)
        if arrived is not None:
            self._first.observe(time.monotonic() - max(arrived, self._opened))

    def heard_final(self, timeline: Timeline, event: Final) -> None:
        """As `heard`."""
        self.heard(timeline, event)
        end = event.words[-1].end if event.words else None
        self._spoken_at = None if end is None else timeline.arrived(timeline.to_position(end))

    def interim(self, latency: float | None) -> None:
        """An interim was published, so late."""
        if latency is not None:
            self._interim.observe(latency)

    def final(self, latency: float | None) -> None:
        """A final was published, so late."""
        if latency is None:
            return
        self._final.observe(latency)
        self._late = None if self._spoken_at is None else time.monotonic() - self._spoken_at

    def turn_ended(self) -> None:
        """The finals of a turn are all out."""
        if self._late is not None:
            self._after_speech.observe(self._late)
            self._late = None
