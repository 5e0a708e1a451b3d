"""The command line of ffmpeg for an address, and what may be shown of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

_USER = re.compile(r"(?<=://)[^/?#\s'\"]*@")
"""Up to the last @ of the authority: passwords of cameras have unescaped ones."""
_QUERY = re.compile(r"(?<=[^\s?]\?)[^\s'\"]+")
_HIDDEN = "***"
_SHORTEST_SECRET = 4


def stream_command(
    program: str, url: str, input_options: Sequence[str], sample_rate: int, channels: int
) -> list[str]:
    """The command that writes the audio of `url` to standard output as raw linear16.

    Holes in the stream, by its timestamps, become silence, so that what follows keeps its time.
    """
    return [
        program, "-nostdin", "-hide_banner", "-nostats", "-v", "error", *input_options, "-i", url,
        "-map", "0:a:0", "-vn", "-sn", "-dn", "-af", "aresample=async=1:first_pts=0",
        "-ar", str(sample_rate), "-ac", str(channels), "-c:a", "pcm_s16le", "-f", "s16le",
        "-flush_packets", "1", "pipe:1",
    ]  # fmt: skip


def shown_url(url: str) -> str:
    """Return an address without what may be secret: user, password, query and fragment."""
    return _QUERY.sub(_HIDDEN, _USER.sub(f"{_HIDDEN}@", url)).partition("#")[0]


def redacted(text: str, url: str = "") -> str:
    """Return a message without the secrets of `url`, or of any other address in it."""
    if url:
        text = text.replace(url, shown_url(url))
        try:
            parts = urlsplit(url)
            secrets = [parts.password or "", unquote(parts.password or ""), parts.query]
            secrets += [pair.partition("=")[2] for pair in parts.query.split("&")]
        except ValueError:
            secrets = []
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, _HIDDEN)
    return _QUERY.sub(_HIDDEN, _USER.sub(f"{_HIDDEN}@", text))
