"""sherpa-onnx: loaded once a process, used by all streams from many threads.

A recogniser may be used by several threads, an engine stream by one at a time
(https://github.com/k2-fsa/sherpa-onnx/issues/1450). All calls here block, and release the
interpreter's lock while they compute.
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
"""Silence put behind what is decoded, since a cut may come close behind a word. Of 364 words in 18
clips 25 were wrong with none, 21 with so much, 23 with 0.1, 0.3 or 0.4 s: too few to tune it by."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What some audio says."""

    text: str
    tokens: Sequence[str]
    times: Sequence[float]
    """Seconds from the start of that audio to each token; empty if the model has none."""


class SegmentDecoder(Protocol):
    """Decodes the growing audio of one segment after the other, of one stream."""

    def decode(self, samples: Samples, *, final: bool) -> Hypothesis:
        """What `samples` say: the segment from its start on. After a final one the next begins."""


class Engine:
    """A loaded model: one recogniser, which all threads share.

    One for each thread would cost 60 to 75 MB each and gain next to nothing: at their best of ten
    runs, two threads were 1.81 times as fast as one with one recogniser, 1.87 times with two.
    """

    def __init__(self, files: models.ModelFiles) -> None:
        """Load and verify; takes 0.3 to 0.5 s for the bundled model. Raises PluginError."""
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
            self._recogniser = self._load()
        except (RuntimeError, ValueError, OSError) as error:
            # RuntimeError is what sherpa-onnx raises for files that it cannot load.
            self.close()
            raise PluginError(f"sherpa: {files.name} cannot be loaded: {error}") from error

    def decoder(self) -> SegmentDecoder:
        """A decoder for one stream."""
        kind = _Streaming if self.files.kind == "streaming" else _Whole
        return kind(self._recogniser)

    def voice_activity(self, threshold: float) -> VoiceActivity:
        """A voice activity detector for one stream."""
        return VoiceActivity(str(self._silero), threshold)

    def close(self) -> None:
        """Remove what was put on disk for this process alone. Idempotent."""
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
    """For models that take a segment as a whole: each interim decodes it anew."""

    def __init__(self, recogniser: Any) -> None:
        self._recogniser = recogniser

    def decode(self, samples: Samples, *, final: bool) -> Hypothesis:
        stream = self._recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, _with_tail(samples))
        self._recogniser.decode_stream(stream)
        result = stream.result
        return Hypothesis(result.text, result.tokens, result.timestamps)


class _Streaming:
    """For models that listen on: each interim costs only the audio since the one before."""

    def __init__(self, recogniser: Any) -> None:
        self._recogniser = recogniser
        self._stream: Any = None
        self._heard = 0
        self._begin()

    def decode(self, samples: Samples, *, final: bool) -> Hypothesis:
        if len(samples) < self._heard:  # cut before the place up to which interims went
            self._begin()
        fresh = samples[self._heard :]
        self._heard = len(samples)
        self._stream.accept_waveform(SAMPLE_RATE, _with_tail(fresh) if final else fresh)
        if final:
            self._stream.input_finished()
        while self._recogniser.is_ready(self._stream):
            self._recogniser.decode_stream(self._stream)
        result = self._recogniser.get_result_all(self._stream)
        if final:
            self._begin()
        return Hypothesis(result.text, result.tokens, result.timestamps)

    def _begin(self) -> None:
        self._stream = self._recogniser.create_stream()
        self._heard = 0


class VoiceActivity:
    """Silero VAD over one stream, a window at a time; holds about 7 MB."""

    def __init__(self, model: str, threshold: float) -> None:
        # Pauses and short noises are the segmenter's to judge, which needs every single window.
        silero = sherpa_onnx.SileroVadModelConfig(
            model=model,
            threshold=threshold,
            min_silence_duration=0.001,
            min_speech_duration=0.001,
            window_size=WINDOW,
        )
        config = sherpa_onnx.VadModelConfig(silero, sample_rate=SAMPLE_RATE, num_threads=1)
        self._model = sherpa_onnx.VadModel.create(config)
        # The model hears the end of the window before once more.
        self._context = np.zeros(self._model.window_size() - WINDOW, np.float32)

    def voiced(self, window: Samples) -> bool:
        """Whether the next WINDOW samples sound like speech."""
        heard = np.concatenate((self._context, window))
        self._context = heard[len(heard) - len(self._context) :]
        return bool(self._model.is_speech(heard))


def _with_tail(samples: Samples) -> Samples:
    return np.concatenate((samples, np.zeros(round(_TAIL_SECONDS * SAMPLE_RATE), np.float32)))
