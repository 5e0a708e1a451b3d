"""Tests of all programs, with real servers, sockets and processes."""

import os

# Before NumPy is imported: its threads, which wait by spinning, would use twice the processor time
# on the long recordings that emulators decode.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
