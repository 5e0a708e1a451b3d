"""Connections to NATS over WebSocket (ws:// and wss://).

nats-py's own need aiohttp, which an edge does not have, and pass each frame through a queue and a
task. These are streams of bytes like a TCP connection, on which the fast path works alike.
"""

from .connection import SCHEMES, open_websocket

__all__ = ["SCHEMES", "open_websocket"]
