"""Errors of audio.

NatterjackError
├── UndecodableAudio   what a client sent is not audio that is decoded here
└── DecoderUnavailable no decoder can be started on this machine
"""

from natterjack.errors import NatterjackError


class UndecodableAudio(NatterjackError):
    """The bytes of a client are not audio that is decoded here. The message says why, in words for
    the client."""


class DecoderUnavailable(NatterjackError):
    """No decoder can be started. The client is not at fault."""
