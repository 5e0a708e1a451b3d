"""sherpa-onnx: loaded once per process, and used by all streams from several threads.

Several threads may use a recognizer, but only one at a time an engine stream
(https://github.com/k2-fsa/sherpa-onnx/issues/1450). All calls block; they release the interpreter
lock while they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sherpa_onnx

from natterjack.plugin.errors import PluginError

from . import models
from .segmenter import SAMPLE_RATE, WINDOW
from .tokens import TokensFile

Samples = npt.NDArray[np.float32]

_TAIL_SECONDS = 0.2
"""Silence appended before decoding, since a segment may end right after a word. Of 364 words in 18
clips, 25 were wrong without it, 21 with 0.2 s, 23 with 0.1, 0.3 or 0.4 s: too few to tune it."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Transcript of some audio."""

    text: str
    tokens: Sequence[str]
    times: Sequence[float]
    """Seconds from the start of the audio to each token; empty if the model has no times."""


class SegmentDecoder(Protocol):
    """Decodes the segments of one stream, one after another, while they grow."""

    def decode(self, samples: Samples, *, final: bool) -> Hypothesis:
        """Decode `samples`, the segment so far. A final call ends the segment."""


class Engine:
    """A loaded model: one recognizer for all threads.

    One per thread would cost 60 to 75 MB each and gain almost nothing: in the best of ten runs, two
    threads were 1.81 times as fast as one with a shared recognizer, and 1.87 times with two.
    """

    def __init__(self, files: models.ModelFiles) -> None:
        """Load and verify the model; takes 0.3 to 0.5 s for the bundled one. Raises:
        PluginError."""
        self.files = files
        self._silero, silero_sha256 = models.silero()
        for path, digest in [*files.sha256.items(), (self._silero, silero_sha256)]:
            models.verify(path, digest)
        self._tokens: TokensFile | None = None
        try:
            tokens = files.paths.get("tokens")
            if tokens is None:
                self._tokens = TokensFile(files.paths["tokenizer"])
                tokens = self._tokens.path
            self._tokens_path = str(tokens)
            self._recognizer = self._load()
        except (RuntimeError, ValueError, OSError) as error:
            # sherpa-onnx raises RuntimeError for files that it cannot load.
            self.close()
            raise PluginError(f"sherpa: cannot load {files.name}: {error}") from error

    def decoder(self) -> SegmentDecoder:
        """Create a decoder for one stream."""
        kind = _Streaming if self.files.kind == "streaming" else _Whole
        return kind(self._recognizer)

    def voice_activity(self, threshold: float) -> VoiceActivity:
        """Create a voice activity detector for one stream."""
        return VoiceActivity(str(self._silero), threshold)

    def close(self) -> None:
        """Remove this process's temporary files. Idempotent."""
        if self._tokens is not None:
            self._tokens.close()

    def _load(self) -> Any:
        paths = {role: str(path) for role, path in self.files.paths.items() if role != "tokenizer"}
        paths["tokens"] = self._tokens_path
        offline = sherpa_onnx.OfflineRecognizer
        match self.files.kind:
            case "moonshine":
                return offline.from_moonshine_v2(**paths, num_threads=1)
            case "streaming":
                return sherpa_onnx.OnlineRecognizer.from_transducer(**paths, num_threads=1)
            case "nemo":
                return offline.from_transducer(**paths, num_threads=1, model_type="nemo_transducer")
            case "transducer":
                return offline.from_transducer(**paths, num_threads=1)
            case "whisper":
                return offline.from_whisper(
                    **paths,
                    num_threads=1,
                    language=(self.files.language or "").partition("-")[0],
                    enable_token_timestamps=True,
                )


class _Whole:
    """For models that decode whole segments: each interim decodes the segment again."""

    def __init__(self, recognizer: Any) -> None:
        self._recognizer = recognizer

    def decode(self, samples: Samples, *, final: bool) -> Hypothesis:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, _with_tail(samples))
        self._recognizer.decode_stream(stream)
        result = stream.result
        return Hypothesis(result.text, result.tokens, result.timestamps)


class _Streaming:
    """For streaming models: each interim decodes only the audio since the last one."""

    def __init__(self, recognizer: Any) -> None:
        self._recognizer = recognizer
        self._stream: Any = None
        self._decoded = 0
        self._begin()

    def decode(self, samples: Samples, *, final: bool) -> Hypothesis:
        if len(samples) < self._decoded:  # the segment was split before the end of the last interim
            self._begin()
        fresh = samples[self._decoded :]
        self._decoded = len(samples)
        self._stream.accept_waveform(SAMPLE_RATE, _with_tail(fresh) if final else fresh)
        if final:
            self._stream.input_finished()
        while self._recognizer.is_ready(self._stream):
            self._recognizer.decode_stream(self._stream)
        result = self._recognizer.get_result_all(self._stream)
        if final:
            self._begin()
        return Hypothesis(result.text, result.tokens, result.timestamps)

    def _begin(self) -> None:
        self._stream = self._recognizer.create_stream()
        self._decoded = 0


class VoiceActivity:
    """Silero VAD for one stream, window by window; uses about 7 MB."""

    def __init__(self, model: str, threshold: float) -> None:
        # The segmenter handles pauses and short noises itself, and needs the result of every
        # window.
        silero = sherpa_onnx.SileroVadModelConfig(
            model=model,
            threshold=threshold,
            min_silence_duration=0.001,
            min_speech_duration=0.001,
            window_size=WINDOW,
        )
        config = sherpa_onnx.VadModelConfig(silero, sample_rate=SAMPLE_RATE, num_threads=1)
        self._model = sherpa_onnx.VadModel.create(config)
        # The model's input overlaps with the previous window.
        self._context = np.zeros(self._model.window_size() - WINDOW, np.float32)

    def voiced(self, window: Samples) -> bool:
        """Whether the next WINDOW samples are speech."""
        samples = np.concatenate((self._context, window))
        self._context = samples[len(samples) - len(self._context) :]
        return bool(self._model.is_speech(samples))


def _with_tail(samples: Samples) -> Samples:
    return np.concatenate((samples, np.zeros(round(_TAIL_SECONDS * SAMPLE_RATE), np.float32)))
