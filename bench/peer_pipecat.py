"""pipecat's Deepgram services under load: `python -m bench.peer_pipecat` in its environment.

It follows pipecat's documentation: a worker runs a pipeline of the STT service and a processor that
receives transcripts, and audio frames are queued to the worker. It keeps the service's settings
except for the provider's address. Other features of a voice agent are disabled: voice activity
detection, turn tracking, RTVI (events for web clients) and metrics.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from loguru import logger  # type: ignore[import-not-found]
from pipecat.frames.frames import (  # type: ignore[import-not-found]
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # type: ignore[import-not-found]
from pipecat.pipeline.worker import (  # type: ignore[import-not-found]
    PipelineParams,
    PipelineWorker,
)
from pipecat.processors.frame_processor import (  # type: ignore[import-not-found]
    FrameDirection,
    FrameProcessor,
)
from pipecat.services.deepgram.flux.stt import (  # type: ignore[import-not-found]
    DeepgramFluxSTTService,
)
from pipecat.services.deepgram.stt import DeepgramSTTService  # type: ignore[import-not-found]
from pipecat.workers.runner import WorkerRunner  # type: ignore[import-not-found]

from .peer import KEY, RATE, OnTranscript, parse, serve

_PACKAGES = ("pipecat-ai", "deepgram-sdk", "websockets")


class _Receiver(FrameProcessor):  # type: ignore[misc]
    """The last processor of the pipeline, which receives transcripts."""

    def __init__(self, on_transcript: OnTranscript) -> None:
        super().__init__()
        self._on_transcript = on_transcript

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self._on_transcript(frame.text, True)
        elif isinstance(frame, InterimTranscriptionFrame):
            self._on_transcript(frame.text, False)
        await self.push_frame(frame, direction)


class _Session:
    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.started = asyncio.Event()
        self._finished = asyncio.Event()

        @worker.event_handler("on_pipeline_started")  # type: ignore[untyped-decorator]
        async def on_started(worker: Any, frame: Any) -> None:
            self.started.set()

        @worker.event_handler("on_pipeline_finished")  # type: ignore[untyped-decorator]
        async def on_finished(worker: Any, frame: Any) -> None:
            self._finished.set()

    async def send(self, chunk: bytes) -> None:
        frame = InputAudioRawFrame(audio=chunk, sample_rate=RATE, num_channels=1)
        await self._worker.queue_frame(frame)

    async def end(self) -> None:
        await self._worker.stop_when_done()
        await self._finished.wait()


class Pipecat:
    def __init__(self, service: Callable[[], Any], runner: Any) -> None:
        self._service = service
        self._runner = runner

    async def open(self, on_transcript: OnTranscript) -> _Session:
        worker = PipelineWorker(
            Pipeline([self._service(), _Receiver(on_transcript)]),
            params=PipelineParams(audio_in_sample_rate=RATE),
            enable_rtvi=False,
            enable_turn_tracking=False,
            idle_timeout_secs=None,
        )
        session = _Session(worker)
        await self._runner.add_workers(worker)
        await session.started.wait()
        return session


async def main() -> None:
    services: dict[str, Callable[[], Any]] = {
        "deepgram": lambda: DeepgramSTTService(api_key=KEY, base_url=arguments.url),
        "deepgram-flux": lambda: DeepgramFluxSTTService(
            api_key=KEY, url=f"{arguments.url}/v2/listen"
        ),
    }
    arguments = parse(__doc__, list(services))
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    runner = WorkerRunner(handle_sigint=False)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(runner.run(auto_end=False))
        await serve(arguments, Pipecat(services[arguments.service], runner), _PACKAGES)
        await runner.cancel()
        await running


if __name__ == "__main__":
    asyncio.run(main())
