"""The embedded, offline provider: sherpa-onnx with a small English model, or a model of your own.

Importing it is cheap; the engine is loaded when the first stream opens.
"""

from .provider import SherpaProvider

__all__ = ["SherpaProvider"]
