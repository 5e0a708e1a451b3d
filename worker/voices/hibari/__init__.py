"""The embedded, offline voice: Hibari, a small English model.

Importing it is cheap; the engine is loaded when the first stream opens.
"""

import os

from .provider import HibariVoice

# From release 1.29 on, onnxruntime sends events about its use to its maker, and leaves files for
# them, unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["HibariVoice"]
