"""Check the health of the program in this container: `python healthcheck.py /healthz [PORT]`.

Exits with status 0 if it answers 200. The default port is that of the worker. The script imports
only the standard library, so that it starts within a few hundredths of a second.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 4


def main() -> int:
    """Return the exit status; print the problem to standard error."""
    given = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("WORKER_HTTP_PORT", "9464")
    port = int(given)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", sys.argv[1])
        response = connection.getresponse()
        body = response.read().decode(errors="replace").strip()
    except OSError as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)
        return 1
    if response.status != 200:
        print(f"{response.status} {body}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
