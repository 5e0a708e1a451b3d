"""Containers are recognized by their first bytes."""

from __future__ import annotations

import pytest

from gateway.audio.errors import UndecodableAudio
from gateway.audio.sniff import AAC, FLAC, MATROSKA, MP3, MP4, OGG, WAV, Container, sniff

REST = bytes(16)


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\x1a\x45\xdf\xa3", MATROSKA),
        (b"OggS", OGG),
        (b"\0\0\0\x20ftypisom", MP4),
        (b"fLaC", FLAC),
        (b"ID3\4", MP3),
        (b"\xff\xfb\x90\x64", MP3),
        (b"\xff\xf3\x48\xc4", MP3),
        (b"\xff\xf1\x4c\x80\x01\x3f\xfc", AAC),
        (b"\xff\xf9\x4c\x80\x01\x3f\xfc", AAC),
        (b"RIFF\0\0\0\0WAVE", WAV),
        (b"RF64\xff\xff\xff\xffWAVE", WAV),
    ],
)
def test_first_bytes(head: bytes, container: Container) -> None:
    assert sniff(head + REST, ended=False) == container


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"\x1f\x43\xb6\x75\x01", "without its header"),
        (b'{"type":"KeepAlive"}', "JSON"),
        (b"<!DOCTYPE html>", "web page"),
        (b"RIFF\0\0\0\0AVI LIST", "does not begin like"),
        (b"\xff\xff\xff\xff", "does not begin like"),
        (b"\0\1\2\3", "does not begin like"),
    ],
)
def test_other_bytes_are_refused_with_the_reason(head: bytes, reason: str) -> None:
    with pytest.raises(UndecodableAudio, match=reason):
        sniff(head + REST, ended=False)


def test_few_bytes_decide_nothing_before_the_end() -> None:
    assert sniff(b"Og", ended=False) is None
    assert sniff(b"", ended=False) is None
    with pytest.raises(UndecodableAudio, match="does not begin like"):
        sniff(b"Og", ended=True)
    with pytest.raises(UndecodableAudio, match="not a single byte"):
        sniff(b"", ended=True)
