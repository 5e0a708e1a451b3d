"""Reads the metadata of an ONNX file without loading the model.

Protocol Buffers wire format: https://protobuf.dev/programming-guides/encoding/
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3 (ModelProto)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_METADATA_PROPS = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_ENTRY_BYTES = 16 * 1024 * 1024


def read_metadata(path: Path) -> dict[str, str]:
    """Read the custom metadata of the ONNX model at `path`, skipping the weights.

    Raises: ValueError if the file is not an ONNX model; OSError.
    """
    found: dict[str, str] = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() < size:
            field, wire_type = divmod(_varint(file), 8)
            if wire_type == _VARINT:
                _varint(file)
            elif wire_type == _FIXED64:
                file.seek(8, os.SEEK_CUR)
            elif wire_type == _FIXED32:
                file.seek(4, os.SEEK_CUR)
            elif wire_type == _BYTES:
                length = _varint(file)
                if file.tell() + length > size:
                    raise ValueError(f"{path} is not an ONNX model, or is truncated")
                if field == _METADATA_PROPS and length <= _MAX_ENTRY_BYTES:
                    key, value = _entry(file, file.tell() + length)
                    found[key] = value
                else:
                    file.seek(length, os.SEEK_CUR)
            else:
                raise ValueError(f"{path} is not an ONNX model")
    return found


def _entry(file: BinaryIO, end: int) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto that ends at offset `end`."""
    parts = {1: "", 2: ""}
    while file.tell() < end:
        field, wire_type = divmod(_varint(file), 8)
        if wire_type != _BYTES or field not in parts:
            raise ValueError(f"{file.name}: a metadata entry is not a key and a value")
        parts[field] = file.read(_varint(file)).decode("utf-8", "replace")
    return parts[1], parts[2]


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError(f"{file.name} is not an ONNX model, or is truncated")
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value
