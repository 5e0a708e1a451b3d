"""Finds the voice's files. Nothing is loaded here, and `hibari` is located but not imported."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Final

from natterjack.plugin.errors import PluginError

INSTALL: Final = "run: pip install 'natterjack[local]'"
NAME: Final = "heart"
"""The voice that the wheel contains. The package downloads its others; this plugin never does."""
_SHA256: Final = "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"
# hibari-tts 0.2.1, assets/hibari.onnx

DURATIONS: Final = "/Cast_32_output_0"
"""Name of the tensor in the model that has the number of frames of each phoneme."""


def find() -> Path:
    """Return the folder with the voice's files. Raises PluginError if it is missing."""
    spec = importlib.util.find_spec("hibari")
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"hibari: the voice is not installed; {INSTALL}")
    folder = Path(spec.submodule_search_locations[0]) / "assets"
    # `hibari` on PyPI is another project than hibari-tts.
    if not (folder / "hibari.onnx").is_file():
        raise PluginError(
            f"hibari: the voice is incomplete, {folder / 'hibari.onnx'} is missing: it is part of "
            f"hibari-tts 0.2.1; {INSTALL}"
        )
    return folder


def read(folder: Path) -> bytes:
    """Return the model, which has the durations of phonemes as an output besides its own.

    Raises PluginError if the file cannot be read, or is not the expected one.
    """
    path = folder / "hibari.onnx"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PluginError(f"hibari: cannot read {path}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise PluginError(
            f"hibari: {path} is damaged or has another version (SHA-256 {digest}, expected "
            f"{_SHA256}); run: pip install --force-reinstall 'natterjack[local]'"
        )
    return content + _graph_output(DURATIONS)


def _graph_output(name: str) -> bytes:
    """A part of a model that, appended to a model, makes tensor `name` an output of its graph.

    Concatenated messages of Protocol Buffers are merged
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins): repeated fields are joined.
    Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3.
    """
    value_info = _field(1, name.encode())  # ValueInfoProto.name; the type is inferred
    return _field(7, _field(12, value_info))  # ModelProto.graph, GraphProto.output


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field with less than 128 bytes."""
    assert len(content) < 128
    return bytes((number << 3 | 2, len(content))) + content
