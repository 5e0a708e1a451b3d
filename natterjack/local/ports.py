"""Whether a TCP port of this machine is free, and who has it otherwise."""

from __future__ import annotations

import json
import os
import socket
import struct

HOST = "127.0.0.1"
CONNECTION = "a connection of another program"
"""Describes who has a port that nobody listens on. A connection often ends soon."""
_WAIT_S = 2.0


def port_owner(port: int) -> str | None:
    """Describe who keeps a server from listening on `port`; None if nothing does."""
    try:
        with socket.create_connection((HOST, port), _WAIT_S) as connection:
            if connection.getsockname() != connection.getpeername():
                return _program(_greeting(connection))
            # The system gave this connection the port itself, which connected it to itself. It is
            # reset, because one that is closed keeps the port for a minute.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # nobody listens, but the port may still be in use, or forbidden
    with socket.socket() as probe:
        if os.name == "posix":  # as servers do; on Windows it means something else
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            return "the system, which lets only root use it"
        except OSError:
            return CONNECTION
    return None


def _greeting(connection: socket.socket) -> bytes:
    """The first line that a server sends by itself, if it sends one soon."""
    received = b""
    connection.settimeout(_WAIT_S)
    try:
        while b"\n" not in received and len(received) < 65_536:
            data = connection.recv(4096)
            if not data:
                break
            received += data
    except OSError:
        pass
    return received.partition(b"\n")[0]


def _program(greeting: bytes) -> str:
    """Describe a server by its greeting; a stack of ours names its server after its process."""
    if not greeting.startswith(b"INFO "):
        return "another program"
    try:
        name = str(json.loads(greeting[5:])["server_name"])
    except (ValueError, KeyError, TypeError):
        return "another NATS server"
    command, _, pid = name.rpartition("-")
    if command in ("natterjack-up", "natterjack-demo") and pid.isdecimal():
        return f"`{command.replace('-', ' ')}`, process {pid}"
    return f"the NATS server {name}"
