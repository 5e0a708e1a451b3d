"""Microphones of a PulseAudio server, or of PipeWire, which speaks the same protocol.

PortAudio sees a sound server as one device (ALSA's `pulse`). This room uses the server's own client
library, so that each of its sources can be chosen by name, and several at once.
"""
