"""The form of `POST /v1/audio/transcriptions`, whose parts come in any order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import BinaryIO

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from ..parsing import parsed
from .errors import ApiError

MAX_FILE_BYTES = 512 << 20
FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
_MAX_FIELD_BYTES = 64 << 10
_MAX_PARTS = 100
_PIECE_BYTES = 256 << 10
_PAUSE_S = 30.0
"""How long nothing of the form may come."""


@dataclass
class Form:
    """The fields of a request, and the name of its file."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    name: str | None = None
    """The name of the file; None if there is no file."""

    def one(self, name: str) -> str | None:
        """The last value of a field; None if it is absent or empty."""
        return (self.fields.get(name) or [""])[-1].strip() or None

    def many(self, name: str) -> list[str]:
        """All values of a field, whose name may have brackets, and which may be a JSON list."""
        values = [*self.fields.get(name, ()), *self.fields.get(f"{name}[]", ())]
        if len(values) == 1 and values[0].startswith("["):
            try:
                values = [str(value) for value in parsed(values[0])]
            except ValueError:
                raise ApiError(f"{name} is not a list", param=name) from None
        return [value for value in values if value]

    @property
    def response_format(self) -> str:
        """Raises: ApiError."""
        form = self.one("response_format") or "json"
        if form not in FORMATS:
            raise ApiError(
                f"response_format is one of {', '.join(FORMATS)}", code="invalid_value",
                param="response_format",
            )  # fmt: skip
        return form

    @property
    def stream(self) -> bool:
        return (self.one("stream") or "").lower() in ("true", "1")

    @property
    def language(self) -> str | None:
        """The language, if there is exactly one."""
        languages = self.many("languages") or self.many("language")
        return languages[0] if len(languages) == 1 else None


async def read(request: web.Request, file: BinaryIO) -> Form:
    """Read the form, and its file to `file`. Raises: ApiError."""
    if not request.content_type.startswith("multipart/"):
        raise ApiError("the body is not multipart/form-data", status=415)
    form = Form()
    try:
        reader = await request.multipart()
        for _ in range(_MAX_PARTS):
            async with asyncio.timeout(_PAUSE_S):
                part = await reader.next()
            if part is None:
                break
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise ApiError("each part of the form has a name")
            if part.name == "file":
                form.name = part.filename or "file"
                await _store(part, file)
            else:
                form.fields.setdefault(part.name, []).append(await _text(part))
        else:
            raise ApiError(f"the form has more than {_MAX_PARTS} parts")
    except TimeoutError:
        what = f"nothing of the form has come for {_PAUSE_S:.0f} s"
        raise ApiError(what, status=408) from None
    except (ValueError, RuntimeError, AssertionError, HttpProcessingError) as error:
        raise ApiError(f"the form cannot be read: {error}") from None
    if form.name is None:
        raise ApiError("the form has no file", param="file", code="missing_required_parameter")
    return form


async def _store(part: BodyPartReader, file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    size = 0
    while data := await _piece(part, _PIECE_BYTES):
        size += len(data)
        if size > MAX_FILE_BYTES:
            raise ApiError(
                f"the file has more than {MAX_FILE_BYTES >> 20} MiB", status=413, param="file"
            )
        await asyncio.to_thread(file.write, data)
    await asyncio.to_thread(file.flush)


async def _piece(part: BodyPartReader, size: int) -> bytes:
    async with asyncio.timeout(_PAUSE_S):
        return bytes(await part.read_chunk(size))


async def _text(part: BodyPartReader) -> str:
    data = b""
    while piece := await _piece(part, _MAX_FIELD_BYTES):
        data += piece
        if len(data) > _MAX_FIELD_BYTES:
            raise ApiError(f"{part.name} is too long", status=413, param=part.name)
    return data.decode(errors="replace")
