"""The embedded, offline voice: Hibari, a small English model.

Importing it is cheap; the engine is loaded when the first stream opens.
"""

from .provider import HibariVoice

__all__ = ["HibariVoice"]
