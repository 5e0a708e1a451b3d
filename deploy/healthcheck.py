"""Asks the worker in this container how it is: `python healthcheck.py /healthz`.

Exit status 0 for the answer 200. It needs nothing but Python, which starts without our packages in
a few hundredths of a second.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 4


def main() -> int:
    """The exit status; what is wrong goes to standard error."""
    port = int(os.environ.get("WORKER_HTTP_PORT", "9464"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", sys.argv[1])
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace").strip()
    except OSError as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)
        return 1
    if answer.status != 200:
        print(f"{answer.status} {said}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
