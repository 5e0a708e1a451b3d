"""Validation of Speechmatics' StartRecognition, and the encodings of audio that it may name."""

from __future__ import annotations

from typing import Any, Final

from natterjack.audio import Encoding

from .spec import Specification

LANGUAGES: Final = frozenset(
    ("ar", "cmn", "cmn_en", "de", "en", "es", "fr", "it", "ja", "multi", "nl", "pl", "pt", "yue")
)
"""A selection of languages (our choice)."""
ENCODINGS: Final[dict[str, tuple[int, Encoding]]] = {
    "pcm_s16le": (2, "linear16"),
    "mulaw": (1, "mulaw"),
    "pcm_f32le": (4, "linear16"),
}
"""Bytes per sample, and the decoder's encoding."""
_INVALID: Final = {
    "language": "invalid_language",
    "model": "invalid_model",
    "operating_point": "invalid_model",
}


def judge(spec: Specification, content: dict[str, Any]) -> tuple[str, str] | None:
    """Return the type and reason of the Error for a StartRecognition, or None if it is valid."""
    for path, why in spec.problems(content):
        names = [str(part) for part in path]
        kind = "invalid_config"
        if "audio_format" in names[:1]:
            kind = "invalid_audio_type"
        elif len(names) > 1:
            kind = _INVALID.get(names[1], kind)
        return kind, f"{'.'.join(names)}: {why}"
    audio, config = content["audio_format"], content["transcription_config"]
    if config["language"] not in LANGUAGES:
        return "invalid_language", f"language {config['language']}"
    if audio["type"] != "raw":
        return "invalid_audio_type", "This emulator takes raw audio only"
    if config.get("diarization", "none").startswith("channel"):
        return "invalid_config", "This emulator takes one channel only"
    return None
