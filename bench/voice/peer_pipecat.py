"""pipecat's Deepgram voice under load: `python -m bench.voice.peer_pipecat` in its environment.

It follows pipecat's documentation: a worker runs a pipeline of the TTS service and a processor that
receives audio, and each utterance is a TTSSpeakFrame. It keeps the service's settings except for
the provider's address. Other features of a voice agent are disabled: RTVI, turn tracking and
metrics.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from loguru import logger  # type: ignore[import-not-found]
from pipecat.frames.frames import (  # type: ignore[import-not-found]
    Frame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
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
from pipecat.services.deepgram.tts import DeepgramTTSService  # type: ignore[import-not-found]
from pipecat.workers.runner import WorkerRunner  # type: ignore[import-not-found]

from .peer import KEY, RATE, OnAudio, Session, parse, serve


class _Receiver(FrameProcessor):  # type: ignore[misc]
    """The last processor of the pipeline, which receives audio."""

    def __init__(self, on_audio: OnAudio) -> None:
        super().__init__()
        self._on_audio = on_audio

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self._on_audio(frame.audio)
        await self.push_frame(frame, direction)


class _Session:
    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")  # type: ignore[untyped-decorator]
        async def on_started(worker: Any, frame: Any) -> None:
            self.started.set()

    async def say(self, text: str) -> None:
        await self._worker.queue_frame(TTSSpeakFrame(text, append_to_context=False))


class Pipecat:
    def __init__(self, url: str, runner: Any) -> None:
        self._url = url
        self._runner = runner

    async def open(self, on_audio: OnAudio) -> Session:
        service = DeepgramTTSService(api_key=KEY, base_url=self._url)
        worker = PipelineWorker(
            Pipeline([service, _Receiver(on_audio)]),
            params=PipelineParams(audio_out_sample_rate=RATE),
            enable_rtvi=False,
            enable_turn_tracking=False,
            idle_timeout_secs=None,
        )
        session = _Session(worker)
        await self._runner.add_workers(worker)
        await session.started.wait()
        return session


async def main() -> None:
    arguments = parse(__doc__)
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    runner = WorkerRunner(handle_sigint=False)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(runner.run(auto_end=False))
        packages = ("pipecat-ai", "deepgram-sdk", "websockets")
        await serve(arguments, Pipecat(arguments.url, runner), packages)
        await runner.cancel()
        await running


if __name__ == "__main__":
    asyncio.run(main())
