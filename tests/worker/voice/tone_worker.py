"""The worker process that speaks tone words."""

from __future__ import annotations

from tests.worker.programs import WorkerProcess


class ToneWorker(WorkerProcess):
    """A worker that has the voice `tones` of `tone_voice`, if WORKER_VOICE names it."""

    arguments = ("-m", "tests.worker.voice.tone_voice")
