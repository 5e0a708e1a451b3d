"""Benchmarks of voice sessions: `python -m bench.voice`."""
