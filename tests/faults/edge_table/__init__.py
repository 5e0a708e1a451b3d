"""Every fault of an edge with a microphone: what was captured is transcribed or a named gap."""
