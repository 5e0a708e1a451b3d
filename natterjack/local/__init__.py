"""The complete stack on one machine: embedded broker, demo, `natterjack up`."""
