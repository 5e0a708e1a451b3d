"""Writes tokens.txt for Moonshine, whose wheel has the tokens in a format that sherpa-onnx does not
read."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from pathlib import Path

_WORD_MARK = "\u2581".encode()  # SentencePiece writes a space as U+2581


def tokens_text(tokenizer: bytes) -> bytes:
    """Convert a tokenizer.bin to the tokens.txt of sherpa-onnx for Moonshine v2: the base64 of each
    token, and its number.

    `tokenizer` is a sequence of tokens, each with a length (one byte, or two: 128 + n % 128, n //
    128) and that many bytes. Raises: ValueError if the last token is truncated.
    """
    lines: list[bytes] = []
    at = 0
    while at < len(tokenizer):
        length = tokenizer[at]
        at += 1
        if length > 127 and at < len(tokenizer):
            length += 128 * tokenizer[at] - 128
            at += 1
        token = tokenizer[at : at + length]
        if len(token) < length:
            raise ValueError("the last token is truncated")
        at += length
        lines.append(b"%b %d\n" % (base64.b64encode(token.replace(_WORD_MARK, b" ")), len(lines)))
    return b"".join(lines)


class TokensFile:
    """A tokens.txt converted from a tokenizer.bin, in the user's cache or, if that is read-only, in
    a temporary directory that `close` removes."""

    def __init__(self, tokenizer: Path) -> None:
        """Raises: OSError; ValueError if `tokenizer` is not a tokenizer.bin."""
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        content = tokens_text(tokenizer.read_bytes())
        name = f"moonshine-tokens-{hashlib.sha256(content).hexdigest()[:16]}.txt"
        try:
            self.path = _write(_cache_directory() / name, content)
        except OSError:  # a read-only file system, as in a locked-down container
            self._temporary = tempfile.TemporaryDirectory(prefix="natterjack-")
            self.path = _write(Path(self._temporary.name) / name, content)

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


def _cache_directory() -> Path:
    """https://specifications.freedesktop.org/basedir-spec/latest/"""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore relative paths.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "natterjack"


def _write(path: Path, content: bytes) -> Path:
    """Write `content` to `path` atomically, unless it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Compared in full, since the engine ends the process on a bad token file.
    if path.is_file() and path.read_bytes() == content:
        return path
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:  # includes interruption: remove the partial file
        os.unlink(temporary)
        raise
    return path
