"""The parts of libpulse that are used, by ctypes.

The layouts are those of pulse/sample.h, channelmap.h, volume.h, def.h and introspect.h, which have
been the same since PulseAudio 1.0. PipeWire's server is used with the same library.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int,
    c_int16,
    c_size_t,
    c_uint8,
    c_uint32,
    c_ulong,
    c_void_p,
)
from typing import Any

MAX_CHANNELS = 32
AIFF = 0
S16LE = 3
INVALID = 0xFFFFFFFF

CONTEXT_READY, CONTEXT_FAILED = 4, 5
"""States of a context: from CONTEXT_FAILED on, it is of no more use."""
STREAM_READY, STREAM_FAILED = 2, 3
"""States of a stream: from STREAM_FAILED on, it is of no more use."""

NO_AUTOSPAWN = 0x0001
NO_REMAP_CHANNELS = 0x0010
DONT_MOVE, ADJUST_LATENCY = 0x0200, 0x2000


class SampleSpec(ctypes.Structure):
    _fields_ = [("format", c_int), ("rate", c_uint32), ("channels", c_uint8)]


class ChannelMap(ctypes.Structure):
    _fields_ = [("channels", c_uint8), ("map", c_int * MAX_CHANNELS)]


class Volume(ctypes.Structure):
    _fields_ = [("channels", c_uint8), ("values", c_uint32 * MAX_CHANNELS)]


class BufferAttributes(ctypes.Structure):
    _fields_ = [
        ("maxlength", c_uint32),
        ("tlength", c_uint32),
        ("prebuf", c_uint32),
        ("minreq", c_uint32),
        ("fragsize", c_uint32),
    ]


class SourceInfo(ctypes.Structure):
    """The beginning of pa_source_info."""

    _fields_ = [
        ("name", c_char_p),
        ("index", c_uint32),
        ("description", c_char_p),
        ("sample_spec", SampleSpec),
        ("channel_map", ChannelMap),
        ("owner_module", c_uint32),
        ("volume", Volume),
        ("mute", c_int),
        ("monitor_of_sink", c_uint32),
    ]


class ServerInfo(ctypes.Structure):
    """The beginning of pa_server_info."""

    _fields_ = [
        ("user_name", c_char_p),
        ("host_name", c_char_p),
        ("server_version", c_char_p),
        ("server_name", c_char_p),
        ("sample_spec", SampleSpec),
        ("default_sink_name", c_char_p),
        ("default_source_name", c_char_p),
    ]


class PollFd(ctypes.Structure):
    _fields_ = [("fd", c_int), ("events", c_int16), ("revents", c_int16)]


PollFunction = CFUNCTYPE(c_int, POINTER(PollFd), c_ulong, c_int, c_void_p)
SourceInfoFunction = CFUNCTYPE(None, c_void_p, POINTER(SourceInfo), c_int, c_void_p)
ServerInfoFunction = CFUNCTYPE(None, c_void_p, POINTER(ServerInfo), c_void_p)

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "pa_mainloop_new": (c_void_p, ()),
    "pa_mainloop_free": (None, (c_void_p,)),
    "pa_mainloop_get_api": (c_void_p, (c_void_p,)),
    "pa_mainloop_set_poll_func": (None, (c_void_p, PollFunction, c_void_p)),
    "pa_mainloop_prepare": (c_int, (c_void_p, c_int)),
    "pa_mainloop_poll": (c_int, (c_void_p,)),
    "pa_mainloop_dispatch": (c_int, (c_void_p,)),
    "pa_context_new": (c_void_p, (c_void_p, c_char_p)),
    "pa_context_connect": (c_int, (c_void_p, c_char_p, c_int, c_void_p)),
    "pa_context_disconnect": (None, (c_void_p,)),
    "pa_context_unref": (None, (c_void_p,)),
    "pa_context_errno": (c_int, (c_void_p,)),
    "pa_context_get_state": (c_int, (c_void_p,)),
    "pa_context_get_server_info": (c_void_p, (c_void_p, ServerInfoFunction, c_void_p)),
    "pa_context_get_source_info_list": (c_void_p, (c_void_p, SourceInfoFunction, c_void_p)),
    "pa_channel_map_init_extend": (c_void_p, (POINTER(ChannelMap), c_uint32, c_int)),
    "pa_operation_unref": (None, (c_void_p,)),
    "pa_strerror": (c_char_p, (c_int,)),
    "pa_stream_new": (
        c_void_p,
        (c_void_p, c_char_p, POINTER(SampleSpec), POINTER(ChannelMap)),
    ),
    "pa_stream_connect_record": (
        c_int,
        (c_void_p, c_char_p, POINTER(BufferAttributes), c_int),
    ),
    "pa_stream_get_state": (c_int, (c_void_p,)),
    "pa_stream_get_device_name": (c_char_p, (c_void_p,)),
    "pa_stream_peek": (c_int, (c_void_p, POINTER(c_void_p), POINTER(c_size_t))),
    "pa_stream_drop": (c_int, (c_void_p,)),
    "pa_stream_disconnect": (c_int, (c_void_p,)),
    "pa_stream_unref": (None, (c_void_p,)),
}


@functools.cache
def library() -> Any:
    """Return libpulse, or None if it is not installed, as on Windows and macOS."""
    try:
        pulse = ctypes.CDLL("libpulse.so.0")
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(pulse, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return pulse
