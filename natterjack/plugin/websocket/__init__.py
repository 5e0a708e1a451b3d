"""WebSocket connections for providers: aiohttp's, with all of its errors mapped to ProviderError.

A `Connector` opens connections for one provider, a `Socket` is one connection, and a
`WebSocketStream` is a ProviderStream over one. This package needs aiohttp, which
`natterjack[worker]` installs.
"""

from importlib.util import find_spec

if find_spec("aiohttp") is None:
    raise ImportError("natterjack.plugin.websocket needs aiohttp: pip install 'natterjack[worker]'")

from .connection import Closed, Socket
from .connector import Connector, ConnectRequest, HandshakeErrors
from .stream import RECEIVED, WebSocketStream

__all__ = [
    "RECEIVED",
    "Closed",
    "ConnectRequest",
    "Connector",
    "HandshakeErrors",
    "Socket",
    "WebSocketStream",
]
