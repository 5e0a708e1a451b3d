"""The process that starts decoders: `python -P -m gateway.audio.server`, with a socket as its
standard input.

It has imported all that a decoder needs, so that a new decoder is a fork: 3 ms and 4 MB, where a
new interpreter takes 300 ms and 38 MB. Each message on the socket carries the socket of a stream,
and the file to decode if there is one. It ends when the gateway closes its end.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import av

from . import child


def main() -> int:
    """Start decoders until the gateway ends. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the gateway
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    av.logging.set_level(av.logging.PANIC)
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # decoders must not keep the other end open
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not data:
            return 0
        try:
            process = os.fork()
        except OSError as error:  # the gateway sees that the stream's socket is closed
            print(f"cannot start a decoder: {error}", file=sys.stderr)
            process = -1
        if process == 0:
            try:
                control.close()
                connection, *files = descriptors
                child.run(socket.socket(fileno=connection), files[0] if files else None)
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
