"""The embedded, offline provider: sherpa-onnx with a small English model, or the user's own.

Importing it is cheap; the engine is loaded when the first stream is opened.
"""

from .provider import SherpaProvider

__all__ = ["SherpaProvider"]
