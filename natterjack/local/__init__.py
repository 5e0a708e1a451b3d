"""A whole stack on one machine: an embedded broker, the demo, `natterjack up`."""
